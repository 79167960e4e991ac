"""Explain what a masked language model puts at a mask."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import Tensor, nn

from captum_sig._names import TaskName
from captum_sig._numbers import checked_integer
from captum_sig.attr.function import at_least_float32
from captum_sig.attr.hooks import with_input
from captum_sig.explainers.explainer import (
    CallOptions,
    Explainer,
    ExplainerOptions,
    target_of_each,
)
from captum_sig.explainers.matrix_results import Target, TargetsAttribution
from captum_sig.explainers.readout import Readout, Result, TextTargets
from captum_sig.explainers.token_readout import read_means
from captum_sig.words.encoding import Batch
from captum_sig.words.inputs import TextInput, checked_single_texts, in_python
from captum_sig.words.tokenize import decode, tokenize

if TYPE_CHECKING:
    from typing_extensions import Unpack

Tokens = str | Sequence[str] | Sequence[str | Sequence[str]]  # one, several, several of each mask
TOP_K = 5


class FillMaskOptions(CallOptions, total=False):
    """The keywords of a call: see `FillMaskExplainer.in_batches`."""

    top_k: int


@dataclass(frozen=True)
class _Top:
    """The likeliest tokens at each mask are explained."""

    k: int


@dataclass(frozen=True)
class _Masks:
    """What is explained of a text."""

    places: tuple[tuple[int, int], ...]  # characters of each mask
    tokens: Sequence[Sequence[int]] | _Top  # ids for each mask


class AtMasks(nn.Module):
    """A masked language model whose logits are those of the masks: (R, M, V), not (R, L, V).

    M is the largest number of masks of a row; a row with fewer has the first one's in place of the
    rest. The logits of all positions would take most of the memory, and a third to two thirds of
    the time: the last layer is given the masks alone, if it is one that is given all positions.
    """

    def __init__(self, model: nn.Module, mask_token_id: int) -> None:
        super().__init__()
        self.model, self.mask_token_id = model, mask_token_id
        self.head: nn.Module | None = getattr(model, "get_output_embeddings", lambda: None)()

    def forward(self, input_ids: Tensor, **others: Tensor) -> Any:
        """Evaluate the model on rows of ids, each with a mask at least."""
        places = mask_places(input_ids, self.mask_token_id)
        is_given_masks = False

        def of_masks(hidden: Tensor) -> Tensor:
            nonlocal is_given_masks
            if hidden.dim() != 3 or hidden.shape[:2] != input_ids.shape:
                return hidden
            is_given_masks = True
            return _at(hidden, places)

        with nullcontext() if self.head is None else with_input(self.head, of_masks):
            output = self.model(input_ids=input_ids, **others)
        if not is_given_masks:
            output.logits = _at(output.logits, places)
        return output


def mask_places(ids: Tensor, mask_token_id: int) -> Tensor:
    """Return the positions of each row's masks, (R, L) → (R, M), padded with the first.

    >>> mask_places(torch.tensor([[7, 4, 7, 4], [7, 7, 4, 7]]), 4)
    tensor([[1, 3],
            [2, 2]])
    """
    is_mask = ids == mask_token_id
    n_masks = is_mask.sum(1, keepdim=True)
    places = (~is_mask).long().argsort(dim=1, stable=True)[:, : int(n_masks.max())]
    is_one = torch.arange(places.shape[1], device=ids.device) < n_masks
    return torch.where(is_one, places, places[:, :1])


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    """Take each row's places, (R, L, D), (R, M) → (R, M, D)."""
    row = torch.arange(len(tensor), device=tensor.device)[:, None]
    return tensor[row, places.to(tensor.device)]


class FillMaskExplainer(Explainer):
    """Explains the logits of tokens at the masks of a text, word by word.

    A mask itself never moves, whatever the baseline, and takes no row.

    Args:
        model: a masked language model of transformers; it stays on its device and in its mode.
        tokenizer: its tokenizer.
        **options: `baseline`, `level`, `layer`, `device`, `masked_lm`, `n_draws` and `seed`, as in
            `TextClassificationExplainer`.

    Raises:
        TypeError: if the model is not a masked language model, or the tokenizer none.
        ValueError: if the tokenizer has no mask token, for an unknown baseline or level, or a
            baseline that the tokenizer lacks.
    """

    TASK: ClassVar[TaskName] = "fill-mask"
    MODELS = "masked language models of transformers"
    AUTO_CLASS = "AutoModelForMaskedLM"
    TRAINED = "to fill in masked words"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        **options: Unpack[ExplainerOptions],
    ) -> None:
        super().__init__(model, tokenizer, **options)
        if tokenizer.mask_token is None:
            raise ValueError("the tokenizer has no mask token: wanted that of a masked model")
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._at_masks = AtMasks(self.model, tokenizer.mask_token_id)

    @overload  # a string is a sequence of strings
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, target: Tokens | None = ..., method: str = ...,
        **options: Unpack[FillMaskOptions],
    ) -> TargetsAttribution: ...  # fmt: skip
    @overload
    def __call__(
        self, texts: Sequence[str], target: Any = ..., method: str = ...,
        **options: Unpack[FillMaskOptions],
    ) -> list[TargetsAttribution]: ...  # fmt: skip
    def __call__(
        self,
        texts: Any,
        target: Any = None,
        method: str = "sig",
        **options: Unpack[FillMaskOptions],
    ) -> Any:
        """Explain the tokens at the masks of one text or several.

        Args:
            texts: a string with at least one mask as the tokenizer spells it (`[MASK]`, `<mask>`),
                or a list of them.
            target: the tokens to explain: one, or a list for all masks of the text, or for several
                masks a list with a list for each. None explains the `top_k` likeliest. For a list
                of texts, a list has an entry for each text, and a tuple has tokens for all. A token
                is a word as it would stand in the mask's place ("good" behind a space is "Ġgood"
                where spaces belong to tokens), or spelled as in the vocabulary ("Ġgood", "##ly").
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
            **options: `top_k`, the number of likeliest tokens at each mask (5); for others see
                `Explainer.in_batches`.

        Returns:
            a `TargetsAttribution` for each text: its rows are tokens, named "good", or
            "mask 2: good" if there are several masks; each with its probability and the characters
            of its mask. The likeliest come first, tokens of the caller in their order.

        Raises:
            TypeError: if the texts are neither a string nor a list of strings.
            ValueError: for a text without a mask, or with one beyond the model's limit, a target
                that is not one token, an unknown method or contexts, an interaction of one word, or
                a text that is too long.
            FloatingPointError: if the model's output is not finite.
        """
        return super().__call__(texts, target, method, **options)  # type: ignore[misc]  # top_k

    def in_batches(
        self,
        inputs: Any,
        target: Any = None,
        method: str = "sig",
        *,
        top_k: int = TOP_K,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[Batch, list[Result]]]:
        """Explain texts as the call, and yield each batch when it is done, short texts first.

        Other arguments and what is raised as in `Explainer.in_batches`.
        """
        wanted = _Top(checked_integer("top_k", top_k)) if target is None else target
        return super().in_batches(inputs, wanted, method, **options)

    def _inputs(self, inputs: Any) -> tuple[list[TextInput], bool]:
        return checked_single_texts(inputs, self.TASK)

    def _targets(self, target: Any, inputs: Sequence[TextInput], is_single: bool) -> list[_Masks]:
        of_each = target_of_each(target, len(inputs), is_single)
        return [
            self._masks(wanted, one.text, number)
            for number, (wanted, one) in enumerate(zip(of_each, inputs, strict=True))
        ]

    def _masks(self, wanted: Any, text: str, number: int) -> _Masks:
        """Find the masks of a text, and read which tokens the caller wants explained there.

        Raises:
            TypeError: if these are not strings.
            ValueError: if there is no mask, or a target is not one token.
        """
        mask = self.tokenizer.mask_token
        places = tuple(found.span() for found in re.finditer(re.escape(mask), text))
        if not places:
            raise ValueError(f"text {number} has no {mask}: put one where a token is to be filled")
        if wanted is None or isinstance(wanted, _Top):
            return _Masks(places, wanted or _Top(TOP_K))
        of_masks = [
            tuple(dict.fromkeys(self._token(token, text[:start]) for token in tokens))
            for (start, _), tokens in zip(places, _of_masks(wanted, len(places)), strict=True)
        ]
        return _Masks(places, tuple(of_masks))

    def _token(self, target: str, before: str) -> int:
        """Return the id of a token that the caller names.

        Args:
            target: a word as it would stand in the text, or spelled as in the vocabulary.
            before: the text before the mask.

        Raises:
            ValueError: if it is not one token.
        """
        is_behind_space = before[-1:].isspace()
        if before and not is_behind_space and target in self.vocabulary:
            return self.vocabulary[target]
        ids: list[int] = []
        for spelled in [f" {target}", target] if is_behind_space else [target]:
            ids = tokenize(self.tokenizer, spelled, add_special_tokens=False)["input_ids"]
            if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id:
                return ids[0]
        if target in self.vocabulary:
            return self.vocabulary[target]
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        raise ValueError(
            f"target {target!r} is not a token of the vocabulary, and reads as "
            f"{', '.join(map(repr, pieces)) or 'nothing'}: name a word that is one token"
        )

    @property
    def _evaluated(self) -> nn.Module:
        return self._at_masks

    def _batches(
        self,
        inputs: Sequence[TextInput],
        batch_size: int | None,
        truncation: bool,
        method: str | None = None,
    ) -> Iterator[Batch]:
        """Yield batches.

        Raises:
            ValueError: if a mask is not among the tokens that the model reads.
        """
        mask = self.tokenizer.mask_token
        for batch in super()._batches(inputs, batch_size, truncation, method):
            n_read = (batch.ids == self.tokenizer.mask_token_id).sum(1).tolist()
            for number, n_masks in enumerate(n_read):
                n_written = batch.texts[number].count(mask)
                if n_masks != n_written:
                    raise ValueError(
                        f"the model reads {n_masks} of the {n_written} masks of text "
                        f"{batch.numbers[number]}, from which {batch.dropped[number]} tokens "
                        "beyond its limit are dropped: shorten the text"
                    )
            yield batch

    def _batch_output(self, batch: Batch, rows: slice = slice(None)) -> Tensor:
        """Return the logits at masks; some rows' have as many as those of the whole batch."""
        output = super()._batch_output(batch, rows)  # (R, M, V)
        places = mask_places(batch.ids, self.tokenizer.mask_token_id)
        n_more = places.shape[1] - output.shape[1]
        return torch.cat([output, output[:, :1].expand(-1, n_more, -1)], 1) if n_more else output

    def _readout(self, batch: Batch, output: Tensor, targets: Sequence[_Masks]) -> Readout:
        of_texts, places = [], []
        for number, masks in enumerate(targets):
            logits = output[number, : len(masks.places)].cpu()  # (M, V)
            tokens: Sequence[Sequence[int]] = (
                logits.topk(min(masks.tokens.k, logits.shape[1])).indices.tolist()
                if isinstance(masks.tokens, _Top)
                else masks.tokens
            )
            largest = max(map(max, tokens))
            if largest >= logits.shape[1]:
                raise ValueError(
                    f"target {self.tokenizer.convert_ids_to_tokens(largest)!r} is token {largest}, "
                    f"and the model has {logits.shape[1]}: name another, or resize its embeddings"
                )
            probabilities = logits.to(at_least_float32(logits.dtype)).softmax(-1)
            of_texts.append(self._text_targets(masks.places, tokens, probabilities))
            places.append(
                [[(mask, token)] for mask, of_mask in enumerate(tokens) for token in of_mask]
            )
        return Readout(of_texts, read_means(places))

    def _text_targets(
        self,
        places: Sequence[tuple[int, int]],
        tokens: Sequence[Sequence[int]],
        probabilities: Tensor,  # (M, V)
    ) -> TextTargets:
        targets = []
        for number, ((start, end), of_mask) in enumerate(zip(places, tokens, strict=True)):
            prefix = f"mask {number + 1}: " if len(places) > 1 else ""
            values = probabilities[number, list(of_mask)].tolist()
            for name, value in zip(self._names(of_mask), values, strict=True):
                targets.append(Target(prefix + name, probability=value, start=start, end=end))
        return TextTargets(tuple(targets), is_single=False)

    def _names(self, tokens: Sequence[int]) -> list[str]:
        """Return the tokens as text; as the vocabulary spells them if that is not readable.

        Neither is it if two tokens read the same, as with a space and without.
        """
        shown = [decode(self.tokenizer, [token]).strip() for token in tokens]
        pieces = [
            self.tokenizer.convert_ids_to_tokens(token) or f"token {token}" for token in tokens
        ]
        counts = Counter(shown)
        return [
            name if name and name.isprintable() and counts[name] == 1 else piece
            for name, piece in zip(shown, pieces, strict=True)
        ]


def _of_masks(wanted: Any, n_masks: int) -> list[list[str]]:
    """Return the tokens that the caller names for each mask.

    Raises:
        TypeError: if they are not strings.
        ValueError: if there are none for a mask, or as many lists as there are other masks.
    """
    entries = [wanted] if isinstance(wanted, str) else in_python(wanted)
    if not isinstance(entries, (list, tuple)):
        raise TypeError(f"target must be a token or a list of tokens, got {wanted!r}")
    is_of_each = any(isinstance(entry, (list, tuple)) for entry in entries)
    lists = [entry if isinstance(entry, (list, tuple)) else [entry] for entry in entries]
    for token in [token for tokens in lists for token in tokens]:
        if not isinstance(token, str):
            raise TypeError(f"target holds {token!r}; wanted tokens as strings")
    of_masks = list(map(list, lists)) if is_of_each else [list(entries)] * n_masks
    if not all(of_masks):
        raise ValueError("target is empty: name at least one token for each mask")
    if len(of_masks) != n_masks:
        raise ValueError(
            f"target has lists for {len(of_masks)} masks, and the text has {n_masks}: wanted a "
            "list for each, or one for all"
        )
    return of_masks
