"""What replaces a word: families of baselines, by name."""

from captum_sig.baselines.embedding import max_distance, mean, uniform, zero
from captum_sig.baselines.families import (
    BASELINES,
    TOKENS,
    Family,
    choose_token,
    constant,
    eos,
    family,
    mask,
    pad,
    replace_words,
    token_baseline,
    unk,
)
from captum_sig.baselines.masked_lm import blurred

__all__ = [
    "BASELINES",
    "TOKENS",
    "Family",
    "blurred",
    "choose_token",
    "constant",
    "eos",
    "family",
    "mask",
    "max_distance",
    "mean",
    "pad",
    "replace_words",
    "token_baseline",
    "uniform",
    "unk",
    "zero",
]
