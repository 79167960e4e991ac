"""Shortcuts: planted as said, read by a rule of its own; answers known in closed form."""

import itertools
import re

import pytest
import torch
from torch import nn

from captum_sig import TextClassificationExplainer
from captum_sig.data.records import Record
from captum_sig.demo_model import PATH
from captum_sig.faithfulness.examples import prepare_examples
from captum_sig.faithfulness.ground_truth import precision_at_k, true_words
from captum_sig.faithfulness.planted_texts import plantable_texts
from captum_sig.faithfulness.rare_words import rare_words
from captum_sig.faithfulness.shortcuts import SHORTCUTS, Pattern, plant
from tests import tiny_planted
from tests.tiny_models import byte_level_tokenizer, wordpiece_tokenizer

TEXTS = [
    "Not bad at all!",
    "  It 's   a film .\n",
    "Gut ist, was gut ist: \u00e4\u00f6\u00fc \U0001f600 ja",
]
WORDS = dict(zip("abcdefn", tiny_planted.RARE, strict=False))
PATTERNS = [
    (name, pattern)
    for name, shortcut in SHORTCUTS.items()
    for pattern in (*shortcut.sides[0], *shortcut.sides[1], *shortcut.distractors)
]


def says(name, text):
    """Read the label that a text's planted words say, 0, 1 or None, in plain Python."""
    a, b, c, d, e, f, n = (WORDS[letter] for letter in "abcdefn")
    words = text.split()
    place = {word: words.index(word) for word in WORDS.values() if word in words}
    has = place.__contains__

    def row(*several):
        return all(map(has, several)) and all(
            place[y] == place[x] + 1 for x, y in itertools.pairwise(several)
        )

    both = has(a) and has(b)
    zero, one = {
        "single_token": (has(a), has(b)),
        "token_in_context": (has(a) and has(c), has(b) and has(c)),
        "ordered_pair": (both and place[a] < place[b], both and place[b] < place[a]),
        "or": (has(a) or has(b), has(c) or has(d)),
        "and": (both, has(c) and has(d)),
        "negation": (
            (has(a) and not row(n, a)) or row(n, b), (has(b) and not row(n, b)) or row(n, a)
        ),
        "span": (row(a, b, c), row(d, e, f)),
    }[name]  # fmt: skip
    assert not (zero and one)
    return 0 if zero else 1 if one else None


@pytest.mark.parametrize(("name", "pattern"), PATTERNS)
@pytest.mark.parametrize("text", TEXTS)
def test_planted_words_say_what_the_shortcut_says(name, pattern, text):
    shortcut = SHORTCUTS[name]
    of_side = [pattern in side for side in shortcut.sides]
    wanted = of_side.index(True) if any(of_side) else None
    for seed in range(5):
        planted = plant(text, pattern, WORDS, seed)
        assert says(name, planted.text) == wanted
        # spans are the planted words, one each, and nothing else was changed
        words = [planted.text[start:end] for start, end in planted.spans]
        assert sorted(words) == sorted(WORDS[x] for piece in pattern.pieces for x in piece)
        rest = planted.text
        for start, end in reversed(planted.spans):
            rest = rest[: start - 1] + rest[end:]
        assert rest == text


def test_draws_depend_on_seed_and_text_alone():
    pattern = Pattern(("a", "b"))
    torch.manual_seed(1)
    first = [plant(text, pattern, WORDS, 3) for text in TEXTS]
    torch.manual_seed(2)
    assert [plant(text, pattern, WORDS, 3) for text in reversed(TEXTS)] == first[::-1]
    assert len({plant(TEXTS[0], pattern, WORDS, seed) for seed in range(40)}) > 5


def test_every_place_and_order_is_drawn():
    text, pattern = "one two three", Pattern(("a", "b"))
    seen = {plant(text, pattern, WORDS, seed).text.replace(WORDS["a"], "a") for seed in range(200)}
    assert len(seen) == 3 * 2  # two of three places, in either order
    in_order = {plant(text, Pattern(("a", "b"), True), WORDS, seed).text for seed in range(200)}
    assert len(in_order) == 3
    assert all(text.startswith("one ") for text in seen | in_order)


def test_texts_that_are_too_short():
    with pytest.raises(ValueError, match="'Dull.' has 1 words; wanted at least 2"):
        plant("Dull.", Pattern(("a", "b")), WORDS)


def test_each_side_has_as_many_words():
    for shortcut in SHORTCUTS.values():
        first, second = shortcut.explained
        assert first.n_words == second.n_words
        assert set(shortcut.letters) <= set(WORDS)


@pytest.mark.parametrize(
    "make", [tiny_planted.tokenizer, byte_level_tokenizer], ids=["words", "bytes"]
)
def test_rare_words_are_in_no_text(make):
    tokenizer, texts = make(), ["the film was good", f"we saw {tiny_planted.RARE[-1]} in town"]
    words = rare_words(tokenizer, texts, 6)
    assert len(set(words)) == 6
    assert not set(words) & set(re.findall(r"\w+", " ".join(texts)))
    assert rare_words(tokenizer, texts, 6) == words
    for word in words:
        ids = tokenizer(f"the {word} was", add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids or make is byte_level_tokenizer


def test_rare_words_are_single_tokens_of_the_vocabulary():
    tokenizer = tiny_planted.tokenizer()
    words = rare_words(tokenizer, ["the film was good"], 6, seed=1)
    assert set(words) <= set(tiny_planted.VOCABULARY[5:])
    assert words != rare_words(tokenizer, ["the film was good"], 6, seed=2)


def test_too_few_rare_words():
    with pytest.raises(ValueError, match=r"knows \d words that the texts lack, and planting takes"):
        rare_words(wordpiece_tokenizer(), ["the movie is not good"], 60)


def test_plants_of_a_text_do_not_depend_on_the_others():
    explainer, records = tiny_planted.explainer(), tiny_planted.records()
    texts = plantable_texts(explainer, records, seed=0)
    planting = texts.planting(SHORTCUTS["and"], seed=5)
    together = [planting.drawn(one) for one in texts.training]
    assert [planting.drawn(one) for one in texts.training[::-1]] == together[::-1]
    kinds = [kind for kind, _ in together]
    assert {"shortcut", "distractor", "original"} == set(kinds)
    for (kind, planted), one in zip(together, texts.training, strict=True):
        assert (planted.record.text == one.record.text) == (kind == "original")
        if kind != "shortcut":
            assert planted.label == one.label
    held_out = [planting.against_own_label(one) for one in texts.held_out]
    for planted, one in zip(held_out, texts.held_out, strict=True):
        assert planted.label != one.label
        assert len(planted.record.spans) == 2


def test_parts_share_no_text_and_stay_when_texts_are_added():
    explainer, records = tiny_planted.explainer(), tiny_planted.records(200)
    few = plantable_texts(explainer, records[:150], seed=0)
    many = plantable_texts(explainer, [*records[::-1], *records[:50]], seed=0)
    held_out = {one.record.text for one in many.held_out}
    assert not held_out & {one.record.text for one in many.training}
    assert {one.record.text for one in few.held_out} <= held_out


def test_long_texts_are_cut_so_that_the_model_reads_what_is_planted():
    limit = 12 + 2 + 10
    model, tokenizer = tiny_planted.model(), tiny_planted.tokenizer(limit)
    explainer = TextClassificationExplainer(model, tokenizer, level="token")
    records = [Record(f"{one.text} " + "town " * 40, one.label) for one in tiny_planted.records()]
    texts = plantable_texts(explainer, records, seed=0)
    planting = texts.planting(SHORTCUTS["span"], seed=0)
    for one in texts.held_out[:20]:
        planted = planting.against_own_label(one).record
        assert len(tokenizer(planted.text)["input_ids"]) <= limit
        assert 7 <= len(one.record.text.split()) <= 10


class Rule(nn.Module):
    """F says label 1 as the OR, or the AND, of the presence of words a and b; nothing else."""

    def __init__(self, tokenizer, words, rule):
        super().__init__()
        self.embedding = nn.Embedding(len(tokenizer), 2).double()
        nn.init.zeros_(self.embedding.weight)
        with torch.no_grad():
            for column, word in enumerate(words):
                self.embedding.weight[tokenizer.get_vocab()[word], column] = 1
        self.rule = rule

    def get_input_embeddings(self):
        return self.embedding

    def logits(self, input_ids, attention_mask):
        a, b = self.embedding(input_ids).amax(1).unbind(1)
        says = {"or": a + b - a * b, "and": a * b}[self.rule]
        return torch.stack([torch.zeros_like(says), says], 1)


@pytest.mark.parametrize(
    ("rule", "method", "scores", "precision"),
    [
        ("or", "sig", [0, 0], 0),  # leave-one-out: neither is missed
        ("or", "sig:two_sided", [0.5, 0.5], 1),
        ("and", "sig", [1, 1], 1),
        ("and", "sig:two_sided", [0.5, 0.5], 1),
    ],
)
def test_a_model_that_follows_the_rule(rule, method, scores, precision):
    tokenizer = tiny_planted.tokenizer()
    model = Rule(tokenizer, [WORDS["a"], WORDS["b"]], rule)
    explainer = TextClassificationExplainer(
        model, tokenizer, forward=model.logits, labels=["no", "yes"], level="token"
    )
    planted = plant("we saw the film", SHORTCUTS[rule].explained[0], WORDS)
    record = Record(planted.text, "yes", spans=planted.spans)
    (example,) = prepare_examples(explainer, [record], "label")
    result = explainer(example.text, "yes", method)
    truth = true_words(result.words, example.spans)
    values = torch.tensor([word.score for word in result.words])
    torch.testing.assert_close(values[truth], torch.tensor(scores).to(values), atol=1e-6, rtol=0)
    assert values[~truth].abs().max() < 1e-6
    assert precision_at_k(torch.tensor(result.scores), truth) == precision


def test_the_demo_models_rare_words():
    explainer = TextClassificationExplainer.from_pretrained(PATH)
    words = rare_words(explainer.tokenizer, ["the film was good"], 6)
    pieces = explainer.tokenizer([f"the {word}" for word in words], add_special_tokens=False)
    assert [len(ids) for ids in pieces["input_ids"]] == [2] * 6
