"""Faithfulness of word scores: metrics, and the evaluation of methods on your own texts."""

from captum_sig.faithfulness.metrics import (
    ABLATIONS,
    BINS,
    METRICS,
    Metric,
    ablation_auc,
    ablation_curve,
    aopc_comprehensiveness,
    aopc_sufficiency,
    comprehensiveness,
    log_odds,
    log_probabilities,
    sufficiency,
)
from captum_sig.words.encoding import Sentence

__all__ = [
    "ABLATIONS",
    "BINS",
    "METRICS",
    "Metric",
    "Sentence",
    "ablation_auc",
    "ablation_curve",
    "aopc_comprehensiveness",
    "aopc_sufficiency",
    "comprehensiveness",
    "log_odds",
    "log_probabilities",
    "sufficiency",
]
