"""Options of the commands: those that several share, and what is many for one signature."""

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

# Of `explain`.
TEXTS = typer.Argument(help="Texts to explain; - reads one text per line from stdin.")
TARGET = typer.Option(
    help="Label to explain, name or index; default: the predicted. Or the text after the prompt; "
    "default: what the model generates."
)
CONTEXTS = typer.Option(
    help="What the others are while a word moves: input, two_sided or sampled16."
)
FORMAT = typer.Option(
    help="text, json (a line per text), html, or png (generation, one prompt); default: as "
    "--output ends."
)
TRUNCATE = typer.Option(help="Classification: cut texts beyond the model's limit, or refuse them.")
CONTRAST = typer.Option(help="Generation: explain why the target and not this text.")
MAX_NEW_TOKENS = typer.Option(
    min=1, help="Generation: most tokens where there is no target; default: 25."
)
ATTRIBUTE_TARGET = typer.Option(
    "--attribute-target", help="Generation: columns for earlier tokens too."
)
CHAT = typer.Option("--chat", help="Generation: each text is a user's message in a chat.")

# Of `corpus`.
LABEL = typer.Option(
    help="Label to explain, name or index; default: the predicted one of each text."
)
CUT = typer.Option(help="Cut texts beyond the model's limit; else they are failed rows.")
INPUTS = typer.Argument(
    help="Files (.tsv, .csv, .jsonl, .parquet), folders of them, or glob patterns in quotes."
)
TEXT_COLUMN = typer.Option(help="Default: guessed.")
ID_COLUMN = typer.Option(help="Default: id or the like if there is one, else file and row.")
BATCH_SIZE = typer.Option(help="At most so many texts in a batch; default: 32, 512 on a GPU.")
SHARD_SIZE = typer.Option(help="Most rows in a file of the output; what an interruption may cost.")
DEVICE = typer.Option(help="Where the model runs; default: a GPU if there is one.")
ENGINE = typer.Option(help="local (this process) or ray (Ray Data, here or on a cluster).")
ADDRESS = typer.Option(help="Ray: of a running cluster, such as auto; default: starts one here.")
NUM_WORKERS = typer.Option(
    help="Ray: how many models work; default: one for each GPU, or for each CPU."
)
GPUS_PER_WORKER = typer.Option(help="Ray: may be a fraction; default: 1 where there are GPUs.")
