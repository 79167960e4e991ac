"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from captum_sig._names import AblationName, MetricName, TruthMetricName, unknown_name
from captum_sig._numbers import checked_integer
from captum_sig.faithfulness.ablations import ABLATIONS
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from captum_sig.faithfulness.metrics import METRICS


@dataclass(frozen=True)
class EvaluationConfig:
    """The settings of an evaluation, which can be resumed only with the same settings."""

    data: str
    model: str
    masked_lm: str | None
    methods: tuple[str, ...]  # as `TextClassificationExplainer` takes them, such as "sig:sampled4"
    baselines: tuple[str, ...]
    metrics: tuple[MetricName | TruthMetricName, ...]
    top_fraction: float
    level: str
    explain: str  # "predicted" or "label"
    n_steps: int
    n_draws: int
    seed: int
    ablation: AblationName | None = None  # as in `captum_sig.faithfulness`: None is each metric's

    def __post_init__(self) -> None:
        """Check the values; integers of any kind become Python's.

        Raises:
            ValueError: for an unknown metric or ablation, a repeated name, a fraction outside
                (0, 1], an unknown `explain`, or a number that is not an integer or too small.
        """
        for kind in ("methods", "baselines", "metrics"):
            names = getattr(self, kind)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{kind} must be one or several names, each once, got {names}")
        for metric in self.metrics:
            if metric not in (*METRICS, *TRUTH_METRICS):
                raise ValueError(unknown_name("metric", metric, [*METRICS, *TRUTH_METRICS]))
        if not 0 < self.top_fraction <= 1:
            raise ValueError(
                f"top_fraction, of the words, must lie in (0, 1], got {self.top_fraction}"
            )
        if self.explain not in ("predicted", "label"):
            raise ValueError(f"explain must be 'predicted' or 'label', got {self.explain!r}")
        if self.ablation not in (None, *ABLATIONS):
            raise ValueError(
                f"ablation {self.ablation!r} is unknown: use one of {', '.join(ABLATIONS)}"
            )
        for name, least in (("n_steps", 1), ("n_draws", 1), ("seed", 0)):
            number = checked_integer(name, getattr(self, name), least)
            object.__setattr__(self, name, number)
