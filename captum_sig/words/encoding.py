"""Encode texts into padded batches of token ids, with their words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captum_sig._numbers import checked_integer
from captum_sig._warnings import TruncationWarning, warn
from captum_sig.words.cutting import SPARE_TOKENS, readable_part
from captum_sig.words.given_units import has_units, join_units
from captum_sig.words.grouping import (
    Grouping,
    Offsets,
    Span,
    by_side,
    encoding_groups,
    feature_mask,
    grouping_of,
    joined_offsets,
    spans,
    token_groups,
    within,
    word_groups,
)
from captum_sig.words.inputs import TextInput
from captum_sig.words.slow_pairs import spans_by_side, token_sides
from captum_sig.words.tokenize import tokenize

MAX_PADDING = 1.25  # beyond this, more rows in a pass gain less than padding costs
NO_LIMIT = 10**9  # tokenizers without a limit report a number beyond this

WITHOUT_OFFSETS = (
    "a slow tokenizer keeps no offsets, so a text's words cannot be distinguished from those of a "
    "chat's template, or of a prompt: use a fast tokenizer, or pass the text that the model reads"
)

UNITS_WITHOUT_OFFSETS = (
    "a slow tokenizer keeps no offsets, so it is not known which tokens are of a sentence or unit: "
    "use a fast tokenizer, or level 'word'"
)

# Which text of a pair is cut if both are too long together: the longer, or always the same.
Truncation = Literal["longest_first", "only_first", "only_second"]


@dataclass(frozen=True)
class Batch:
    """Texts of similar length, or pairs of texts, padded."""

    numbers: list[int]  # places of these texts in the caller's list
    inputs: list[TextInput]
    ids: Tensor  # (B, L)
    others: dict[str, Tensor]  # what the tokenizer makes besides, such as the attention mask
    feature_mask: Tensor  # (B, L)
    spans: list[list[Span]]  # the words of each text that move, at the encoder's level
    words_at: list[list[Span | None]]  # the word that each token belongs to, at level "word"
    held: Tensor | None  # (B, L): whether a token is of a word that does not move; None: of none
    dropped: list[int]  # number of tokens of each text beyond the model's limit, or fewer
    offsets: list[Offsets] | None  # of each token in `TextInput.joined`; None if not kept
    extras: dict[str, Tensor]  # what the caller passes besides, (B, …)

    @property
    def texts(self) -> list[str]:
        """The texts, the first ones of pairs."""
        return [one.text for one in self.inputs]

    @property
    def further_inputs(self) -> dict[str, Tensor]:
        """The model's inputs besides the ids, by name."""
        return {**self.others, **self.extras}

    def one_by_one(self) -> Iterator[Batch]:
        """Yield each text as a batch of its own, without the padding that the others need."""
        attended = self.others.get("attention_mask", torch.ones_like(self.ids))
        for number, length in enumerate((attended != 0).sum(1).tolist()):
            row = slice(number, number + 1)
            yield Batch(
                numbers=self.numbers[row],
                inputs=self.inputs[row],
                ids=self.ids[row, :length],
                others={name: tensor[row, :length] for name, tensor in self.others.items()},
                feature_mask=self.feature_mask[row, :length],
                spans=self.spans[row],
                words_at=[self.words_at[number][:length]],
                held=None if self.held is None else self.held[row, :length],
                dropped=self.dropped[row],
                offsets=None if self.offsets is None else [self.offsets[number][:length]],
                extras={name: tensor[row] for name, tensor in self.extras.items()},
            )


@dataclass(frozen=True)
class Sentence:
    """Token ids with the units that are ablated together, and the class to watch.

    `inputs` are what the model reads besides the ids, by name, a number for each of them: token
    types, which tell the texts of a pair apart, and the attention mask.

    Raises:
        ValueError: if these do not fit together.
    """

    ids: Tensor  # (L,) token ids, special tokens included, no padding
    units: Tensor  # (L,) long: equal numbers 0 … n − 1 are ablated together, −1 never
    target: int  # the class whose probability is watched
    replacement: int  # id in place of an ablated token
    inputs: Mapping[str, Tensor] = field(default_factory=dict)  # (L,) integers each

    def __post_init__(self) -> None:
        for name, tensor in self.inputs.items():
            if tensor.shape != self.ids.shape:
                got = f"shape {tuple(tensor.shape)}"
                raise ValueError(f"{name} has {got}; wanted {tuple(self.ids.shape)} as the ids")
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
        level: what moves as one, unless a text has its own: "word", "token", or a unit's.
        limit: maximum number of tokens that the model reads.
        multiple: length to whose multiples the model pads by itself; padding first keeps positions
            consistent.
        pair_truncation: which text of a pair is cut.

    `is_windowed` says that the model reads texts beyond the limit in windows: they are not cut, and
    share no batch with shorter ones.
    """

    def __init__(
        self,
        tokenizer: Any,
        level: str,
        limit: int,
        multiple: int | None = None,
        pair_truncation: Truncation = "longest_first",
    ) -> None:
        self.tokenizer = tokenizer
        self.pair_truncation = pair_truncation
        grouping_of(level)  # which checks it
        self.level = level
        self.is_windowed = False
        self.limit = min(tokenizer.model_max_length, limit)
        self.limit_of = limit_of(tokenizer, limit)
        self.multiple = multiple
        if multiple is not None:
            self.limit = max(multiple, self.limit // multiple * multiple)

    def batches(
        self,
        inputs: Sequence[TextInput],
        batch_size: int,
        *,
        truncation: bool,
        device: torch.device,
        max_tokens: int | None = None,
        pad_below: int | None = None,
    ) -> Iterator[Batch]:
        """Yield the texts by length, at most `batch_size` in a batch; texts without a token alone.

        Texts share a batch if the longest is at most `MAX_PADDING` times as long as the shortest.
        They must be equally long if the tokenizer has no pad token, or pads at the left, where most
        models would number the words' positions differently. Pairs share no batch with texts alone,
        nor do texts of different kinds.

        Args:
            inputs: texts, or pairs.
            batch_size: maximum number of texts in a batch.
            truncation: whether texts beyond the limit are cut, with a warning.
            device: device of the tensors.
            max_tokens: maximum number of positions in a batch of several texts, with padding.
            pad_below: no text of another length joins a batch whose rows, one for each of a text's
                tokens, have as many tokens; None pads as many texts as fit.

        Raises:
            ValueError: if a text is too long and may not be truncated, `batch_size` is not a
                positive integer, or `truncation` not a boolean; or if words are only in parts of a
                text, and the tokenizer keeps no offsets.
        """
        batch_size = checked_integer("batch_size", batch_size)
        if not isinstance(truncation, bool):
            raise ValueError(f"truncation must be True or False, got {truncation!r}")
        if not self.tokenizer.is_fast and any(one.contents is not None for one in inputs):
            raise ValueError(WITHOUT_OFFSETS)
        if not self.tokenizer.is_fast and any(map(self._has_units, inputs)):
            raise ValueError(UNITS_WITHOUT_OFFSETS)
        parts = [self._readable(one) for one in inputs]
        for batch in self._batches(
            parts, batch_size, truncation=truncation, device=device, max_tokens=max_tokens,
            pad_below=pad_below,
        ):  # fmt: skip
            yield replace(batch, inputs=[inputs[number] for number in batch.numbers])

    def level_of(self, one: TextInput) -> str:
        """Return the level at which a text is split."""
        return one.level or self.level

    def _has_units(self, one: TextInput) -> bool:
        return has_units(one, self.level_of(one))

    def _readable(self, one: TextInput) -> TextInput:
        """Cut what is far longer than the model reads, so that the same tokens are read.

        Of two long texts, the tokenizer leaves one token more of the longer one if their number is
        odd, so the longer one stays longer here.
        """
        if self.is_windowed and one.pair is None:
            return one
        if self.tokenizer.truncation_side != "right":  # the end is what is read
            return one
        text = readable_part(self.tokenizer, one.text, self.limit)
        if one.pair is None:
            return replace(one, text=text)
        pair = readable_part(self.tokenizer, one.pair, self.limit)
        if (text, pair) == (one.text, one.pair):
            return one
        n_text, n_pair = self._n_tokens(text, pair)
        if 2 * min(n_text, n_pair) > self.limit:
            n_whole = self._n_tokens(one.text, one.pair)
            if n_whole[0] > n_whole[1]:
                text = readable_part(self.tokenizer, one.text, self.limit + n_pair)
            else:
                pair = readable_part(self.tokenizer, one.pair, self.limit + n_text)
        return replace(one, text=text, pair=pair)

    def _n_tokens(self, *texts: str) -> list[int]:
        """Return how many tokens each text has, not cut."""
        encoding = tokenize(self.tokenizer, list(texts), truncation=False, verbose=False)
        return list(map(len, encoding["input_ids"]))

    def _batches(
        self,
        inputs: Sequence[TextInput],
        batch_size: int,
        *,
        truncation: bool,
        device: torch.device,
        max_tokens: int | None,
        pad_below: int | None,
    ) -> Iterator[Batch]:
        """Yield batches of texts that are tokenised whole."""
        if not inputs:
            return
        encoded = self._encoded(inputs)
        alone = [n for n, one in enumerate(inputs) if one.pair is None and not one.is_rendered]
        self._warn_of_separators([encoded[n] for n in alone])
        has_bos = self._have_bos(encoded, alone)
        lengths = [len(ids) - begun for ids, begun in zip(encoded, has_bos, strict=True)]
        self._check_lengths(inputs, lengths, truncation)
        plain = [one.is_rendered or begun for one, begun in zip(inputs, has_bos, strict=True)]
        kinds = [
            (
                one.pair is not None,
                is_plain,
                sorted(one.extras),
                one.kind,
                self.level_of(one),
                self._is_long(length),
            )
            for one, is_plain, length in zip(inputs, plain, lengths, strict=True)
        ]
        pads = self.tokenizer.pad_token_id is not None and self.tokenizer.padding_side == "right"
        numbers: list[int] = []
        for number in sorted(range(len(inputs)), key=lambda n: (kinds[n], lengths[n])):
            longest = lengths[numbers[0]] * (MAX_PADDING if pads else 1) if numbers else 0
            n_positions = (len(numbers) + 1) * lengths[number]
            full = len(numbers) == batch_size or (
                max_tokens is not None and n_positions > max_tokens
            )
            full = full or lengths[number] > longest
            if pad_below is not None and numbers and lengths[number] > lengths[numbers[-1]]:
                full = full or sum(lengths[n] ** 2 for n in numbers) >= pad_below
            if numbers and (full or kinds[number] != kinds[numbers[0]]):
                yield self._encode(numbers, inputs, lengths, plain, pads=pads, device=device)
                numbers = []
            numbers.append(number)
        yield self._encode(numbers, inputs, lengths, plain, pads=pads, device=device)

    def _encoded(self, inputs: Sequence[TextInput]) -> list[list[int]]:
        """Return the ids of each text or pair, not cut."""
        ids: dict[int, list[int]] = {}
        kinds = [(one.pair is not None, one.is_rendered) for one in inputs]
        for kind in set(kinds):
            numbers = [n for n, of_input in enumerate(kinds) if of_input == kind]
            texts = _columns([inputs[n] for n in numbers])
            encoding = tokenize(
                self.tokenizer, *texts, truncation=False, verbose=False,
                add_special_tokens=not kind[1],
            )  # fmt: skip
            ids.update(zip(numbers, encoding["input_ids"], strict=True))
        return [ids[n] for n in range(len(inputs))]

    def _encode(
        self,
        numbers: list[int],
        all_inputs: Sequence[TextInput],
        lengths: list[int],
        plain: list[bool],  # whether special tokens are part of the text, and not added
        *,
        pads: bool,
        device: torch.device,
    ) -> Batch:
        inputs = [all_inputs[number] for number in numbers]
        is_pair = inputs[0].pair is not None
        for one, number in zip(inputs, numbers, strict=True):
            if is_pair and lengths[number] > self.limit:
                self._check_room(one)
        encoding = tokenize(
            self.tokenizer, *_columns(inputs), padding=pads,
            truncation=self.pair_truncation if is_pair else not self.is_windowed,
            max_length=min(self.limit, NO_LIMIT), pad_to_multiple_of=self.multiple,
            add_special_tokens=not plain[numbers[0]], return_tensors="pt", verbose=False,
        )  # fmt: skip
        names = [name for name in self.tokenizer.model_input_names if name in encoding]
        with torch.inference_mode(False):  # whose tensors no gradient may pass
            tensors = {name: encoding[name].clone().to(device) for name in names}
            extras = {
                name: torch.stack([one.extras[name] for one in inputs]).to(device)
                for name in inputs[0].extras
            }
        ids = tensors.pop("input_ids").long()
        rows = ids.tolist()
        texts = [one.joined for one in inputs]
        offsets: list[Offsets] | None = None
        if self.tokenizer.is_fast:
            offsets = [joined_offsets(encoding, i, text) for i, text in enumerate(texts)]
        words = units = encoding_groups(self.tokenizer, encoding, word_groups, texts)
        if self.level_of(inputs[0]) == "token":  # then all are split so
            units = encoding_groups(self.tokenizer, encoding, token_groups, texts)
        groups, moving, words_at = [], [], []
        for i, one in enumerate(inputs):
            at = None if offsets is None else offsets[i]
            group, found = self._moving(one, rows[i], units[i], at)
            if self._has_units(one):
                level, where = self.level_of(one), f"text {numbers[i]}"
                moved, joined = join_units(one, level, group, found, where)
            else:
                moved, joined = group, found
            groups.append(moved)
            moving.append(joined)
            if group != words[i]:
                group, found = words[i], self._spans(one, rows[i], words[i], at)
            word_of = {group[span.position]: span for span in found}
            words_at.append([word_of.get(number) for number in group])
        return Batch(
            numbers=numbers,
            inputs=inputs,
            ids=ids,
            others=tensors,
            feature_mask=feature_mask(groups).to(device),
            spans=moving,
            words_at=words_at,
            held=None if groups == units else _left_out(units, groups).to(device),
            dropped=[
                0 if self.is_windowed else max(0, lengths[number] - self.limit)
                for number in numbers
            ],
            offsets=offsets,
            extras=extras,
        )

    def _check_room(self, one: TextInput) -> None:
        """Check that a text that is never cut leaves room for the other one of its pair."""
        uncut = {"only_first": one.pair, "only_second": one.text}.get(self.pair_truncation)
        if uncut is None:
            return
        ids = tokenize(
            self.tokenizer, uncut, add_special_tokens=False, truncation=False, verbose=False
        )["input_ids"]
        if self.limit - len(ids) - self.tokenizer.num_special_tokens_to_add(pair=True) < 1:
            shown = textwrap.shorten(uncut, 40, placeholder=" …")
            raise ValueError(
                f"the {'first' if uncut is one.text else 'second'} text of a pair, {shown!r}, "
                f"leaves no room for the other within {self.limit_of} of {self.limit} tokens: "
                "shorten it"
            )

    def _moving(
        self, one: TextInput, ids: list[int], group: Grouping, offsets: Offsets | None
    ) -> tuple[Grouping, list[Span]]:
        """Keep the words that move: their grouping and spans."""
        if one.contents is not None and offsets is not None:
            group = within(one.text, group, offsets, one.contents)
        found = self._spans(one, ids, group, offsets)
        if one.held is not None:
            found = [span for span in found if span.side != one.held]
            moving = {group[span.position] for span in found}
            group = [number if number in moving else None for number in group]
        return group, found

    def _spans(
        self, one: TextInput, ids: list[int], group: Grouping, offsets: Offsets | None
    ) -> list[Span]:
        if one.pair is None:
            return spans(self.tokenizer, one.text, ids, group, offsets)
        if offsets is not None:
            return by_side(spans(self.tokenizer, one.joined, ids, group, offsets), one.joined)
        texts = one.text, one.pair
        sides = token_sides(
            self.tokenizer, texts, limit=self.limit, truncation=self.pair_truncation
        )
        return spans_by_side(self.tokenizer, texts, ids, group, sides)

    def _have_bos(self, encoded: list[list[int]], alone: Sequence[int]) -> list[bool]:
        """Whether each text begins with the only token that the tokenizer adds; warn if so.

        Texts of pairs need the tokens that the tokenizer adds; `alone` are the numbers of others.
        """
        bos = self.tokenizer.bos_token_id
        doubled = [False] * len(encoded)
        for number in alone:
            doubled[number] = bos is not None and encoded[number][:2] == [bos, bos]
        if not any(doubled) or tokenize(self.tokenizer, "")["input_ids"] != [bos]:
            return [False] * len(encoded)
        warn_of_bos(self.tokenizer, f"{sum(doubled)} of {len(encoded)} texts begin")
        return doubled

    def _warn_of_separators(self, encoded: list[list[int]]) -> None:
        """Warn of texts that spell the separator of two texts, for a model that is told which."""
        separator = self.tokenizer.sep_token_id
        if separator is None or "token_type_ids" not in self.tokenizer.model_input_names:
            return
        own = tokenize(self.tokenizer, "")["input_ids"].count(separator)
        n_texts = sum(ids.count(separator) > own for ids in encoded)
        if n_texts:
            warn(
                f"{n_texts} of {len(encoded)} texts contain {self.tokenizer.sep_token}, which "
                "separates the two texts of a pair, but each is read as one text (its token types "
                "are all the same): pass a pair as a tuple, (first, second)"
            )

    def _is_long(self, length: int) -> bool:
        """Whether a text is read in windows."""
        return self.is_windowed and length > self.limit

    def _check_lengths(
        self, inputs: Sequence[TextInput], lengths: list[int], truncation: bool
    ) -> None:
        if self.is_windowed:
            for one, length in zip(inputs, lengths, strict=True):
                if one.pair is not None and length > self.limit:
                    raise ValueError(
                        f"a pair of {length} tokens exceeds {self.limit_of} of {self.limit}, and "
                        "stride reads single texts in windows, not pairs: shorten it, or use an "
                        "explainer without stride, which cuts it"
                    )
            return
        dropped = [length - self.limit for length in lengths if length > self.limit]
        if not dropped:
            return
        of_all, of_one = f"{sum(dropped)} tokens", f"at most {max(dropped)}"
        if max(dropped) >= SPARE_TOKENS:  # it may have been cut
            of_all, of_one = f"at least {of_all}", f"at least {max(dropped)}"
        message = (
            f"{len(dropped)} of {len(lengths)} texts exceed {self.limit_of} of {self.limit} "
            f"tokens: {of_all} ({of_one} of one text) "
        )
        if not truncation:
            raise ValueError(message + "would be dropped; shorten them or allow truncation")
        warn(message + "are dropped", TruncationWarning)


def _left_out(units: Sequence[Grouping], groups: Sequence[Grouping]) -> Tensor:
    """Find the tokens of words that do not move, (B, L)."""
    return torch.tensor(
        [
            [unit is not None and number is None for unit, number in zip(*of_text, strict=True)]
            for of_text in zip(units, groups, strict=True)
        ],
        dtype=torch.bool,
    )


def _columns(inputs: Sequence[TextInput]) -> list[list[str]]:
    """Return what a tokenizer takes: the texts, and if they are pairs the second ones too."""
    pairs = [one.pair for one in inputs if one.pair is not None]
    return [[one.text for one in inputs], pairs] if pairs else [[one.text for one in inputs]]


def warn_of_bos(tokenizer: Any, subject: str) -> None:
    """Warn that a text keeps the one token for its beginning that a chat template wrote."""
    warn(
        f"{subject} with {tokenizer.bos_token}, as chat templates write it, so the tokenizer adds "
        "no second one"
    )


def padding_multiple(model: nn.Module) -> int | None:
    """Return the multiple to which the model pads by itself (Longformer: its attention window)."""
    window = getattr(model.config, "attention_window", None)
    return max(window) if isinstance(window, (list, tuple)) else window


def limit_of(tokenizer: Any, limit: int) -> str:
    """Name what limits a text: the model's context, or the tokenizer if that allows less."""
    if tokenizer.model_max_length < limit:
        return "the tokenizer's limit (tokenizer.model_max_length)"
    return "the model's context"


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
