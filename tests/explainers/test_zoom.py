"""Level "auto": units from the coarsest down, opened within a budget."""

import io
import json
import warnings
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from captum_sig import TextClassificationExplainer, WordAttribution
from captum_sig.explainers.zoom_result import ZoomAttribution, ZoomNode
from tests.long_texts import SHAPE, long, text_of
from tests.tiny_models import spread, wordpiece_tokenizer

TEXTS = [text_of(8, 12, 1), text_of(5, 20, 2), "good", text_of(2, 5, 3)]


@pytest.fixture(scope="module")
def explainer() -> TextClassificationExplainer:
    config = BertConfig(**SHAPE, num_labels=3)
    model = spread(BertForSequenceClassification(config)).double()
    return TextClassificationExplainer(model, long(wordpiece_tokenizer()))


def unit_effect(explainer: Any, text: str, node: ZoomNode, label: int) -> float:
    """F(x) − F(x without the node's characters), over ids by hand."""
    encoded = explainer.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    (offsets,) = encoded.pop("offset_mapping").tolist()
    without = encoded["input_ids"].clone()
    for position, (start, end) in enumerate(offsets):
        if end > start and node.start <= start < node.end:
            without[0, position] = explainer.tokenizer.mask_token_id
    with torch.no_grad():
        at_input, left_out = (
            explainer.model(**{**encoded, "input_ids": ids}).logits[0, label].item()
            for ids in (encoded["input_ids"], without)
        )
    return at_input - left_out


@pytest.mark.parametrize("text", TEXTS)
def test_every_node_is_exact_unless_it_says_that_it_is_not(explainer, text):
    result = explainer(text, "LABEL_1", level="auto")
    assert isinstance(result, ZoomAttribution)
    assert result.n_rows <= result.budget
    assert result.root.n_words == len(text.split())
    for node in result.nodes:
        if node.state != "estimated":
            (effect,) = node.effects
            assert effect == pytest.approx(unit_effect(explainer, text, node, 1), abs=1e-10)


BUDGETS = {"sig": None, "sig:two_sided": 90, "sig:sampled3": 200}


@pytest.mark.parametrize("method", BUDGETS)
def test_opened_words_have_the_scores_of_the_full_sweep(explainer, method):
    for text in TEXTS:
        full = explainer(text, "LABEL_1", method=method)
        words = {word.start: word for word in full.words}
        result = explainer(text, "LABEL_1", method=method, level="auto", budget=BUDGETS[method])
        flat = result.flat()
        assert isinstance(flat, WordAttribution)
        assert flat.method == full.method
        assert flat.level == "auto"
        exact = [word for word in flat.words if word.evidence in ("exact", "audited")]
        assert len(exact) >= min(8, len(words))
        for word in exact:
            same = words[word.start]
            assert word.word == same.word
            for name in ("score", "first", "last", "standard_error"):
                expected = getattr(same, name)
                assert getattr(word, name) == pytest.approx(expected, abs=1e-10)
        assert flat.max_abs_word_delta < 1e-10


def test_a_batch_is_explained_as_single_texts_are(explainer):
    together = explainer(TEXTS, level="auto")
    assert together == [explainer(text, level="auto") for text in TEXTS]
    rest = TextClassificationExplainer(explainer.model, explainer.tokenizer, level="auto")
    assert rest(TEXTS) == together


def test_a_budget_that_covers_the_full_sweep_explains_all_words(explainer):
    text = TEXTS[0]
    full = explainer(text)
    result = explainer(text, level="auto", budget=len(full.words) + 1)
    assert result.n_rows == result.n_rows_of_all_words == len(full.words) + 1
    assert [word.evidence for word in result.flat().words] == ["exact"] * len(full.words)
    assert result.flat().scores == pytest.approx(full.scores, abs=1e-10)
    assert result.audit is None
    whole = explainer(text, level="auto", budget=len(full.words) + 20)
    assert [node.level for node in whole.root.nodes] == ["paragraph"] * 8
    assert whole.flat().scores == result.flat().scores


def test_several_targets_and_baselines_share_a_tree(explainer):
    text = TEXTS[0]
    several = TextClassificationExplainer(
        explainer.model, explainer.tokenizer, baseline=["mask", "pad"]
    )
    for one in (explainer, several):
        full = one(text, "all")
        result = one(text, "all", level="auto", budget=100)
        flat, words = result.flat(), [word.start for word in full.words]
        assert result.n_rows <= 100
        assert result.target_names == ("LABEL_0", "LABEL_1", "LABEL_2")
        n_exact = 0
        for number, word in enumerate(flat.words):
            if flat.evidence[0][number] in ("exact", "audited"):
                expected = full.matrix[:, words.index(word.start)]
                torch.testing.assert_close(flat.matrix[:, number], expected, rtol=0, atol=1e-10)
                n_exact += 1
        assert n_exact >= 10


def test_flat_has_each_word_once_or_the_unit_that_it_is_in(explainer):
    for text in TEXTS:
        words = explainer(text, level="auto").flat().words
        assert " ".join(word.word for word in words).split() == text.split()
        for word in words:
            assert text[word.start : word.end] == word.word


class Planted(nn.Module):
    """Two classes by a function of which tokens are the word "good"."""

    def __init__(self, function: Any) -> None:
        """F of (R, L) values, 1 for the word."""
        super().__init__()
        self.config = BertConfig(vocab_size=64, pad_token_id=0)
        self.embedding = nn.Embedding(64, 2, dtype=torch.float64)  # others' second number moves
        self.embedding.weight.data[:, 0] = 0.0
        good = wordpiece_tokenizer().convert_tokens_to_ids("good")
        self.embedding.weight.data[good, 0] = 1.0
        self.function = function

    def get_input_embeddings(self) -> nn.Embedding:
        """Where words move."""
        return self.embedding

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        """The second label's logit is F."""
        logits = self.function(self.embedding(input_ids)[..., 0])
        return SequenceClassifierOutput(logits=torch.stack([-logits, logits], 1))


def planted(function: Any) -> TextClassificationExplainer:
    return TextClassificationExplainer(Planted(function), long(wordpiece_tokenizer()))


def with_good(lines: dict[int, int]) -> str:
    """20 lines of 15 words; on some, the word at this place is the one that counts."""
    rows = [["movie"] * 15 for _ in range(20)]
    for line, place in lines.items():
        rows[line][place] = "good"
    return "\n".join(map(" ".join, rows))


def test_one_planted_word_is_found_in_a_tenth_of_the_rows():
    explain = planted(lambda x: 3 * x.sum(1))
    result = explain(with_good({7: 4}), level="auto", budget=32)
    assert result.n_rows <= 32
    strongest = result.units[0]
    assert strongest == result.root.nodes[7]
    (word,) = [node for node in strongest.nodes if node.text == "good"]
    assert (word.state, word.effects) == ("scored", (3.0,))


def test_two_units_that_say_the_same_are_found_though_neither_has_an_effect():
    explain = planted(lambda x: 3 * x.amax(1))
    text = with_good({3: 2, 12: 9})
    result = explain(text, level="auto", budget=60)
    units = result.root.nodes
    assert all(unit.effects == (0.0,) for unit in units)
    assert [unit.alone for unit in units] == [(3.0 * (n in (3, 12)),) for n in range(20)]
    assert {unit.start for unit in result.units[:2]} == {units[3].start, units[12].start}
    both = explain(text, level="auto", budget=120, contexts="two_sided")
    assert [unit.effects for unit in both.root.nodes] == [
        (1.5 * (n in (3, 12)),) for n in range(20)
    ]


def test_two_units_that_say_the_same_are_found_beside_one_that_explains_all():
    question = 1 + 19 * 15  # the position of the last line's first word, without which F is 0
    explain = planted(lambda x: 3 * x[:, question] * x[:, :question].amax(1))
    result = explain(with_good({3: 2, 12: 9, 19: 0}), level="auto", budget=60)
    units = result.root.nodes
    assert [unit.effects for unit in units] == [(3.0 * (n == 19),) for n in range(20)]
    assert [unit.alone for unit in units[:19]] == [(3.0 * (n in (3, 12)),) for n in range(19)]
    assert units[19].alone is None
    assert {unit.start for unit in result.units[:3]} == {units[n].start for n in (3, 12, 19)}
    assert result.n_rows <= 60


def test_words_that_cancel_are_hidden_and_the_result_says_so():
    sign = torch.ones(400, dtype=torch.float64)
    sign[5 * 15 + 1 + 3] = -1  # the position of a word; [CLS] stands first
    explain = planted(lambda x: 3 * (x * sign[: x.shape[1]]).sum(1))
    text = with_good({5: 3, 8: 0}).split("\n")
    text[5] = text[5].replace("movie", "good", 1)
    result = explain("\n".join(text), level="auto", budget=45)
    hidden = result.root.nodes[5]
    assert hidden.effects == (0.0,)
    if hidden.state == "unopened":
        assert hidden.bound is not None
    assert result.units[0] == result.root.nodes[8]


def test_the_callers_units_are_the_coarsest(explainer):
    text = TEXTS[1]
    units = [(0, 30, "first"), (40, 300)]
    result = explainer(text, level="auto", units=units)
    assert [(node.name, node.level) for node in result.root.nodes] == [
        ("first", "unit"), (None, "unit"),
    ]  # fmt: skip
    outside = [word.start for word in explainer(text).words if not 0 <= word.start < 30]
    moved = {node.start for node in result.nodes if node.level == "word"}
    assert moved.isdisjoint(start for start in outside if not 40 <= start < 300)
    unit = explainer(text, units=units)
    for node, word in zip(result.root.nodes, unit.words, strict=True):
        assert node.effects == (pytest.approx(word.score, abs=1e-10),)


def test_one_unit_with_all_words_stands_below_the_text(explainer):
    text = TEXTS[0]
    result = explainer(text, level="auto", units=[(0, len(text), "all")], budget=40)
    (unit,) = result.root.nodes
    assert (unit.name, unit.level, unit.effects) == ("all", "unit", result.root.effects)
    assert all(node.effects is not None for node in result.nodes)
    named = explainer("good film", level="auto", units=[(0, 4, "a word")])
    assert [(node.name, node.state) for node in named.root.nodes] == [("a word", "scored")]


def test_texts_beyond_the_limit_are_opened_in_windows():
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_max_length = 60
    config = BertConfig(**{**SHAPE, "max_position_embeddings": 60})
    model = spread(BertForSequenceClassification(config)).double()
    explain = TextClassificationExplainer(model, tokenizer, stride=10)
    full, result = explain(TEXTS[0]), explain(TEXTS[0], level="auto", budget=60)
    scores = {word.start: word.score for word in full.words}
    exact = [word for word in result.flat().words if word.evidence in ("exact", "audited")]
    assert len(exact) > 20
    for word in exact:
        assert word.score == pytest.approx(scores[word.start], abs=1e-10)


def test_a_text_without_targets_has_none(explainer):
    result = explainer(TEXTS[0], ">0.999", level="auto")
    assert (result.target_names, result.root.effects, result.n_rows) == ((), (), 0)


def test_results_survive_json_and_are_shown(explainer):
    for target, texts in (("LABEL_0", TEXTS[1:3]), ("all", TEXTS[3:])):
        for result in explainer(texts, target, level="auto"):
            data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
            assert ZoomAttribution.from_dict(data) == result
            n_nodes = len(result.nodes)
            guessed = [[one.state == "estimated" for one in node.nodes] for node in result.nodes]
            n_lines = (
                1 + (target == "all") + n_nodes - sum(map(sum, guessed)) + sum(map(any, guessed))
            )
            assert len(str(result).splitlines()) == n_lines
            assert result.to_html().count("overflow-wrap:anywhere") >= n_lines - 2
            assert len(result.to_csv().splitlines()) >= n_nodes + 1
            assert result.to_png().startswith(b"\x89PNG")
            console = Console(width=70, record=True, file=io.StringIO())
            console.print(result)
            lines = console.export_text()
            assert all(node.text.split()[0] in lines for node in result.root.nodes)
            strongest = [one.word for one in result.strongest(3, rank="words")]
            assert len(strongest) <= 3


def test_a_text_without_words_has_a_root_without_nodes(explainer):
    result = explainer("", level="auto")
    assert result.root.nodes == ()
    assert result.flat().words == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 50}, "budget is for level 'auto'"),
        (
            {"level": "auto", "budget": 5},
            "budget=5 is too small for text 0: its 8 paragraphs and the whole take 10",
        ),
        ({"level": "auto", "budget": 0}, "budget must be"),
        (
            {"level": "auto", "method": "ig"},
            "level 'auto' measures units and words by",
        ),
        ({"level": "auto", "contexts": "auto"}, "contexts 'auto' chooses them by word"),
        ({"level": "auto", "top": 3}, "top is for words"),
        ({"level": "auto", "interactions": 3}, "interactions is for words"),
        ({"level": "auto", "smooth": 3}, "smooth"),
    ],
)
def test_what_does_not_go_together_is_an_error(explainer, options, message):
    with pytest.raises(ValueError, match=message):
        explainer(TEXTS[0], **options)


def test_no_warning_and_no_change_of_the_model(explainer):
    before = {name: value.clone() for name, value in explainer.model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer(TEXTS[0], level="auto")
    assert not any(parameter.grad is not None for parameter in explainer.model.parameters())
    for name, value in explainer.model.state_dict().items():
        assert torch.equal(value, before[name])
