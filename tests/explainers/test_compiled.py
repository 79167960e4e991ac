"""Compiled layers: the same scores, and the layers as they were where that fails."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.corpus import CorpusExplainer
from captum_sig.demo_model import PATH
from captum_sig.explainers.compiled import compile_explainer

TEXT = "The jokes are old, yet the film is charming."
FALLBACK = "runs without torch.compile"


def failing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A compiler without a C++ compiler."""

    def compiled(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no working C++ compiler")

    return compiled


def wrong(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A compiler that is not exact."""
    return lambda *args, **kwargs: 1.001 * forward(*args, **kwargs)


@pytest.fixture
def explain() -> TextClassificationExplainer:
    return TextClassificationExplainer.from_pretrained(PATH)


def test_scores_are_the_same_and_the_last_layer_stays(explain: TextClassificationExplainer) -> None:
    """Also for other texts, and for gradients."""
    texts = ["Dull!", TEXT]
    expected = [result.scores for result in explain(texts)]
    gradients = explain(TEXT, method="ig", n_steps=2).scores
    compiler = functools.partial(torch.compile, dynamic=True, backend="eager")
    compiled = compile_explainer(explain, lambda: explain(TEXT), compiler)
    layers = explain.model.bert.encoder.layer
    assert compiled.layers == list(layers[:-1])
    for result, scores in zip(explain(texts), expected, strict=True):
        assert result.scores == pytest.approx(scores, abs=1e-5)
    assert explain(TEXT, method="ig", n_steps=2).scores == gradients


@pytest.mark.parametrize("compiler", [failing, wrong])
def test_layers_run_as_before_where_compiling_fails(
    explain: TextClassificationExplainer, compiler: Callable[..., Any]
) -> None:
    """With one warning."""
    expected = explain(TEXT).scores
    with pytest.warns(UserWarning, match=FALLBACK) as caught:
        compiled = compile_explainer(explain, lambda: explain(TEXT), compiler)
    assert len(caught) == 1
    assert compiled.layers == []
    assert explain(TEXT).scores == expected
    assert all("forward" not in vars(layer) for layer in explain.model.bert.encoder.layer)


def test_an_explainer_of_the_callers_is_not_compiled(explain: TextClassificationExplainer) -> None:
    """Nor are methods that need gradients."""
    for model, method in ((explain, "sig"), (PATH, "ig")):
        with pytest.raises(ValueError, match="compile is for method 'sig'"):
            CorpusExplainer(model, method=method, compile=True)
