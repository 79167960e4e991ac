"""From text to token ids to words."""

from captum_sig.words.grouping import (
    Grouping,
    Span,
    encoding_groups,
    feature_mask,
    joined,
    spans,
    special_ids,
    token_groups,
    word_groups,
    word_sums,
)

__all__ = [
    "Grouping",
    "Span",
    "encoding_groups",
    "feature_mask",
    "joined",
    "spans",
    "special_ids",
    "token_groups",
    "word_groups",
    "word_sums",
]
