"""Faithfulness of word scores: metrics, and the evaluation of methods on your own texts."""

from captum_sig.faithfulness.ablations import ABLATIONS
from captum_sig.faithfulness.metrics import (
    BINS,
    METRICS,
    Metric,
    ablation_auc,
    ablation_curve,
    aopc_comprehensiveness,
    aopc_sufficiency,
    comprehensiveness,
    log_odds,
    sufficiency,
)
from captum_sig.faithfulness.rows import log_probabilities
from captum_sig.faithfulness.samples import MaskedLmSamples
from captum_sig.faithfulness.soft import pi_soft_nc, pi_soft_ns, soft_nc, soft_ns
from captum_sig.words.encoding import Sentence

__all__ = [
    "ABLATIONS",
    "BINS",
    "METRICS",
    "MaskedLmSamples",
    "Metric",
    "Sentence",
    "ablation_auc",
    "ablation_curve",
    "aopc_comprehensiveness",
    "aopc_sufficiency",
    "comprehensiveness",
    "log_odds",
    "log_probabilities",
    "pi_soft_nc",
    "pi_soft_ns",
    "soft_nc",
    "soft_ns",
    "sufficiency",
]
