"""Texts far beyond a model's limit: what is read of them is as if they were tokenised whole."""

import random

import pytest

from captum_sig import TextClassificationExplainer
from captum_sig.words.cutting import readable_part
from tests.tiny_models import (
    SlowTokenizer,
    bert,
    byte_level_tokenizer,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)

TOKENIZERS = [wordpiece_tokenizer, byte_level_tokenizer, unsplit_tokenizer, SlowTokenizer]
LIMIT = 40


def ids_of(tokenizer, text):
    return tokenizer(text, truncation=False, verbose=False)["input_ids"]


@pytest.mark.parametrize("make", TOKENIZERS)
def test_the_tokens_that_a_model_reads_stay(make):
    tokenizer, draws = make(), random.Random(0)
    pieces = ["movie", " good", "bad ", "s", "xyz", "!", " ", "\n", "e\u0301", "o" * 30]
    for number in range(8):
        text = "".join(draws.choices(pieces, k=3000 * (1 + number)))
        part = readable_part(tokenizer, text, LIMIT)
        assert text.startswith(part)
        assert len(part) < 10_000 < len(text)
        ends = 1 if tokenizer.sep_token_id is not None else 0
        assert ids_of(tokenizer, part)[: LIMIT - ends] == ids_of(tokenizer, text)[: LIMIT - ends]


@pytest.mark.parametrize(
    "text",
    [
        " " * 300_000 + "good",  # spaces are no tokens
        "good" + "\n" * 300_000 + "bad",
        "x" * 300_000 + " bad",  # an unknown word is one token
        "bad " + "\u0301" * 300_000,  # an accent without a letter is dropped
    ],
)
def test_a_text_that_fits_is_read_whole_however_long(text):
    tokenizer = wordpiece_tokenizer()
    assert len(ids_of(tokenizer, text)) <= LIMIT
    assert readable_part(tokenizer, text, LIMIT) == text


def test_a_model_without_a_limit_reads_everything():
    assert readable_part(wordpiece_tokenizer(), "bad " * 50_000, 10**9) == "bad " * 50_000


class Recorder:
    """A tokenizer that records how many characters it is given at a time."""

    def __init__(self, tokenizer):
        self.tokenizer, self.longest = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __len__(self):
        return len(self.tokenizer)

    def __call__(self, texts, **options):
        given = [texts] if isinstance(texts, str) else texts
        self.longest = max(self.longest, *map(len, given))
        return self.tokenizer(texts, **options)


def test_an_explainer_reads_the_beginning_and_keeps_the_text():
    tokenizer = wordpiece_tokenizer()
    model, long = bert(), "a good movie, " * 100_000
    explainer = TextClassificationExplainer(model, tokenizer)
    explainer.encoder.tokenizer = recorder = Recorder(tokenizer)
    with pytest.warns(UserWarning, match="1 of 2 texts .*: at least .* are dropped") as caught:
        results = explainer(["bad", long])
    assert len(caught) == 1
    assert recorder.longest < 10_000
    assert results[1].text == long
    assert [long[word.start : word.end] for word in results[1].words] == [
        word.word for word in results[1].words
    ]
    with pytest.warns(UserWarning, match="2 of 2 texts"):
        short = explainer([long[:1000], long[:1000]])[0]
    assert results[1].scores == pytest.approx(short.scores, abs=1e-9)
    with pytest.raises(ValueError, match="at least .* would be dropped"):
        explainer(long, truncation=False)
