"""Names that users choose from, without what they stand for: the command line lists them.

The tables beside the functions (`METHODS`, `BASELINES`, …) have exactly these keys.
"""

from __future__ import annotations

from typing import Literal

Level = Literal["word", "token"]

MethodName = Literal[
    "sig", "ig", "dig", "sequential_dig", "input_x_gradient", "gradient_shap", "deep_lift",
    "saliency", "occlusion", "shapley", "random",
]  # fmt: skip

ContextsName = Literal["input", "two_sided"]  # and "sampled4", for any number

BaselineName = Literal[
    "mask", "pad", "unk", "eos", "zero", "mean", "constant", "max_distance", "uniform", "blurred",
]  # fmt: skip

PathName = Literal["ig", "dig", "sig", "sequential_dig"]

MetricName = Literal[
    "log_odds", "comprehensiveness", "sufficiency", "aopc_comprehensiveness", "aopc_sufficiency",
    "ablation_auc",
]  # fmt: skip

AblationName = Literal["replace", "remove"]

SequentialMethodName = Literal["sig", "sequential_dig"]  # move one word at a time, in contexts
