"""The settings of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from captum_sig._names import AblationName, MetricName, TruthMetricName, unknown_name
from captum_sig._numbers import checked_integer
from captum_sig.faithfulness.ablations import ABLATIONS
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from captum_sig.faithfulness.metrics import METRICS


@dataclass(frozen=True)
class Measure:
    """A metric under one kind of deletion."""

    metric: MetricName | TruthMetricName
    ablation: AblationName | None  # None: it does not delete words
    key: str  # in the lines of `examples.jsonl`

    @property
    def kind(self) -> str | None:
        """What the tables call it: a kind of deletion, "soft", or None for no model's output."""
        return "soft" if self.ablation is None and self.metric in METRICS else self.ablation


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
    ablation: tuple[AblationName, ...] = ()  # each metric under each of them; (): under its own
    rationale_column: str | None = None  # the known words are those that people marked there

    def __post_init__(self) -> None:
        """Check the values; integers of any kind become Python's.

        Raises:
            ValueError: for an unknown metric or ablation, a repeated name, a fraction outside
                (0, 1], an unknown `explain`, samples without a language model, or a number that is
                not an integer or too small.
        """
        for kind in ("methods", "baselines", "metrics", "ablation"):
            names = getattr(self, kind)
            if isinstance(names, str):
                raise ValueError(f"{kind} must be a tuple of names, got {names!r}")
            if (not names and kind != "ablation") or len(set(names)) < len(names):
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
        for ablation in self.ablation:
            if ablation not in ABLATIONS:
                raise ValueError(unknown_name("ablation", ablation, ABLATIONS))
        if "sample" in self.ablation and self.masked_lm is None:
            raise ValueError(
                "ablation 'sample' draws from a masked language model: pass masked_lm, one that "
                "has the classifier's tokenizer"
            )
        for name, least in (("n_steps", 1), ("n_draws", 1), ("seed", 0)):
            number = checked_integer(name, getattr(self, name), least)
            object.__setattr__(self, name, number)

    @property
    def measures(self) -> list[Measure]:
        """Each metric, under each kind of deletion if it deletes words."""
        return [measure for metric in self.metrics for measure in self._measures(metric)]

    def _measures(self, metric: MetricName | TruthMetricName) -> Iterator[Measure]:
        own = METRICS[metric].own_ablation if metric in METRICS else None
        if own is None:
            yield Measure(metric, None, metric)
            return
        for ablation in self.ablation or (own,):
            key = f"{metric}_{ablation}" if len(self.ablation) > 1 else metric
            yield Measure(metric, ablation, key)
