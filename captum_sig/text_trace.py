"""A traced path in strings: the sentence that a model was asked about on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_sig.asking import drawn_baseline, forward_of, generator_of
from captum_sig.attr.function import HOOKED
from captum_sig.layers import takes_single_rows_only
from captum_sig.path import Trace, named, trace
from captum_sig.words.encoding import Batch

if TYPE_CHECKING:
    from captum_sig.text import TextClassificationExplainer


@dataclass(frozen=True, eq=False)
class TextTrace:
    """The path of a method from the baseline to a text; F is the logit of the label `target`."""

    text: str
    target: str
    baseline: str
    trace: Trace
    words: tuple[str, ...]  # (P): what each path moves; the text itself where all words move
    positions: tuple[int, ...]  # of the text's words, without special tokens
    tokenizer: Any = field(repr=False)

    @property
    def one_by_one(self) -> bool:
        """Whether each path moves a word alone."""
        return named(self.trace.method).one_by_one

    def sentence(self, path: int, point: int) -> list[tuple[str, bool]]:
        """Nearest tokens of all words, as they join, and whether each is another than the input's.

        >>> from captum_sig import TextClassificationExplainer
        >>> from captum_sig.demo_model import PATH
        >>> explainer = TextClassificationExplainer.from_pretrained(PATH, baseline="pad")
        >>> explainer.trace("A fine film", n_steps=2).sentence(path=0, point=2)
        [('a', False), (' fine', False), (' film', False)]
        """
        tokens = self.trace.tokens[path, point]
        texts = self._joining(tokens[list(self.positions)])
        changed = tokens != self.trace.ids
        return list(zip(texts, changed[list(self.positions)].tolist(), strict=True))

    def nearest(self, path: int, point: int) -> str:
        """Nearest tokens of what the path moves, joined."""
        moved = self.trace.tokens[path, point, list(self.trace.words[path])]
        return "".join(self._joining(moved)).strip()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; as of `Trace`, with pieces in the place of ids.

        `nearest` has the joined tokens at every point.
        """
        found = self.trace.to_dict()
        convert = self.tokenizer.convert_ids_to_tokens
        for number, path in enumerate(found["paths"]):
            path["word"] = self.words[number]
            path["nearest"] = [self.nearest(number, k) for k in range(len(found["alpha"]))]
            path["tokens"] = [convert(row) for row in path["tokens"]]
        return {
            "text": self.text,
            "target": self.target,
            "baseline": self.baseline,
            "tokens": convert(found.pop("ids")),
            **found,
        }

    def _joining(self, tokens: Tensor) -> list[str]:
        """The strings of some tokens, each as it follows the one before."""
        pieces = self.tokenizer.convert_ids_to_tokens(tokens.tolist())
        return [_after(self.tokenizer, pieces[max(0, i - 1) : i + 1]) for i in range(len(pieces))]


def _after(tokenizer: Any, pieces: Sequence[str]) -> str:
    """What the last piece adds to the one before, if there is one."""
    before, both = (
        tokenizer.convert_tokens_to_string(list(some)).replace(" ##", "")
        for some in (pieces[:-1], pieces)
    )
    if both.startswith(before):
        return both[len(before) :]
    return tokenizer.convert_tokens_to_string(list(pieces[-1:]))  # both are parts of a character


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
