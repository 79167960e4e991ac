"""Where the answer to a question stands in a context: as a model finds it, or as a caller says.

The answer found is that of transformers' question-answering pipeline for a context that the model
reads as a whole, with its defaults: no answer is impossible, and answers have whole words. With
s_i and e_i the softmax of the start and end logits over the context's tokens (and [CLS]),

    score(i, j) = s_i · e_j,    i ≤ j < i + MAX_TOKENS

The best `N_CANDIDATES` spans are extended to whole words; the scores of those that then read the
same, in any case, are summed.

Source: `transformers.pipelines.question_answering`, release 5.0; later ones have no such pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_sig.words.encoding import Batch
from captum_sig.words.grouping import Span

MAX_TOKENS = 15  # of an answer that is found
N_CANDIDATES = 12
MAX_QUOTED = 60  # characters of an answer in a message


@dataclass(frozen=True)
class Answer:
    """A part of the context, from one token to another."""

    first: int  # position
    last: int
    start: int | None  # characters of the context; None if the tokenizer keeps none
    end: int | None
    text: str
    p_start: float  # probability that the answer starts at its first token
    p_end: float
    score: float  # the pipeline's; for an answer that the caller gives, p_start · p_end


@dataclass(frozen=True)
class Context:
    """The tokens of a context that a model reads, of a question and its context."""

    text: str
    positions: Sequence[int]  # N
    words: Sequence[Span]  # the word of each token
    places: Sequence[tuple[int, int] | None]  # characters of each token
    answerless: Sequence[int]  # positions that stand for no answer: [CLS]
    is_cut: bool

    @classmethod
    def of(cls, batch: Batch, number: int, cls_id: int | None) -> Context:
        """Find the context's tokens in an encoded pair.

        Args:
            batch: pairs of a question and its context.
            number: the pair's place in the batch.
            cls_id: the tokenizer's.
        """
        one = batch.inputs[number]
        found = [
            (position, word)
            for position, word in enumerate(batch.words_at[number])
            if word is not None and word.side == "text_pair"
        ]
        places = [_place(word.start, word.end) for _, word in found]
        if batch.offsets is not None:
            start = len(one.joined) - len(one.pair or "")
            offsets = [batch.offsets[number][position] for position, _ in found]
            places = [(first - start, last - start) for first, last in offsets]
        ids = batch.ids[number].tolist()
        return cls(
            text=one.pair or "",
            positions=[position for position, _ in found],
            words=[word for _, word in found],
            places=places,
            answerless=[position for position, token in enumerate(ids) if token == cls_id],
            is_cut=batch.dropped[number] > 0,
        )

    def found(self, logits: Tensor) -> Answer:
        """Return the answer that the model finds.

        Args:
            logits: start and end logits at each position, (L, 2).
        """
        of_start, of_end = self._probabilities(logits)
        n_tokens = len(self.positions)
        lengths = torch.arange(min(MAX_TOKENS, n_tokens))
        last = torch.arange(n_tokens)[:, None] + lengths  # (N, length)
        scores = of_start[:, None] * of_end[last.clamp(max=n_tokens - 1)]
        scores = scores.masked_fill(last >= n_tokens, -1.0).flatten()
        order = scores.argsort(descending=True, stable=True)[:N_CANDIDATES]
        answers: dict[str, Answer] = {}  # by their text in lower case, the most probable first
        for index in order[scores[order] >= 0].tolist():
            first, length = divmod(index, len(lengths))
            answer = self._answer(first, first + length, of_start, of_end)
            known = answers.setdefault(answer.text.lower(), replace(answer, score=0.0))
            score = known.score + answer.score
            answers[answer.text.lower()] = replace(known, score=score)
        return max(answers.values(), key=lambda answer: answer.score)

    def given(self, characters: tuple[int, int], logits: Tensor) -> Answer:
        """Return the answer in some characters of the context; arguments as in `found`.

        Raises:
            ValueError: if no token that the model reads shows them, or not all of them.
        """
        start, end = characters
        bare = self.text[start:end].strip() or self.text[start:end]
        first = self.text.index(bare, start)  # some tokens show the space before a word
        last = first + len(bare)
        shows = [
            place is not None and place[0] < last and place[1] > first for place in self.places
        ]
        read = max((place[1] for place in self.places if place is not None), default=0)
        if self.is_cut and self.text[max(read, start) : end].strip():
            raise ValueError(
                f"the answer {_short(self.text[start:end])} is beyond the tokens that the model "
                "reads of the context: shorten what stands before it"
            )
        if bare.isspace() or not any(shows):
            raise ValueError(
                f"no token of the context shows the answer {_short(self.text[start:end])}: pass "
                "another"
            )
        tokens = [token for token, is_shown in enumerate(shows) if is_shown]
        answer = self._answer(tokens[0], tokens[-1], *self._probabilities(logits))
        return replace(answer, start=start, end=end, text=self.text[start:end])

    def _probabilities(self, logits: Tensor) -> Tensor:  # (2, N)
        counted = [*self.positions, *self.answerless]
        return logits.double().nan_to_num()[counted].softmax(0)[: len(self.positions)].T

    def _answer(self, first: int, last: int, of_start: Tensor, of_end: Tensor) -> Answer:
        """Return the whole words from one of the tokens, of N, to another."""
        start, end = self.words[first].start, self.words[last].end
        words = dict.fromkeys(word.word for word in self.words[first : last + 1])
        has_place = start is not None and end is not None
        p_start, p_end = float(of_start[first]), float(of_end[last])
        return Answer(
            first=self.positions[first],
            last=self.positions[last],
            start=start if has_place else None,
            end=end if has_place else None,
            text=self.text[start:end] if has_place else " ".join(words),
            p_start=p_start,
            p_end=p_end,
            score=p_start * p_end,
        )


def _place(start: int | None, end: int | None) -> tuple[int, int] | None:
    return None if start is None or end is None else (start, end)


def _short(text: str) -> str:
    return repr(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]} …")
