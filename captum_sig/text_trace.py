"""A traced path in strings: the sentence that a model was asked about on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from captum_sig.asking import drawn_baseline, forward_of, generator_of
from captum_sig.attr.function import HOOKED
from captum_sig.layers import takes_single_rows_only
from captum_sig.path import TextTrace, named, trace
from captum_sig.words.encoding import Batch

if TYPE_CHECKING:
    from captum_sig.text import TextClassificationExplainer


def trace_text(
    explainer: TextClassificationExplainer,
    batch: Batch,  # of one text
    chosen: int | None,
    method: str,
    n_steps: int,
) -> TextTrace:
    """Ask an explainer's model; a random baseline is drawn once.

    Args:
        explainer: the model, its labels and the baseline.
        batch: the text, encoded.
        chosen: the label, None for the predicted one.
        method: in `captum_sig.path.METHODS`.
        n_steps: as of `captum_sig.path.trace`.

    Raises:
        ValueError: if the text has no word, or as `captum_sig.path.trace`.
    """
    kind = named(method)
    (text,), (spans,), mask = batch.texts, batch.spans, batch.feature_mask[0]
    if not spans:
        raise ValueError(f"the text {text!r} has no word to move: trace another")
    forward = forward_of(explainer.model, batch)
    others = tuple(batch.others.values())
    if chosen is None:
        with HOOKED, torch.no_grad():
            chosen = int(forward(batch.ids, *others)[0].argmax())
    generator = generator_of(text, explainer.seed)
    found = trace(
        forward, explainer.layer, batch.ids, target=chosen, additional_forward_args=others,
        method=method, n_steps=n_steps, feature_mask=batch.feature_mask,
        **drawn_baseline(explainer.family, batch, [generator]),
        internal_batch_size=1 if takes_single_rows_only(explainer.model) else None,
    )  # fmt: skip
    word_of = {int(mask[span.position]): span.word for span in spans}
    in_words = torch.isin(mask, mask.new_tensor(list(word_of)))
    return TextTrace(
        text=text,
        target=explainer.labels[chosen],
        baseline=explainer.family.name,
        trace=found,
        words=tuple(
            word_of[int(mask[positions[0]])] if kind.one_by_one else text
            for positions in found.words
        ),
        positions=tuple(in_words.nonzero()[:, 0].tolist()),
        tokenizer=explainer.tokenizer,
    )
