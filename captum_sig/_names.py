"""Names that users choose from, without what they stand for: the command line lists them.

The tables beside the functions (`METHODS`, `BASELINES`, …) have exactly these keys.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Literal, get_args

# What moves as one: a token, a word, or a unit of several words; "auto": units, and the words of
# those that matter.
Level = Literal["word", "token", "sentence", "paragraph", "message", "auto"]
ResultLevel = Literal[Level, "unit"]  # "unit": spans that the caller gave
Rank = Literal["all", "words"]  # what counts for colours and lists of the strongest words
NodeState = Literal["opened", "scored", "audited", "estimated", "unopened"]
NodeLevel = Literal["text", "unit", "message", "paragraph", "sentence", "phrase", "word"]
Side = Literal["text", "text_pair"]  # of a pair of texts that a model reads together

TaskName = Literal[
    "text-classification", "zero-shot-classification", "token-classification",
    "question-answering", "fill-mask", "sentence-similarity", "text-generation",
]  # fmt: skip

CorpusTaskName = Literal[  # with one text, or one pair of texts, a row
    "text-classification", "token-classification", "question-answering", "fill-mask",
    "sentence-similarity",
]  # fmt: skip

# Of what is explained: a logit, a value that the model predicts, a similarity, a log-probability.
Unit = Literal["logit", "value", "cosine", "dot product", "nat"]

AggregationStrategy = Literal["none", "simple", "first", "average", "max"]  # tokens to entities

TextLevel = Literal["word", "token", "sentence", "paragraph"]  # of texts that are not chats
CorpusLevel = Literal[TextLevel, "auto"]
WindowLogitsName = Literal["mean", "max"]  # how the logits of a text's windows become its own

MethodName = Literal[
    "sig", "ig", "dig", "sequential_dig", "input_x_gradient", "gradient_shap", "deep_lift",
    "saliency", "occlusion", "shapley", "lrp", "lrp_deletion", "rank_path", "screen", "random",
]  # fmt: skip

Agreement = Literal["additive", "redundant", "synergistic"]
Evidence = Literal["exact", "estimated", "audited", "unopened"]

PairKind = Literal["say the same", "only together", "turns it", "independent"]

ContextsName = Literal["input", "two_sided", "auto"]  # and "sampled4", for any number

BaselineName = Literal[
    "mask", "pad", "unk", "eos", "zero", "mean", "constant", "max_distance", "uniform", "blurred",
]  # fmt: skip

PathName = Literal["ig", "dig", "sig", "sequential_dig"]

MetricName = Literal[
    "log_odds", "comprehensiveness", "sufficiency", "aopc_comprehensiveness", "aopc_sufficiency",
    "ablation_auc", "soft_nc", "soft_ns", "pi_soft_nc", "pi_soft_ns",
]  # fmt: skip

TruthMetricName = Literal[  # against words that are known to matter
    "precision_at_k", "mean_rank", "auprc", "token_f1", "iou",
]  # fmt: skip
RATIONALE_METRICS: tuple[TruthMetricName, ...] = ("auprc", "token_f1", "iou")  # as papers report

AblationName = Literal["replace", "remove", "sample"]

ShortcutName = Literal[  # planted words that decide a label
    "single_token", "token_in_context", "ordered_pair", "or", "and", "negation", "span",
]  # fmt: skip

SequentialMethodName = Literal["sig", "sequential_dig"]  # move one word at a time, in contexts

CONTEXTS_NAMES = (*get_args(ContextsName), "sampled16")
WITHOUT = (("sequential_dig", "auto"),)  # pairs that do not go together
METHODS_IN_CONTEXTS = tuple(
    f"{method}:{contexts}"
    for method in get_args(SequentialMethodName)
    for contexts in CONTEXTS_NAMES
    if (method, contexts) not in WITHOUT
)


def sampled_number(contexts: str) -> int | None:
    """Return k of the contexts "sampledk"; None for another name.

    >>> sampled_number("sampled16"), sampled_number("sampled0")
    (16, None)
    """
    digits = re.fullmatch("sampled([1-9][0-9]*)", contexts)
    return int(digits[1][:40]) if digits else None  # beyond any limit, as the number itself


def words_only(method: str, contexts: str) -> str:
    """Return the message for contexts of a method that they are not for.

    >>> words_only("sequential_dig", "auto")
    'contexts auto sample scores of words, and sequential_dig integrates gradients: use sig:auto'
    """
    return (
        f"contexts {contexts} sample scores of words, and {method} integrates gradients: use "
        f"sig:{contexts}"
    )


def unknown_name(kind: str, name: object, names: Iterable[str]) -> str:
    """Return the message for a name that is not among the known ones.

    >>> unknown_name("method", "shaply", ["sig", "shapley"])
    "method 'shaply' is unknown (did you mean 'shapley'?): use one of sig, shapley"
    """
    known = list(names)
    return f"{kind} {name!r} is unknown{suggestion(name, known)}: use one of {', '.join(known)}"


def suggestion(name: object, names: Iterable[str]) -> str:
    """Return " (did you mean …?)" with the closest name, in any case; "" if none is close."""
    by_lower_case = {known.lower(): known for known in names}
    close = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[close[0]]!r}?)" if close else ""
