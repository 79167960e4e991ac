"""Tutorial 7: long prompts. Which of twenty passages did the answer come from, and which words?

A small Llama has learnt to answer from passages. So we know which of them an explanation must find,
and can look whether it does, and in how few passes of the model.

Its weights are included: `python -m tests.benchmarks.train_retriever --width 96 --head-width 24
--weights tutorials/07_long_inputs.safetensors` made them, in some minutes.
"""

# %% A model that answers from what it reads

from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers

from captum_sig import TextGenerationExplainer

WEIGHTS = Path(__file__).with_name("07_long_inputs.safetensors")
with safe_open(WEIGHTS, "pt") as file:
    words = file.metadata()["words"].split()
    weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
backend = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, unk_token="<unk>", eos_token="<end>"
)
model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=96, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=8, head_dim=24, max_position_embeddings=1024, attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=1,
    )
)  # fmt: skip
model.load_state_dict(weights, strict=False)  # the head is the embedding
model.eval()

# %% A long prompt: twenty passages, each about a place of its own, and a question about one

NOTES = {
    "Oslo": "The code of Oslo is lantern 17.", "Cairo": "For Cairo the clerk wrote down piano 23.",
    "Lima": "Visitors of Lima have to say velvet 31 at the gate.",
    "Seoul": "In the old book Seoul stands beside acorn 12.",
    "Delhi": "We were told that Delhi answers to kettle 38.",
    "Porto": "On the door of Porto someone has painted falcon 20.",
    "Milan": "The guard who knows Milan asked us for zebra 15 again.",
    "Quito": "Nobody comes to Quito without the words ribbon 29 on paper.",
    "Tokyo": "The code of Tokyo is saddle 11.", "Turin": "For Turin the clerk wrote down boat 34.",
    "Lagos": "Visitors of Lagos have to say ocean 26 at the gate.",
    "Dallas": "In the old book Dallas stands beside needle 14.",
    "Kenya": "We were told that Kenya answers to jewel 37.",
    "Boston": "On the door of Boston someone has painted tiger 21.",
    "Havana": "The guard who knows Havana asked us for quilt 32 again.",
    "Peru": "Nobody comes to Peru without the words mirror 18 on paper.",
    "Geneva": "The code of Geneva is magnet 28.", "Troy": "For Troy the clerk wrote down drum 36.",
    "Athens": "Visitors of Athens have to say whistle 13 at the gate.",
    "Naples": "In the old book Naples stands beside compass 25.",
}  # fmt: skip
ASIDES = [
    "Rain fell on the roofs all night. An old man sold bread and apples there.",
    "It was a quiet day, and nobody asked why. We left early with the first train.",
    "Some say that the winter was very cold. Nothing else is known about that evening.",
    "The road there is long and full of stones. Later the same people came back on foot.",
]


def prompt_of(notes: list[str], place: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Passages with blank lines between them and the question; and where each passage stands."""
    prompt, units = "", []
    for number, note in enumerate(notes, 1):
        passage = f"Passage {number}: {ASIDES[number % 4]} {note}"
        units.append((len(prompt), len(prompt) + len(passage), f"passage {number}"))
        prompt += passage + "\n\n"
    question = f"Question: What is the code of {place}? Please answer with the code:"
    return prompt + question, units


prompt, passages = prompt_of(list(NOTES.values()), "Kenya")
explainer = TextGenerationExplainer(model, tokenizer, baseline="unk")

# %% Which passage? One row for each, as exact as for words: `units` are characters with a name

by_passage = explainer(prompt, generation_kwargs={"max_new_tokens": 2}, units=passages)
assert by_passage.target.split() == ["jewel", "37"]
assert len(by_passage.columns) == 20  # the question is outside of them, and stays
effects = by_passage.sequence_scores.abs()
assert by_passage.columns[int(effects.argmax())] == "passage 13"
assert effects.topk(2).values[1] < effects.max() / 5  # the others matter little

# Without units of one's own there are level="paragraph", "sentence", and "message" for a chat.
assert len(explainer(prompt, " jewel 37", level="paragraph").columns) == 21

# %% Which words in it? level="auto" opens the units that matter, within a budget of rows

zoomed = explainer(prompt, " jewel 37", level="auto", units=passages, budget=60)
print(zoomed.to_plain())
first = zoomed.units[0]
assert first.name == "passage 13"
inside = {node.text: node for _, node in first.walk() if node.state == "scored"}
assert {"Kenya", "jewel", "37"} <= set(inside)
assert zoomed.n_rows <= zoomed.budget < zoomed.n_rows_of_all_words / 10

# Of a unit that was not opened, the effect of the whole is known, and of its words nothing.
assert sum(unit.state == "unopened" for unit in zoomed.units) > 15

# %% A word's score is what the target's log-probability loses without it, as in a full sweep

ids = tokenizer(prompt + " jewel 37", return_tensors="pt")["input_ids"]
is_kenya = ids == tokenizer.convert_tokens_to_ids("Kenya")
at = is_kenya[0].nonzero()[0, 0]  # the first: the question has another
without = ids.clone()
without[0, at] = tokenizer.unk_token_id
with torch.no_grad():
    log_p = [model(input_ids=i).logits[0, -3:-1].log_softmax(-1) for i in (ids, without)]
lost = (log_p[0] - log_p[1])[range(2), ids[0, -2:]].sum()
assert abs(inside["Kenya"].effects[-1] - lost) < 1e-4

# %% Two passages that say the same: without one, the other is still there, so neither matters

notes = list(NOTES.values())
notes[4] = "The code of Kenya is jewel 37."  # in place of Delhi's
prompt, passages = prompt_of(notes, "Kenya")
each = explainer(prompt, " jewel 37", units=passages).sequence_scores
assert each.abs().max() < effects.max() / 4
# Zoom sees that the passages explain too little of what all of them are worth together, and puts
# each back alone, among passages without words.
zoomed = explainer(prompt, " jewel 37", level="auto", units=passages, budget=60)
assert {unit.name for unit in zoomed.units[:2]} == {"passage 5", "passage 13"}
assert all(unit.alone is not None and unit.alone[-1] > 1 for unit in zoomed.units[:2])
