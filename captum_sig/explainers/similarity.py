"""Two texts in, and out how each word of either raises or lowers the similarity of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, overload

import torch
from torch import Tensor, nn

from captum_sig._names import Level, Side, TaskName, Unit, unknown_name
from captum_sig.attr.function import Read, at_least_float32
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.explainers.embedders import (
    PooledEncoder,
    Pooling,
    SentenceEmbedder,
    is_sentence_transformer,
)
from captum_sig.explainers.explainer import (
    CallOptions,
    EncodedBatch,
    Explainer,
    ExplainerOptions,
)
from captum_sig.explainers.loading import (
    hub_options,
    is_saved_sentence_transformer,
    pretrained_encoder,
    pretrained_sentence_transformer,
    pretrained_tokenizer,
)
from captum_sig.explainers.matrix_results import TENSORS, Target, TargetsAttribution
from captum_sig.explainers.models import check_model, uncompiled
from captum_sig.explainers.readout import Readout, Result, TextTargets
from captum_sig.explainers.results import Column, Interaction, WordAttribution
from captum_sig.explainers.scoring import ScoringOptions
from captum_sig.words.encoding import Batch
from captum_sig.words.given_units import units_of_each
from captum_sig.words.inputs import TextInput, and_advice, check_side, in_python, is_list
from captum_sig.words.units import TextUnit

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

Similarity = Literal["cosine", "dot"]
UNITS: dict[Similarity, Unit] = {"cosine": "cosine", "dot": "dot product"}
Pair = tuple[str, str]
Ranking = tuple[str, Sequence[str]]  # a query and its documents
WANTED = "wanted a tuple (first, second), or (query, [documents]), or a list of these"


@dataclass(frozen=True)
class _Side(TextInput):
    """A text that is compared with others."""

    number: int = 0  # of the caller's input
    bare: str = ""  # without the model's prompt, which `text` begins with
    side: Side = "text"
    compared: tuple[int, ...] = ()  # the texts that it is compared with, by their places
    is_pair: bool = True  # whether the input has two texts, not a query and a list of documents


@dataclass(frozen=True)
class _Compared:
    """The texts that a text is compared with."""

    names: tuple[str, ...]  # T
    embeddings: Tensor  # (T, D)


class SimilarityExplainer(Explainer):
    """Explains how similar the embeddings of two texts are, word by word on both sides.

    The words of a text move while the other text's embedding e stays what it is: F is cos(f(x), e)
    or f(x) · e, f being the model with its pooling. A word's score is what the similarity loses
    without it. Both texts are read on their own, as models of embeddings read them.

    Args:
        model: an encoder of transformers without a head (`AutoModel`), or a
            `sentence_transformers.SentenceTransformer`, which is used with all its modules and its
            prompts: (first, second) with the default prompt, (query, [documents]) with those of
            `encode_query` and `encode_document`. The words of a prompt do not move.
        tokenizer: the encoder's tokenizer; None for a SentenceTransformer, which has its own.
        pooling: of an encoder: "mean" over the tokens, or "cls", the first of them.
        similarity: "cosine" or "dot".
        **options: `baseline`, `level`, `layer`, `device`, `masked_lm`, `n_draws` and `seed`, as in
            `TextClassificationExplainer`.

    Raises:
        TypeError: if the model is neither, or the tokenizer none.
        ValueError: for an unknown pooling, similarity, baseline or level, or a baseline that the
            tokenizer lacks.
    """

    TASK: ClassVar[TaskName] = "sentence-similarity"
    MODELS = "encoders of transformers, and SentenceTransformers"
    AUTO_CLASS = "AutoModel"
    TRAINED = "to encode text"

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        pooling: Pooling | None = None,
        similarity: Similarity = "cosine",
        **options: Unpack[ExplainerOptions],
    ) -> None:
        if similarity not in UNITS:
            raise ValueError(unknown_name("similarity", similarity, get_args(Similarity)))
        embedder: PooledEncoder | SentenceEmbedder
        if is_sentence_transformer(model):
            for name, value in (("tokenizer", tokenizer), ("pooling", pooling)):
                if value is not None:
                    raise ValueError(f"a SentenceTransformer has its own {name}: leave it out")
            embedder, tokenizer = SentenceEmbedder(model), model.tokenizer
        else:
            check_model(model, tokenizer, type(self).__name__, self.MODELS)
            model, options["layer"] = uncompiled(model, options.get("layer"))
            embedder = PooledEncoder(model, pooling or "mean")
        super().__init__(embedder, tokenizer, **options)
        self.embedder = embedder
        self.similarity = similarity

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load an encoder, or a SentenceTransformer, which has a `modules.json`; safetensors only.

        Args:
            name_or_path: a folder or hub name.
            model_kwargs: for the model's `from_pretrained`, such as `dtype`.
            **options: keywords of the class.

        Raises:
            ImportError: if it is a SentenceTransformer, and sentence-transformers is missing.
            ValueError: if weights are missing or pickled, or there is no tokenizer, or Python code.
        """
        given, where = dict(model_kwargs or {}), hub_options(model_kwargs)
        if is_saved_sentence_transformer(name_or_path, **where):
            return cls(pretrained_sentence_transformer(name_or_path, **given), **options)
        tokenizer = pretrained_tokenizer(name_or_path, **where)
        return cls(pretrained_encoder(name_or_path, **given), tokenizer, **options)

    @overload  # a tuple is a sequence, and a string one of strings
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Pair, target: None = ..., method: str = ..., **options: Unpack[CallOptions]
    ) -> WordAttribution: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Ranking, target: None = ..., method: str = ..., **options: Unpack[CallOptions]
    ) -> TargetsAttribution: ...
    @overload
    def __call__(
        self, inputs: Sequence[Pair | Ranking], target: None = ..., method: str = ...,
        **options: Unpack[CallOptions],
    ) -> list[Any]: ...  # fmt: skip
    def __call__(
        self, inputs: Any, target: None = None, method: str = "sig", **options: Unpack[CallOptions]
    ) -> Any:
        """Explain one similarity or several.

        Args:
            inputs: a tuple of two texts; or of a query and a list of documents, for all of which
                the query's words take the same rows as for one; or a list of such tuples.
            target: None, as the similarity is all that there is to explain.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
            **options: see `Explainer.in_batches`; without `top`. `interactions` are between words
                of the same text.

        Returns:
            a `WordAttribution` with the words of both texts for two texts; a `TargetsAttribution`
            for a query, whose targets are the documents and whose words are the query's and those
            of all documents, NaN where a word is another document's; or a list of them. `residual`
            is the sum of both sides', each against its own baseline.

        Raises:
            TypeError: if the inputs are something else.
            ValueError: for an empty text, a text whose embedding is zero, an unknown method or
                contexts, or a text that is too long.
            FloatingPointError: if the model's output is not finite.
        """
        return super().__call__(inputs, target, method, **options)

    def _inputs(self, inputs: Any) -> tuple[list[TextInput], bool]:
        inputs = in_python(inputs)
        is_single = isinstance(inputs, tuple)
        if not is_single and not is_list(inputs):
            raise TypeError(f"{WANTED}, got {and_advice(inputs)}")
        sides: list[TextInput] = []
        for number, one in enumerate([inputs] if is_single else inputs):
            sides += self._sides(one, number, len(sides))
        return sides, is_single

    def _sides(self, value: Any, number: int, place: int) -> list[_Side]:
        """Check an input, and list its texts: the first, then what it is compared with."""
        if not isinstance(value, tuple) or len(value) != 2:
            size = f" of {len(value)}" if isinstance(value, tuple) else ""
            raise TypeError(f"input {number} is {type(value).__name__}{size}; {WANTED}")
        first, others = value[0], in_python(value[1])
        is_pair = not is_list(others)
        if is_pair:
            others = [others]
        if not others:
            raise ValueError(f"the query of input {number} has no documents: pass at least one")
        check_side(first, f"the {'first text' if is_pair else 'query'} of input {number}")
        for n, text in enumerate(others):
            what = "the second text" if is_pair else f"document {n}"
            check_side(text, f"{what} of input {number}")
        roles = (None, None) if is_pair else ("query", "document")
        places = range(place + 1, place + 1 + len(others))
        return [
            self._side(first, roles[0], number, "text", tuple(places), is_pair),
            *(
                self._side(text, roles[1], number, "text_pair", (place,), is_pair)
                for text in others
            ),
        ]

    def _side(
        self,
        text: str,
        role: str | None,
        number: int,
        side: Side,
        compared: tuple[int, ...],
        is_pair: bool,
    ) -> _Side:
        prompt, extras = "", {}
        if isinstance(self.embedder, SentenceEmbedder):
            prompt = self.embedder.prompt(role)
            extras = self.embedder.extras(prompt)
        return _Side(
            prompt + text,
            extras=extras,
            contents=[(len(prompt), len(prompt) + len(text))] if prompt else None,
            kind=f"{len(compared)} {prompt}",  # all of a batch have T targets, and this prompt
            number=number,
            bare=text,
            side=side,
            compared=compared,
            is_pair=is_pair,
        )

    def _with_units(
        self, inputs: list[TextInput], units: Any, is_single: bool, level: Level | None
    ) -> list[TextInput]:
        """Attach units, in the tuple's form, to the sides of each input."""
        sides = [side for side in inputs if isinstance(side, _Side)]
        of_inputs = units_of_each(units, len({side.number for side in sides}), is_single)
        of_sides = [
            own
            for number, of_input in enumerate(of_inputs)
            for own in _units_of_sides(of_input, [s for s in sides if s.number == number])
        ]
        bare = super()._with_units([TextInput(side.bare) for side in sides], of_sides, False, level)
        return [
            replace(side, level=one.level, units=_behind(side, one.units))
            for side, one in zip(sides, bare, strict=True)
        ]

    def _targets(self, target: Any, inputs: Sequence[TextInput], is_single: bool) -> list[Any]:
        if target is not None:
            raise ValueError(
                f"target is {target!r}, but a similarity has nothing to choose: leave target out"
            )
        return [None] * len(inputs)  # the other texts, once they are embedded

    def _as_tensor(self, output: Any) -> Tensor:
        return output

    @property
    def _takes_single_rows(self) -> bool:
        return False  # padding is told by the attention mask

    def _readout(self, batch: Batch, output: Tensor, targets: Sequence[_Compared]) -> Readout:
        fixed = torch.stack([of_text.embeddings for of_text in targets]).to(output.device)
        of_texts = [
            TextTargets(tuple(Target(name, text_pair=name) for name in of_text.names), False)
            for of_text in targets
        ]
        return Readout(of_texts, read_similarity(fixed, self.similarity), UNITS[self.similarity])

    def _explained(
        self,
        inputs: Sequence[TextInput],
        targets: Sequence[Any],
        options: ScoringOptions,
        *,
        batch_size: int | None,
        truncation: bool,
    ) -> Iterator[tuple[Batch, list[Result]]]:
        """Embed all texts, move the words of each, and join the sides of each input."""
        if options.top is not None:
            raise ValueError(
                "top audits the words of one text, and a similarity has two: leave top out"
            )
        if options.zooms:
            raise ValueError(
                "level 'auto' opens the units of one text, and a similarity has two: use level "
                "'sentence' or 'word'"
            )
        sides = [side for side in inputs if isinstance(side, _Side)]
        batches: list[EncodedBatch] = []
        embeddings: dict[int, Tensor] = {}
        for batch, how, unchanged in self._encoded(inputs, options, batch_size, truncation):
            if batch.ids.shape[1] == 0:
                text = sides[batch.numbers[0]].bare
                raise ValueError(f"the text {text!r} has no token to embed: pass another")
            output: Any = self._batch_output(batch) if unchanged is None else unchanged.output
            self._check_embeddings(output, [sides[place] for place in batch.numbers])
            embeddings.update(zip(batch.numbers, output, strict=True))
            batches.append((batch, how, None))
        compared = [
            _Compared(
                tuple(sides[other].bare for other in side.compared),
                torch.stack([embeddings[other] for other in side.compared]),
            )
            for side in sides
        ]
        try:
            yield from _joined(sides, self._explain_each(batches, compared))
        except NotFiniteError as error:  # it names a side
            raise NotFiniteError(error.what, sides[error.example].number, error.where) from None

    def _check_embeddings(self, embeddings: Tensor, sides: Sequence[_Side]) -> None:
        """Refuse embeddings, (B, D), that cannot be compared."""
        is_finite = embeddings.isfinite().all(1).tolist()
        is_zero = (~embeddings.any(1)).tolist()
        for side, finite, zero in zip(sides, is_finite, is_zero, strict=True):
            if not finite:
                raise NotFiniteError("embedding", side.number, f"text {side.bare!r}")
            if zero and self.similarity == "cosine":
                raise ValueError(
                    f"the embedding of {side.bare!r} is zero, so that it has no cosine: use "
                    'similarity="dot", or pass another text'
                )


def _units_of_sides(units: Any, sides: Sequence[_Side]) -> list[Any]:
    """Return the units of each side of an input.

    Raises:
        TypeError: if they are not in the tuple's form.
    """
    if units is None:
        return [None] * len(sides)
    first = sides[0]
    if isinstance(units, tuple) and len(units) == 2:
        others = [units[1]] if first.is_pair else in_python(units[1])
        if others is None:
            others = [None] * len(first.compared)
        if is_list(others) and len(others) == len(first.compared):
            return [units[0], *others]
    raise TypeError(
        f"units of input {first.number} must be a tuple, (units of the "
        f"{'first text, units of the second' if first.is_pair else 'query, [of each document]'}), "
        f"got {units!r}"
    )


def _behind(side: _Side, units: tuple[TextUnit, ...] | None) -> tuple[TextUnit, ...] | None:
    """Shift units of a text behind the prompt that the model reads before it."""
    n = len(side.text) - len(side.bare)
    return units and tuple(replace(one, start=one.start + n, end=one.end + n) for one in units)


def read_similarity(fixed: Tensor, similarity: Similarity) -> Read:
    """Return what compares rows' embeddings, (R, D), with the T of their texts, (B, T, D): (R, T).

    A row whose embedding is zero has the cosine 0.
    """

    def prepared(embeddings: Tensor) -> Tensor:
        embeddings = embeddings.to(at_least_float32(embeddings.dtype))
        return nn.functional.normalize(embeddings, dim=-1) if similarity == "cosine" else embeddings

    others = prepared(fixed)

    def read(output: Tensor, example: Tensor) -> Tensor:
        products = torch.einsum("rd,btd->rbt", prepared(output), others)
        return products[torch.arange(len(output), device=output.device), example]

    return read


def _joined(
    sides: Sequence[_Side], batches: Iterator[tuple[Batch, list[Result]]]
) -> Iterator[tuple[Batch, list[Result]]]:
    """Yield the results of inputs when all their sides are explained, with the last one's batch."""
    of_input: dict[int, list[int]] = {}  # places of the sides that are yet to be explained, …
    for place, side in enumerate(sides):
        of_input.setdefault(side.number, []).append(place)
    n_missing = {number: len(places) for number, places in of_input.items()}
    explained: dict[int, tuple[TargetsAttribution, int]] = {}
    for batch, results in batches:
        finished = []
        for place, result, dropped in zip(batch.numbers, results, batch.dropped, strict=True):
            assert isinstance(result, TargetsAttribution)
            explained[place] = result, dropped
            number = sides[place].number
            n_missing[number] -= 1
            if not n_missing[number]:
                finished.append(number)
        if finished:
            parts = [[explained.pop(place) for place in of_input[n]] for n in finished]
            yield (
                replace(
                    batch,
                    numbers=finished,
                    inputs=[sides[of_input[n][0]] for n in finished],
                    dropped=[sum(dropped for _, dropped in of_one) for of_one in parts],
                ),
                [
                    _join([sides[place] for place in of_input[n]], [r for r, _ in of_one])
                    for n, of_one in zip(finished, parts, strict=True)
                ],
            )


def _join(sides: Sequence[_Side], results: Sequence[TargetsAttribution]) -> Result:
    """Join the results of an input's texts, of which the first is compared with all others."""
    first, *others = results
    sizes = [len(result.words) for result in results]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]

    def tensor(name: str) -> Tensor | None:
        """Put the first text's rows on the left, and each other text's row in its own columns."""
        parts = [getattr(result, name) for result in results]
        if all(part is None for part in parts):
            return None
        joined = torch.full((len(others), sum(sizes)), torch.nan, dtype=torch.float64)
        for row, (part, start) in enumerate(zip(parts[1:], starts[1:], strict=True)):
            if parts[0] is not None:
                joined[row, : sizes[0]] = parts[0][row]
            if part is not None:
                joined[row, start : start + part.shape[1]] = part[0]
        return joined

    residual = None
    if first.residual is not None:
        residual = tuple(
            of_first + (other.residual or (0.0,))[0]
            for of_first, other in zip(first.residual, others, strict=True)
        )
    interactions = None
    if first.interactions is not None:
        interactions = tuple(
            _both_sides(pairs, (other.interactions or ((),))[0], sizes[0])
            for pairs, other in zip(first.interactions, others, strict=True)
        )
    tensors: dict[str, Any] = {name: tensor(name) for name in TENSORS}
    joined = replace(
        first,
        text=sides[0].bare,
        words=tuple(
            column
            for side, result in zip(sides, results, strict=True)
            for column in _columns(side, result)
        ),
        **tensors,
        max_abs_word_delta=tuple(
            _largest(of_first, other.max_abs_word_delta[0])
            for of_first, other in zip(first.max_abs_word_delta, others, strict=True)
        ),
        dropped_tokens=sum(result.dropped_tokens for result in results),
        residual=residual,
        interactions=interactions,
    )
    return joined.attribution(0) if sides[0].is_pair else joined


def _columns(side: _Side, result: TargetsAttribution) -> Iterator[Column]:
    """Yield a text's words with their side, and their offsets without the prompt."""
    n_before = len(side.text) - len(side.bare)
    for word in result.words:
        start = None if word.start is None else word.start - n_before
        end = None if word.end is None else word.end - n_before
        yield Column(word.word, start, end, side.side, word.name)


def _both_sides(
    of_first: Sequence[Interaction], of_other: Sequence[Interaction], n_words: int
) -> tuple[Interaction, ...]:
    """Join the pairs of words of two texts, of which the first has so many words."""
    moved = [
        replace(pair, words=(pair.words[0] + n_words, pair.words[1] + n_words)) for pair in of_other
    ]
    return tuple(sorted([*of_first, *moved], key=lambda pair: -abs(pair.value)))


def _largest(*deltas: float | None) -> float | None:
    return max((delta for delta in deltas if delta is not None), default=None)
