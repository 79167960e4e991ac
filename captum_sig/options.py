"""Options that several commands share."""

import typer

MODEL = typer.Option(help="Folder or hub name of a model; default: the demo classifier.")
METHOD = typer.Option(
    help="sig (exact word scores), sig:two_sided, sig:sampled16, ig, dig, sequential_dig, "
    "input_x_gradient, gradient_shap, deep_lift, saliency, occlusion, shapley or random."
)
BASELINE = typer.Option(
    help="What a word is replaced by: mask, pad, unk, eos, zero, mean, constant, max_distance, "
    "uniform or blurred."
)
MASKED_LM = typer.Option(
    help="Folder or hub name of the masked language model that baseline blurred asks."
)
DRAWS = typer.Option(help="How often a random baseline is drawn; scores are averaged.")
SEED = typer.Option(help="Of everything that is drawn.")
LEVEL = typer.Option(help="word or token.")
