"""The only place that imports Captum's underscored names, each with its reason.

All of them exist in captum 0.8 and 0.9 with the same meaning.
"""

from captum._utils.common import (
    _format_additional_forward_args as format_additional_forward_args,  # None, x, (x, …) → tuple
)
from captum._utils.common import (
    _format_outputs as format_outputs,  # the container that Captum's layer methods return
)
from captum._utils.common import (
    _run_forward as run_forward,  # calls forward functions with as many arguments as they take
)
from captum._utils.common import (
    _select_targets as select_targets,  # `target` in all of Captum's forms
)
from captum._utils.typing import BaselineType, ModuleOrModuleList, TargetType

__all__ = [
    "BaselineType",
    "ModuleOrModuleList",
    "TargetType",
    "format_additional_forward_args",
    "format_outputs",
    "run_forward",
    "select_targets",
]
