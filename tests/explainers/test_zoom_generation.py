"""Level "auto" for prompts: units, and the words of those that matter, by target token."""

import json
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from captum_sig import GenerationAttribution, TextGenerationExplainer
from captum_sig.attr.function import RowFunction
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import WordPaths
from captum_sig.explainers.unit_effects import UnitEffects
from captum_sig.explainers.zoom import Zoom, by_halves, key_of, zoom_in
from captum_sig.explainers.zoom_result import ZoomAttribution
from captum_sig.explainers.zooming import Tree
from captum_sig.words.grouping import Span
from captum_sig.words.inputs import TextInput
from captum_sig.words.outline import outline
from tests.tiny_language_models import VOCAB, chat_tokenizer, encoder_decoder
from tests.tiny_models import byte_level_tokenizer, spread, wordpiece_tokenizer

SHAPE = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": VOCAB - 1}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SHAPE, n_embd=16, n_layer=2, n_head=2, n_positions=900)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=900,
        )
    ),
}  # fmt: skip
TARGET = " good film"


def prompt_of(n_passages: int, n_words: int, seed: int) -> str:
    draw = random.Random(seed)
    words = ["the", "good", "movie", "is", "bad", "so"]
    return "\n".join(" ".join(draw.choices(words, k=n_words)) for _ in range(n_passages))


PROMPT = prompt_of(9, 10, 0)


@pytest.fixture(scope="module", params=MODELS)
def explainer(request) -> TextGenerationExplainer:
    model = spread(MODELS[request.param]()).double()
    return TextGenerationExplainer(model, byte_level_tokenizer(), baseline="eos")


def left_out(explain: TextGenerationExplainer, prompt: str, start: int, end: int) -> list[float]:
    """log p of each target token with the prompt − without these characters, over ids by hand.

    A line break is a word of the line before it.
    """
    if end - start > 10 and prompt[end : end + 1] == "\n":
        end += 1
    encoded = explain.tokenizer(prompt, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    target = explain.tokenizer(prompt + TARGET)["input_ids"][len(ids) :]
    inside = [
        bool(start <= a + (prompt[a] == " ") < end)
        for a, _ in encoded["offset_mapping"]
    ]  # fmt: skip
    values = []
    for changed in (False, True):
        row = [0 if changed and moves else token for token, moves in zip(ids, inside, strict=True)]
        with torch.no_grad():
            logits = explain.model(torch.tensor([row + target])).logits[0].log_softmax(-1)
        at = range(len(ids) - 1, len(ids) + len(target) - 1)
        values.append([logits[n, token].item() for n, token in zip(at, target, strict=True)])
    return [a - b for a, b in zip(*values, strict=True)]


def test_nodes_are_what_a_plain_loop_over_ids_gives(explainer):
    result = explainer(PROMPT, TARGET, level="auto", budget=60)
    assert isinstance(result, ZoomAttribution)
    assert result.n_rows <= 60
    assert [node.level for node in result.root.nodes] == ["paragraph"] * 9
    assert len(result.nodes) > 20
    for node in result.nodes:
        expected = left_out(explainer, PROMPT, node.start, node.end)
        assert node.effects == pytest.approx([*expected, sum(expected)], abs=1e-10)


@pytest.mark.parametrize("contexts", [None, "two_sided", "sampled2"])
def test_opened_words_have_the_scores_of_the_full_sweep(explainer, contexts):
    full = explainer(PROMPT, TARGET, contexts=contexts)
    result = explainer(PROMPT, TARGET, contexts=contexts, level="auto", budget=100)
    flat, starts = result.flat(), [word.start for word in full.words]
    assert isinstance(flat, GenerationAttribution)
    assert (flat.level, flat.method) == ("auto", full.method)
    assert flat.max_abs_word_delta < 1e-10
    exact = [n for n, word in enumerate(flat.words) if word.evidence in ("exact", "audited")]
    assert len(exact) >= 8
    columns = [starts.index(flat.words[n].start) for n in exact]
    for name in ("matrix", "matrix_first", "matrix_last", "standard_error"):
        mine, theirs = getattr(flat, name), getattr(full, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(
                mine[:, exact], theirs[:, columns], rtol=0, atol=1e-10, equal_nan=True
            )
    for n, column in zip(exact, columns, strict=True):
        assert flat.words[n].score == pytest.approx(full.words[column].score, abs=1e-10)


def test_several_prompts_are_explained_as_single_ones(explainer):
    prompts = [PROMPT, prompt_of(3, 4, 1)]
    together = explainer(prompts, TARGET, level="auto")
    assert together == [explainer(prompt, TARGET, level="auto") for prompt in prompts]
    short = together[1]
    assert short.flat().matrix.shape == explainer(prompts[1], TARGET).matrix.shape
    assert all(word.evidence == "exact" for word in short.flat().words)
    data = json.loads(json.dumps(together[0].to_dict(), allow_nan=False))
    assert ZoomAttribution.from_dict(data) == together[0]
    assert len(str(together[0]).splitlines()) == len(together[0].nodes) + 1
    assert together[0].to_html().count("<li>") == len(together[0].nodes) - 1
    assert together[0].to_png().startswith(b"\x89PNG")


def test_the_callers_units_keep_their_names(explainer):
    first = PROMPT.index("\n")
    second = PROMPT.index("\n", first + 1)
    units = [(0, first, "first"), (first + 1, second, "second")]
    result = explainer(PROMPT, TARGET, level="auto", units=units)
    assert [node.name for node in result.root.nodes] == ["first", "second"]
    by_unit = explainer(PROMPT, TARGET, units=units)
    for number, node in enumerate(result.root.nodes):
        expected = by_unit.matrix[:, number].tolist()
        assert node.effects == pytest.approx([*expected, sum(expected)], abs=1e-10)
    assert max(word.end for word in result.flat().words) <= second + 1


def test_contrasts_chats_and_encoders_have_trees(explainer):
    result = explainer(PROMPT, TARGET, contrast=" bad movie", level="auto", budget=40)
    full = explainer(PROMPT, TARGET, contrast=" bad movie", level="paragraph")
    assert [node.effects[-1] for node in result.root.nodes] == pytest.approx(
        [word.score for word in full.words], abs=1e-10
    )
    chat = TextGenerationExplainer(explainer.model, chat_tokenizer(), baseline="eos", level="auto")
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "good"},
                {"role": "user", "content": "so"}]  # fmt: skip
    tree = chat(messages, TARGET, budget=40)
    assert [node.name for node in tree.root.nodes] == ["user 1", "assistant", "user 2"]
    seq2seq = TextGenerationExplainer(encoder_decoder("T5"), wordpiece_tokenizer())
    prompt = prompt_of(3, 4, 2)
    words = seq2seq(prompt, TARGET)
    tree = seq2seq(prompt, TARGET, level="auto", budget=50)
    assert [word.score for word in tree.flat().words] == pytest.approx(
        [word.score for word in words.words], abs=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 50}, "budget is for level 'auto'"),
        (
            {"level": "auto", "budget": 5},
            "budget=5 is too small for the prompt: its 9 paragraphs and the whole take 11",
        ),
        ({"level": "auto", "attribute_target": True}, "leave attribute_target and attributions"),
        ({"level": "auto", "attributions": True}, "leave attribute_target and attributions"),
        ({"level": "auto", "interactions": 3}, "interactions is for words"),
        ({"level": "auto", "contexts": "auto"}, "contexts 'auto' chooses them by word"),
    ],
)
def test_what_does_not_go_together_is_an_error(explainer, options, message):
    with pytest.raises(ValueError, match=message):
        explainer(PROMPT, TARGET, **options)


class Values(RowFunction):
    """F with one value, (R, 1)."""

    def select(self, output: Tensor, example: Tensor) -> Tensor:
        """Keep the dimension."""
        return output[:, None]


def zoomed(function: Callable[[Tensor], Tensor], budget: int) -> Tree:
    """Zoom by halves into 20 passages of 15 words, by a function of which are at the input."""
    text = "\n".join(" ".join(f"w{n}" for n in range(15)) for _ in range(20))
    words, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        words.append(Span(len(words), word, start, start + len(word)))
        start += len(word)
    x = torch.ones(1, len(words), 1, dtype=torch.float64)
    paths = WordPaths.between((x,), (torch.zeros_like(x),), (torch.arange(len(words))[None],))
    row_function = Values(lambda rows, example: function(rows[0][..., 0]), None)
    units = UnitEffects(Problem(function=row_function, paths=paths), range(len(words)))
    zoom = Zoom(outline(TextInput(text), words), [[units]], budget)
    zoom_in(zoom, by_halves, torch.Generator().manual_seed(0))
    assert zoom.n_rows <= budget
    return Tree(zoom, {None: text}, words)


def test_a_planted_fact_is_found_in_a_tenth_of_the_rows_and_opened_to_its_words():
    tree = zoomed(lambda x: 2 * x[:, 100] * x[:, 102] + 0.01 * x.sum(1), budget=45)
    assert tree.zoom.n_rows <= 30 + 15
    strongest = max(tree.root.nodes, key=lambda node: node.strength)
    assert strongest == tree.root.nodes[100 // 15]
    words = {part.first: n for n, part in enumerate(tree.leaves) if tree.states[n] == "scored"}
    assert {100, 102} <= words.keys()
    for word in words:
        (effect,) = tree.zoom.effects["word", word, word + 1]
        assert effect == pytest.approx(0.01 + 2 * (word in (100, 102)), abs=1e-12)


def test_two_passages_with_the_same_fact_are_opened_though_neither_has_an_effect():
    tree = zoomed(lambda x: torch.maximum(x[:, 100] * x[:, 102], x[:, 200] * x[:, 203]), budget=120)
    nodes = tree.root.nodes
    assert all(node.effects == (0.0,) for node in nodes)
    found = sorted(range(20), key=lambda n: -nodes[n].strength)[:2]
    assert sorted(found) == [100 // 15, 200 // 15]
    alone = {
        part.first: tree.zoom.alone[key_of(part)].item()
        for part in tree.leaves
        if part.n_words == 1 and key_of(part) in tree.zoom.alone
    }
    assert {word for word, effect in alone.items() if effect} == {100, 102, 200, 203}
    assert all(alone[word] == 1.0 for word in (100, 102, 200, 203))


def test_a_fact_said_twice_in_one_passage_is_opened_too():
    tree = zoomed(lambda x: torch.maximum(x[:, 100], x[:, 103]), budget=60)
    (passage,) = [node for node in tree.root.nodes if node.effects == (1.0,)]
    assert passage.state == "opened"
    strong = {node.text for _, node in passage.walk() if node.n_words == 1 and node.strength}
    assert strong == {"w10", "w13"}
