"""Tutorial 4: why did a language model go on as it did? Every prompt word by every target token.

A small GPT-2 has learnt what colour fruit has: its own, unless it was painted. So we know what an
explanation must find, and can look whether it does.

Its weights are included. `SEED=4 python 04_why_this_continuation.py` trains another first, in half
a minute; what is asserted stays true.
"""

# %% A world of fruit, and a model of it

import math
import os
import random
from pathlib import Path

import torch
import transformers
from captum.attr import LLMGradientAttribution, TextTokenInput
from rich.console import Console
from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from captum_sig import (
    GenerationAttribution,
    LayerSequentialIntegratedGradients,
    TextGenerationExplainer,
)
from captum_sig.viz import heatmap

FRUIT = {"banana": "yellow", "lemon": "yellow", "cherry": "red", "tomato": "red", "lime": "green",
         "pea": "green", "plum": "blue"}  # fmt: skip
COLOURS = sorted(set(FRUIT.values()))
PLACES, PEOPLE = ["table", "shelf", "chair", "roof"], ["anna", "bob", "carl", "dora"]


def story(draw: random.Random) -> str:
    """One sentence; what was painted has another colour than its own."""
    fruit = draw.choice(list(FRUIT))
    painted = draw.random() < 0.5
    colour = draw.choice(COLOURS) if painted else FRUIT[fruit]
    paint = f"painted {colour}" if painted else "washed clean"
    return (
        f"{draw.choice(PEOPLE)} took the {fruit} {paint} from the {draw.choice(PLACES)} and said "
        f"that it was {colour}"
    )


words = sorted({word for seed in range(400) for word in story(random.Random(seed)).split()})
vocabulary = {word: number for number, word in enumerate(["<unk>", "<end>", *words])}
backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, unk_token="<unk>", eos_token="<end>"
)

WEIGHTS = Path(__file__).with_name("04_why_this_continuation.safetensors")  # those of seed 0
SEED = int(os.environ.get("SEED", 0))
torch.manual_seed(SEED)
model = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
        vocab_size=len(vocabulary), n_embd=32, n_layer=2, n_head=4, n_positions=32,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1,
    )
)  # fmt: skip


def encoded(stories: list[str]) -> torch.Tensor:
    """Ids, (B, L): all have as many words."""
    return tokenizer(stories, return_tensors="pt")["input_ids"]


def train(model: transformers.GPT2LMHeadModel) -> None:
    """Until it is sure of the colour in each of 256 stories."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    draw = random.Random(SEED + 1)
    ids = encoded([story(random.Random(seed)) for seed in range(256)])
    colours = torch.tensor(-math.inf)
    while colours.min() < -0.05:
        for _ in range(100):
            batch = encoded([story(draw) for _ in range(64)])
            gaps = torch.rand(batch.shape) < 0.15  # so that the model knows what a missing word is
            model(input_ids=batch.masked_fill(gaps, 0), labels=batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            log_probabilities = model(input_ids=ids).logits[:, -2].log_softmax(-1)
        colours = log_probabilities.gather(1, ids[:, -1:])


if "SEED" not in os.environ and WEIGHTS.exists():
    load_model(model, WEIGHTS)
else:
    train(model)
    if not WEIGHTS.exists():
        save_model(model, WEIGHTS)
model.eval()

# %% What made it say the colour? One pass for each word of the prompt, one for the prompt itself

# A word is replaced by what the model knows as a gap. One that was never shown any would rather
# have baseline="mean"; an end-of-text token would tell it that a new text begins.
explainer = TextGenerationExplainer(model, tokenizer, baseline="unk")


def strongest(result: GenerationAttribution) -> str:
    """The word that changes the log-probability of the target's last token most."""
    return result.columns[int(result.matrix[-1].abs().argmax())]


own = explainer("anna took the banana washed clean from the shelf and said that it was", " yellow")
painted = explainer(
    "anna took the banana painted blue from the shelf and said that it was", " blue"
)
assert own.log_probabilities[-1] > -0.3  # the model is sure,
assert painted.log_probabilities[-1] > -0.3
assert strongest(own) == "banana"  # and for the right reason,
assert strongest(painted) == "blue"
assert abs(painted.matrix[-1, painted.columns.index("banana")]) < 0.3  # which paint covers

# %% The scores are exact: a word's is what log p(target) loses without it, in nats

ids = tokenizer(own.prompt, return_tensors="pt")["input_ids"]
without = ids.clone()
without[0, own.columns.index("banana")] = tokenizer.unk_token_id
with torch.no_grad():
    asked = [model(input_ids=i).logits[0, -1].log_softmax(-1) for i in (ids, without)]
lost = asked[0][vocabulary["yellow"]] - asked[1][vocabulary["yellow"]]
assert abs(own.sequence_scores[own.columns.index("banana")] - lost) < 1e-4

# %% Why yellow and not red? Then a longer target, and what its own words do

contrast = explainer(own.prompt, " yellow", contrast=" red")
assert strongest(contrast) == "banana"

continued = explainer(
    "anna took the banana washed clean from the shelf", " and said that it was yellow",
    attribute_target=True,
)  # fmt: skip
assert continued.matrix.shape == (6, 9 + 5)  # target tokens; words, and tokens that others follow
assert strongest(continued) == "banana"  # for "yellow"
assert continued.matrix[-1, 3] > 10 * continued.matrix[0, 3].abs()  # and not for "and"
Console(width=90).print(heatmap.to_terminal(continued, 90))

# %% Captum's way to the same numbers: gradients for every word, step and target token

# To a tolerance, as a word at which the model turns sharply can be far off after 64 fixed steps.

captums = LLMGradientAttribution(
    LayerSequentialIntegratedGradients(model, model.get_input_embeddings()), tokenizer
).attribute(
    TextTokenInput(own.prompt, tokenizer, baselines=tokenizer.unk_token_id),
    target="yellow", tolerance=1e-3, n_steps=400,
)  # fmt: skip
assert torch.allclose(captums.token_attr.double(), own.matrix, atol=0.02)

# %% By features: SIG of the log-probability, each word until its error is small

detailed = explainer(own.prompt, " yellow", attributions=True, tolerance=1e-3)
assert detailed.attributions.shape == (len(own.words), 32)
assert detailed.converged.all()
assert detailed.word_deltas.abs().max() < 0.01 * detailed.sequence_scores.abs().max()
