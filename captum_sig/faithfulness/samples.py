"""The ablation "sample": what a masked language model would write in place of the deleted words.

All ablated tokens t₁, …, tₘ of a sentence are masked at once, and drawn in n = `n_passes` turns: tᵢ
in turn 1 + (i − 1) mod n, from the language model's distribution given the words that are kept, the
tokens of earlier turns, and masks.

Up to n tokens are drawn one by one from left to right, which is a joint distribution: the words
fit the text and each other. Drawn independently from one pass (n = 1), each would fit the text
alone. Of more than n tokens, those of a turn are independent, and no two that follow each other are
of one turn. To draw all of them one by one would take as many passes, mostly for sentences of which
too little is kept to predict anything.

The model may draw the token that stood there. Special and unknown tokens are never drawn. The
number of tokens stays, and so does everything that the classifier reads besides. The result is a
text: the classifier receives its ids, in contrast to the ablation "replace".

After Kim et al. (2020), "Interpretation of NLP models through input marginalization", who average
over a masked language model's tokens in place of one word, and Harbecke & Alt (2020), "Considering
Likelihood in NLP Classification Explanations with Occlusion and Language Modeling", who sample.

B sentences, L tokens in one, K draws, N tokens to draw from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._numbers import MAX_N_DRAWS, checked_integer
from captum_sig.baselines.masked_lm import (
    MAX_LOGITS,
    check_masked_lm,
    in_eval_mode,
    token_logits,
)
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness.ablations import Ablated, Row, row_ids, unchanged
from captum_sig.words.encoding import Sentence, token_limit
from captum_sig.words.grouping import ordinary_tokens

MAX_REMEMBERED = 2**14  # sampled sentences with K texts each: metrics and methods often share them

_Key = tuple[bytes, bytes]  # ids, what is ablated


class MaskedLmSamples:
    """Replaces ablated tokens with samples of a masked language model: an ablation with K rows.

    The K uniform numbers of each position depend on the seed and the sentence alone, and each token
    is the one whose interval of the cumulative distribution holds its number. So where two methods
    ablate the same words, they are compared on the same texts, and where they ablate nearly the
    same, on similar ones.

    Args:
        tokenizer: the classifier's tokenizer, with a mask token.
        masked_lm: a model of transformers' AutoModelForMaskedLM with the tokenizer's vocabulary; it
            stays on its device and keeps its mode, and runs in eval mode.
        n_draws: K, the number of texts that a metric averages over.
        seed: of the draws.
        n_passes: the most turns; 1 draws all tokens independently.
        embedding: the explained model's word embedding; if it has more rows than the tokenizer has
            tokens, `masked_lm` may have as many.
        max_logits: maximum number of the language model's logits in a pass.

    Raises:
        ValueError: if the tokenizer has no mask token, the language model has another vocabulary,
            or a number is not an integer or too small.
    """

    def __init__(
        self,
        tokenizer: Any,
        masked_lm: Any,
        *,
        n_draws: int = 5,
        seed: int = 0,
        n_passes: int = 4,
        embedding: nn.Module | None = None,
        max_logits: int = MAX_LOGITS,
    ) -> None:
        check_masked_lm(
            tokenizer, masked_lm=masked_lm, embedding=embedding, used_by="ablation 'sample'"
        )
        self.masked_lm, self.mask_id = masked_lm, int(tokenizer.mask_token_id)
        tokens = ordinary_tokens(tokenizer, masked_lm.config.vocab_size)
        unknown = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        self.tokens = tokens[tokens != unknown]
        self.n_draws = checked_integer("n_draws", n_draws, most=MAX_N_DRAWS)
        self.seed = checked_integer("seed", seed, 0)
        self.n_passes = checked_integer("n_passes", n_passes)
        self.max_logits = max_logits
        self._remembered: dict[_Key, Tensor] = {}

    def __call__(self, requests: Sequence[Ablated]) -> list[list[Row]]:
        """Return K rows for each sentence: texts without its ablated tokens."""
        return [list(map(unchanged, texts)) for texts in self.texts(requests)]

    def texts(self, requests: Sequence[Ablated]) -> list[Tensor]:
        """Sample the token ids of K texts for each sentence, (K, L) each.

        Raises:
            ValueError: if a sentence is too long for the language model.
        """
        keys = [_key(*request) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in self._remembered
        }
        of_length: dict[int, dict[_Key, Ablated]] = {}
        for key, request in missing.items():
            of_length.setdefault(len(request[1]), {})[key] = request
        sampled: dict[_Key, Tensor] = {}
        for length, alike in of_length.items():
            self._check(length)
            sampled.update(zip(alike, self._sampled(list(alike.values())), strict=True))
        texts = [sampled[key] if key in sampled else self._remembered[key] for key in keys]
        if len(self._remembered) + len(sampled) > MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered.update(sampled)
        return texts

    def _check(self, length: int) -> None:
        limit = token_limit(self.masked_lm)
        if length > limit:
            raise ValueError(
                f"a text has {length} tokens, but masked_lm reads at most {limit}: truncate it"
            )

    def _sampled(self, requests: Sequence[Ablated]) -> Tensor:
        """Sample texts for sentences of one length, (B, K, L)."""
        ids = torch.stack([row_ids(sentence) for sentence, _ in requests])
        gone = torch.stack([ablated.cpu() for _, ablated in requests])
        uniform = torch.stack([self._uniform(sentence) for sentence, _ in requests])
        b, k, length = uniform.shape
        rows = ids.masked_fill(gone, self.mask_id).repeat_interleave(k, dim=0)  # (B K, L)
        gone = gone.repeat_interleave(k, dim=0)
        uniform = uniform.view(b * k, length)
        place = gone.cumsum(1) - 1  # of each ablated token among those of its row
        for turn in range(min(self.n_passes, int(gone.sum(1).max()))):
            now = gone & (place % self.n_passes == turn)
            active = now.any(1)
            rows[active] = self._drawn(rows[active], now[active], uniform[active])
        return rows.view(b, k, length)

    def _uniform(self, sentence: Sentence) -> Tensor:
        """Draw a number for each draw and position, (K, L)."""
        generator = text_generator(" ".join(map(str, sentence.ids.tolist())), self.seed)
        shape = self.n_draws, len(sentence.ids)
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def _drawn(self, rows: Tensor, now: Tensor, uniform: Tensor) -> Tensor:
        """Draw the tokens of some positions, given rows of ids and masks; (R, L) each."""
        # Equal rows, as all draws have at first, need one pass.
        alike, of_row = torch.stack([rows, now.long()], 1).unique(dim=0, return_inverse=True)
        members = [(of_row == number).nonzero()[:, 0] for number in range(len(alike))]
        drawn = rows.clone()
        masked_lm = in_eval_mode(self.masked_lm)
        for places, logits in token_logits(
            masked_lm, alike[:, 0], alike[:, 1].bool(), self.tokens, max_logits=self.max_logits
        ):
            steps = logits.softmax(-1).cumsum(-1, dtype=torch.float64).cpu()  # (n, N)
            for (number, position), cumulative in zip(places.tolist(), steps, strict=True):
                numbers = uniform[members[number], position] * cumulative[-1]
                chosen = torch.searchsorted(cumulative, numbers, right=True)
                chosen = chosen.clamp(max=len(self.tokens) - 1)
                drawn[members[number], position] = self.tokens[chosen]
        return drawn


def _key(sentence: Sentence, ablated: Tensor) -> _Key:
    return row_ids(sentence).numpy().tobytes(), ablated.cpu().numpy().tobytes()
