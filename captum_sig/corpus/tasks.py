"""Which explainer a task has, and the text that shows whether it works."""

from __future__ import annotations

import importlib
from typing import Any, get_args

from captum_sig._names import CorpusTaskName, unknown_name
from captum_sig.explainers.automatic import EXPLAINERS
from captum_sig.explainers.explainer import Explainer

TASKS: tuple[CorpusTaskName, ...] = get_args(CorpusTaskName)
OF_PAIRS = ("question-answering", "sentence-similarity")  # take nothing else
OF_TEXTS = ("token-classification", "fill-mask")  # take no pairs
OF_OWN_TARGETS = ("token-classification", "question-answering", "sentence-similarity")
LABELLED = "text-classification"  # its targets are labels of the whole text, not parts of it
CANARY_TEXT = "a"


def explainer_class(task: str) -> type[Explainer]:
    """Return the class that explains a task.

    Raises:
        ValueError: if no corpus can be explained for it.
    """
    known = next((name for name in TASKS if name == task), None)
    if known is None:
        raise ValueError(unknown_name("task", task, TASKS))
    module, name = EXPLAINERS[known]
    explainer: type[Explainer] = getattr(
        importlib.import_module(f"captum_sig.explainers.{module}"), name
    )
    return explainer


def check_columns(task: str, has_pairs: bool, target: Any) -> None:
    """Raise a ValueError if a task does not fit the columns of texts, or one target for all."""
    if task in OF_PAIRS and not has_pairs:
        raise ValueError(f"{task} explains pairs of texts: set pair_column to their second texts")
    if task in OF_TEXTS and has_pairs:
        raise ValueError(f"{task} reads one text at a time: leave pair_column out")
    if task in OF_OWN_TARGETS and target is not None:
        raise ValueError(f"a target of {task} belongs to one text: leave target out")


def canary(explainer: Explainer, has_pairs: bool) -> Any:
    """Return a text, or a pair, that a working explainer explains."""
    text = CANARY_TEXT
    if explainer.TASK == "fill-mask":
        text = f"{CANARY_TEXT} {explainer.tokenizer.mask_token}"
    return (text, CANARY_TEXT) if has_pairs else text
