"""The names that the command line lists are those that the library knows."""

from typing import get_args

import pytest

from captum_sig import _names, contexts
from captum_sig.baselines import BASELINES
from captum_sig.explainers.methods import METHODS
from captum_sig.explainers.windows import WINDOW_LOGITS
from captum_sig.faithfulness import METRICS
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from captum_sig.faithfulness.shortcuts import SHORTCUTS
from captum_sig.path import PATHS


@pytest.mark.parametrize(
    ("literal", "table"),
    [
        (_names.MethodName, METHODS),
        (_names.ShortcutName, SHORTCUTS),
        (_names.BaselineName, BASELINES),
        (_names.PathName, PATHS),
        (_names.MetricName, METRICS),
        (_names.TruthMetricName, TRUTH_METRICS),
        (_names.WindowLogitsName, WINDOW_LOGITS),
    ],
)
def test_literals_are_the_keys_of_the_tables(literal, table):
    assert get_args(literal) == tuple(table)


@pytest.mark.parametrize("name", [*get_args(_names.ContextsName), "sampled4"])
def test_names_of_contexts_are_known(name):
    assert contexts.named(name)(3).shape[1] == 3


@pytest.mark.filterwarnings("ignore:sequential_dig is far from the exact scores")
@pytest.mark.parametrize("method", METHODS)
def test_only_sequential_methods_take_contexts(method, demo):
    if method in get_args(_names.SequentialMethodName):
        assert demo("good", method=f"{method}:two_sided").method == f"{method}:two_sided"
    else:
        with pytest.raises(ValueError, match="contexts"):
            demo("good", method=f"{method}:two_sided")


@pytest.mark.parametrize("level", get_args(_names.Level))
def test_levels_are_known(level, demo):
    explainer = type(demo)(demo.model, demo.tokenizer, level=level)
    if level == "message":
        with pytest.raises(ValueError, match="is for chats"):
            explainer("good film")
    else:
        assert len(explainer("good film").words) == (2 if level in ("word", "token", "auto") else 1)
