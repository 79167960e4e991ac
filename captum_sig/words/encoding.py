"""Encode texts into padded batches of token ids, with their words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._numbers import checked_integer
from captum_sig._warnings import TruncationWarning, warn
from captum_sig.words.cutting import SPARE_TOKENS, readable_part
from captum_sig.words.grouping import (
    Span,
    encoding_groups,
    feature_mask,
    grouping_of,
    spans,
)

MAX_PADDING = 1.25  # beyond this, more rows in a pass gain less than padding costs
NO_LIMIT = 10**9  # tokenizers without a limit report a number beyond this


@dataclass(frozen=True)
class Batch:
    """Texts of similar length, padded."""

    numbers: list[int]  # places of these texts in the caller's list
    texts: list[str]
    ids: Tensor  # (B, L)
    others: dict[str, Tensor]  # the model's further inputs, such as the attention mask
    feature_mask: Tensor  # (B, L)
    spans: list[list[Span]]  # the words of each text
    dropped: list[int]  # number of tokens of each text beyond the model's limit, or fewer

    def one_by_one(self) -> Iterator[Batch]:
        """Yield each text as a batch of its own, without the padding that the others need."""
        attended = self.others.get("attention_mask", torch.ones_like(self.ids))
        for number, length in enumerate((attended != 0).sum(1).tolist()):
            row = slice(number, number + 1)
            yield Batch(
                numbers=self.numbers[row],
                texts=self.texts[row],
                ids=self.ids[row, :length],
                others={name: tensor[row, :length] for name, tensor in self.others.items()},
                feature_mask=self.feature_mask[row, :length],
                spans=self.spans[row],
                dropped=self.dropped[row],
            )


@dataclass(frozen=True)
class Sentence:
    """Token ids with the units that are ablated together, and the class to watch.

    Raises:
        ValueError: if these do not fit together.
    """

    ids: Tensor  # (L,) token ids, special tokens included, no padding
    units: Tensor  # (L,) long: equal numbers 0 … n − 1 are ablated together, −1 never
    target: int  # the class whose probability is watched
    replacement: int  # id in place of an ablated token

    def __post_init__(self) -> None:
        shapes = tuple(self.ids.shape), tuple(self.units.shape)
        if shapes[0] != shapes[1] or self.ids.dim() != 1 or len(self.ids) == 0:
            raise ValueError(f"ids and units have shapes {shapes}; wanted (L,) for both, L >= 1")
        numbers = sorted(set(self.units.tolist()) - {-1})
        if numbers != list(range(len(numbers))):
            raise ValueError(f"units must be 0, 1, … without gaps, or -1; got {numbers}")
        if self.target < 0:
            raise ValueError(f"target must be the index of a class, got {self.target}")

    @property
    def n_units(self) -> int:
        """The number of units, n."""
        return int(self.units.max()) + 1


class Encoder:
    """Encodes texts with a tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        level: "word" or "token".
        limit: maximum number of tokens that the model reads.
        multiple: length to whose multiples the model pads by itself; padding first keeps positions
            consistent.
    """

    def __init__(self, tokenizer: Any, level: str, limit: int, multiple: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.groups = grouping_of(level)
        self.limit = min(tokenizer.model_max_length, limit)
        self.multiple = multiple
        if multiple is not None:
            self.limit = max(multiple, self.limit // multiple * multiple)

    def batches(
        self,
        texts: Sequence[str],
        batch_size: int,
        *,
        truncation: bool,
        device: torch.device,
        max_tokens: int | None = None,
    ) -> Iterator[Batch]:
        """Yield the texts by length, at most `batch_size` in a batch; texts without a token alone.

        Texts share a batch if the longest is at most `MAX_PADDING` times as long as the shortest.
        They must be equally long if the tokenizer has no pad token, or pads at the left, where most
        models would number the words' positions differently.

        Args:
            texts: the texts.
            batch_size: maximum number of texts in a batch.
            truncation: whether texts beyond the limit are cut, with a warning.
            device: device of the tensors.
            max_tokens: maximum number of positions in a batch of several texts, with padding.

        Raises:
            ValueError: if a text is too long and may not be truncated, `batch_size` is not a
                positive integer, or `truncation` not a boolean.
        """
        batch_size = checked_integer("batch_size", batch_size)
        if not isinstance(truncation, bool):
            raise ValueError(f"truncation must be True or False, got {truncation!r}")
        parts = [readable_part(self.tokenizer, text, self.limit) for text in texts]
        for batch in self._batches(
            parts, batch_size, truncation=truncation, device=device, max_tokens=max_tokens
        ):
            yield replace(batch, texts=[texts[number] for number in batch.numbers])

    def _batches(
        self,
        texts: Sequence[str],
        batch_size: int,
        *,
        truncation: bool,
        device: torch.device,
        max_tokens: int | None,
    ) -> Iterator[Batch]:
        """Yield batches of texts that are tokenised whole."""
        if not texts:
            return
        encoded = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        lengths = [len(ids) for ids in encoded]
        self._check_lengths(lengths, truncation)
        pads = self.tokenizer.pad_token_id is not None and self.tokenizer.padding_side == "right"
        numbers: list[int] = []
        for number in sorted(range(len(texts)), key=lambda number: lengths[number]):
            longest = lengths[numbers[0]] * (MAX_PADDING if pads else 1) if numbers else 0
            n_positions = (len(numbers) + 1) * lengths[number]
            full = len(numbers) == batch_size or (
                max_tokens is not None and n_positions > max_tokens
            )
            if numbers and (full or lengths[number] > longest):
                yield self._encode(numbers, texts, lengths, pads, device)
                numbers = []
            numbers.append(number)
        yield self._encode(numbers, texts, lengths, pads, device)

    def _encode(
        self,
        numbers: list[int],
        all_texts: Sequence[str],
        lengths: list[int],
        pads: bool,
        device: torch.device,
    ) -> Batch:
        texts = [all_texts[number] for number in numbers]
        encoding = self.tokenizer(
            texts, padding=pads, truncation=True, max_length=min(self.limit, NO_LIMIT),
            pad_to_multiple_of=self.multiple, return_tensors="pt", verbose=False,
        )  # fmt: skip
        names = [name for name in self.tokenizer.model_input_names if name in encoding]
        tensors = {name: encoding[name].to(device) for name in names}
        ids = tensors.pop("input_ids").long()
        rows = ids.tolist()
        fast = self.tokenizer.is_fast
        groups = encoding_groups(self.tokenizer, encoding, self.groups, texts)
        return Batch(
            numbers=numbers,
            texts=texts,
            ids=ids,
            others=tensors,
            feature_mask=feature_mask(groups).to(device),
            spans=[
                spans(self.tokenizer, text, row, group, encoding[i].offsets if fast else None)
                for i, (text, row, group) in enumerate(zip(texts, rows, groups, strict=True))
            ],
            dropped=[max(0, lengths[number] - self.limit) for number in numbers],
        )

    def _check_lengths(self, lengths: list[int], truncation: bool) -> None:
        dropped = [length - self.limit for length in lengths if length > self.limit]
        if not dropped:
            return
        of_all, of_one = f"{sum(dropped)} tokens", f"at most {max(dropped)}"
        if max(dropped) >= SPARE_TOKENS:  # it may have been cut
            of_all, of_one = f"at least {of_all}", f"at least {max(dropped)}"
        message = (
            f"{len(dropped)} of {len(lengths)} texts exceed the model's {self.limit} tokens: "
            f"{of_all} ({of_one} of one text) "
        )
        if not truncation:
            raise ValueError(message + "would be dropped; shorten them or allow truncation")
        warn(message + "are dropped", TruncationWarning)


def checked_texts(texts: str | Sequence[str]) -> list[str]:
    """Turn one text or several into a list.

    Raises:
        TypeError: if a text is not a string.
        ValueError: if it contains half a surrogate pair.
    """
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a string or several, got {type(texts).__name__}")
    several = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(several):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is {type(text).__name__}; wanted a string")
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(f"text {number} is not valid Unicode; decode it as UTF-8 first")
    return several


def padding_multiple(model: nn.Module) -> int | None:
    """Return the multiple to which the model pads by itself (Longformer: its attention window)."""
    window = getattr(model.config, "attention_window", None)
    return max(window) if isinstance(window, (list, tuple)) else window


def token_limit(model: nn.Module) -> int:
    """Return the maximum number of tokens by the model's config and its position embedding."""
    positions = getattr(model.config, "max_position_embeddings", None) or NO_LIMIT
    if positions < 0:  # XLNet's way of having no limit
        return NO_LIMIT
    for module in model.modules():
        padding = getattr(getattr(module, "position_embeddings", None), "padding_idx", None)
        if padding is not None:  # RoBERTa's positions start after the padding's
            return positions - padding - 1
    return positions
