"""What passes have shown of a model: rows ahead of what is read of them, with the same results."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_sig import TextClassificationExplainer
from tests.tiny_models import tiny, wordpiece_tokenizer

TEXTS = ["the movie is not good", "a gorgeous mess, unbelievable!", "bad", "bad, bad movies"]
FAMILIES = ["bert", "roberta", "albert", "distilbert", "gpt2", "llama"]


def explainer(name: str = "bert", is_plain: bool = False) -> TextClassificationExplainer:
    """Of a tiny model in float64; a plain one takes each text's own pass, and all positions."""
    baseline = "mask" if name not in ("gpt2", "llama") else "unk"
    explain = TextClassificationExplainer(
        tiny(name, torch.float64).model, wordpiece_tokenizer(), baseline=baseline
    )
    if is_plain:
        explain.facts.embeds_ids = False
        explain.facts.read_positions.why_not = "it is not wanted"
    return explain


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("target", "options"),
    [(None, {}), ("all", {}), (1, {"interactions": 3}), (None, {"contexts": "two_sided"}),
     (">0.1", {"internal_batch_size": 2})],
)  # fmt: skip
def test_results_are_those_of_plain_passes(name: str, target: Any, options: dict[str, Any]) -> None:
    """One text at a time, and together."""
    plain, ahead = explainer(name, is_plain=True), explainer(name)
    for texts in (TEXTS[1:2], TEXTS):
        for one, other in zip(
            plain(texts, target, **options), ahead(texts, target, **options), strict=True
        ):
            assert one.label == other.label
            assert one.probability == pytest.approx(other.probability, abs=1e-10)
            if target in ("all", ">0.1"):
                torch.testing.assert_close(one.matrix, other.matrix, rtol=0, atol=1e-10)
                continue
            assert one.scores == pytest.approx(other.scores, abs=1e-10)
            pairs = [[pair.value for pair in of.interactions or ()] for of in (one, other)]
            assert pairs[0] == pytest.approx(pairs[1], abs=1e-10)
    assert ahead.facts.embeds_ids
    assert ahead.facts.read_positions.name is not None


def test_a_text_takes_one_pass() -> None:
    """With its rows, once the model is known; now and then the last row alone again."""
    explain, passes = explainer(), []
    explain.model.register_forward_pre_hook(
        lambda *call: passes.append(len(call[2]["input_ids"])), with_kwargs=True
    )
    explain(TEXTS[0])
    passes.clear()
    results = [explain(TEXTS[0]) for _ in range(4)]
    n_rows = len(results[0].words) + 1
    assert passes == [n_rows, 1, n_rows, n_rows, 1, n_rows]  # calls 2 and 4 are checked
    assert all(result == results[0] for result in results)


def test_the_first_result_is_the_same_as_later_ones() -> None:
    """What is learnt from a text does not show in its scores."""
    explain = explainer()
    assert explain(TEXTS[1]) == explain(TEXTS[1])


@pytest.mark.filterwarnings("ignore:nothing differs")
@pytest.mark.parametrize("texts", [["[MASK]", "good"], ["", "movie"], ["[MASK]"]])
def test_texts_with_nothing_that_moves_take_their_own_pass(texts: list[str]) -> None:
    """Alone and among others."""
    explain, plain = explainer(), explainer(is_plain=True)
    for found, expected in zip(explain(texts), plain(texts), strict=True):
        assert found.scores == pytest.approx(expected.scores, abs=1e-10)
        assert found.probability == pytest.approx(expected.probability, abs=1e-10)


class NanMean(nn.Module):
    """A pooler that ignores NaN, and so does not show that positions are missing."""

    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.dense, self.activation = pooler.dense, pooler.activation

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool all positions that are there."""
        return self.activation(self.dense(hidden.nanmean(1)))


def centre(module: nn.Module, args: Any, output: Any) -> Any:
    """Subtract the mean over positions: what a cut layer sees is its own mean."""
    first = output[0] if isinstance(output, tuple) else output
    changed = first - first.mean(1, keepdim=True)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


CHANGES = {
    "hook on the last layer": lambda bert: bert.encoder.layer[-1].register_forward_hook(centre),
    "hook on its output": lambda bert: bert.encoder.layer[-1].output.register_forward_hook(centre),
    "hook on the attention": lambda bert: bert.encoder.layer[-1].attention.register_forward_hook(
        centre
    ),
    "another pooler": lambda bert: setattr(bert, "pooler", NanMean(bert.pooler)),
    "another forward": lambda bert: setattr(bert.pooler, "forward", NanMean(bert.pooler).forward),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_known_is_forgotten_where_the_model_changes(change: str) -> None:
    """By a user's hook or module, between two calls of one explainer, and back."""
    explain = explainer()
    before = explain(TEXTS[0], "all").matrix
    assert explain.facts.read_positions.name == "first"
    handle = CHANGES[change](explain.model.bert)
    result = explain(TEXTS[0], "all").matrix
    new = TextClassificationExplainer(explain.model, explain.tokenizer)(TEXTS[0], "all").matrix
    torch.testing.assert_close(result, new, rtol=0, atol=1e-12)
    plain = TextClassificationExplainer(explain.model, explain.tokenizer)
    plain.facts.embeds_ids, plain.facts.read_positions.why_not = False, "it is not wanted"
    torch.testing.assert_close(result, plain(TEXTS[0], "all").matrix, rtol=0, atol=1e-10)
    assert not torch.allclose(result, before, rtol=0, atol=1e-3)
    if handle is not None:
        handle.remove()
        after = explain(TEXTS[0], "all").matrix
        torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
