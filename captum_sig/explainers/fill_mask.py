"""Explain what a masked language model puts at a mask."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import Tensor, nn

from captum_sig._names import Level, TaskName
from captum_sig._numbers import checked_integer
from captum_sig.attr.function import at_least_float32
from captum_sig.explainers.explainer import (
    CallOptions,
    Explainer,
    Readout,
    Result,
    TextTargets,
    target_of_each,
)
from captum_sig.explainers.matrix_results import Target, TargetsAttribution
from captum_sig.explainers.token_readout import read_means
from captum_sig.words.encoding import (
    Batch,
    TextInput,
    checked_single_texts,
    in_python,
)
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


class FillMaskExplainer(Explainer):
    """Explains the logits of tokens at the masks of a text, word by word.

    A mask itself never moves, whatever the baseline, and takes no row.

    Args:
        model: a masked language model of transformers; it stays on its device and in its mode.
        tokenizer: its tokenizer.
        baseline: what replaces a word, a name in `captum_sig.baselines.BASELINES`.
        level: "word" moves a word's sub-tokens together, "token" each on its own.
        layer: the word embedding; None finds it through `model.get_input_embeddings()`.
        device: device to move the model to; None leaves it where it is.
        masked_lm: the masked language model that baseline "blurred" needs.
        n_draws: number of draws of a random baseline ("constant", "uniform"), over which scores
            are averaged.
        seed: random seed; the draws for a text depend on it and the text only.

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
        *,
        baseline: str = "mask",
        level: Level = "word",
        layer: nn.Module | None = None,
        device: torch.device | str | None = None,
        masked_lm: Any = None,
        n_draws: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model, tokenizer, baseline=baseline, level=level, layer=layer, device=device,
            masked_lm=masked_lm, n_draws=n_draws, seed=seed,
        )  # fmt: skip
        if tokenizer.mask_token is None:
            raise ValueError("the tokenizer has no mask token: wanted that of a masked model")
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()

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

    def _readout(self, batch: Batch, output: Tensor, targets: Sequence[_Masks]) -> Readout:
        of_texts, places = [], []
        for number, masks in enumerate(targets):
            positions = self._positions(batch, number, masks)
            logits = output[number, positions].cpu()  # (M, V)
            tokens: Sequence[Sequence[int]] = (
                logits.topk(min(masks.tokens.k, logits.shape[1])).indices.tolist()
                if isinstance(masks.tokens, _Top)
                else masks.tokens
            )
            probabilities = logits.to(at_least_float32(logits.dtype)).softmax(-1)
            of_texts.append(self._text_targets(masks.places, tokens, probabilities))
            places.append(
                [
                    [(position, token)]
                    for position, of_mask in zip(positions, tokens, strict=True)
                    for token in of_mask
                ]
            )
        return Readout(of_texts, read_means(places))

    def _positions(self, batch: Batch, number: int, masks: _Masks) -> list[int]:
        """Return the positions of a text's masks.

        Raises:
            ValueError: if not all of them are among the tokens that the model reads.
        """
        is_mask = batch.ids[number] == self.tokenizer.mask_token_id
        positions = is_mask.nonzero()[:, 0].tolist()
        if len(positions) != len(masks.places):
            raise ValueError(
                f"the model reads {len(positions)} of the {len(masks.places)} masks of text "
                f"{batch.numbers[number]}, from which {batch.dropped[number]} tokens beyond its "
                "limit are dropped: shorten the text"
            )
        return positions

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
