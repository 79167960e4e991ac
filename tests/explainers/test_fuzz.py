"""Texts of all Unicode planes, as hypothesis draws them, through the explainers and into pages."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_sig import (
    GenerationAttribution,
    TextClassificationExplainer,
    TextGenerationExplainer,
    WordAttribution,
    viz,
)
from tests.tiny_language_models import byte_level_tokenizer, causal
from tests.tiny_models import spread, wordpiece_tokenizer

SETTINGS = settings(derandomize=True, deadline=None, database=None, max_examples=120)
AWKWARD = ["<script>alert(1)</script>", "&amp;", "'\"`", "\u202e", "\u0301", "\u200d", "\ufe0f",
           "😀", "है", "\U0001f468\u200d\U0001f469", "שלום", "\x00", "\x1b[31m", "\r\n", "=1+1",
           "not", "good", "[MASK]", "[SEP]", "\U000e0041", "\uffff", "a" * 300]  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=40), st.lists(st.sampled_from(AWKWARD), max_size=8).map(" ".join),
    st.lists(st.one_of(st.text(min_size=1, max_size=1), st.sampled_from(AWKWARD)),
             max_size=12).map("".join),
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore")  # of texts that are cut, or that hold [SEP]


class Reader(HTMLParser):
    """The tags of a page, each with the names of its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[tuple[str, ...]] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add((tag, *sorted(name for name, _ in attrs)))


def tags(page: str) -> set[tuple[str, ...]]:
    reader = Reader()
    reader.feed(page)
    return reader.tags


def check_page(page: str, harmless: str) -> None:
    """No text becomes markup, or turns what stands beside it."""
    assert {tag for tag, *_ in tags(page)} <= {tag for tag, *_ in tags(harmless)} | {"br"}
    attributes = [{name for _, *names in tags(one) for name in names} for one in (page, harmless)]
    assert attributes[0] <= attributes[1]
    assert not {"\u202e", "\u2066", "\x1b", "\x00"} & set(page)


@pytest.fixture(scope="module")
def classify() -> TextClassificationExplainer:
    from tests.tiny_models import ARCHITECTURES

    return TextClassificationExplainer(spread(ARCHITECTURES["bert"]()), wordpiece_tokenizer())


@pytest.fixture(scope="module")
def generate() -> TextGenerationExplainer:
    return TextGenerationExplainer(causal("gpt2"), byte_level_tokenizer())


@pytest.fixture(scope="module")
def harmless_page(classify) -> str:
    """With lists of words, and a switch for punctuation."""
    long = "not good, movie!\n" + "a" * 700
    return viz.to_page([classify("not good"), classify(long)])


@pytest.fixture(scope="module")
def harmless_matrix(generate) -> str:
    return generate("not good\n", " good").to_html()


@SETTINGS
@given(text=TEXTS)
def test_classification(classify, harmless_page, text):
    if not text.strip():
        return
    found = classify(text)
    ends = [0]
    for word in found.words:
        assert text[word.start : word.end] == word.word
        assert ends[-1] <= word.start < word.end
        ends.append(word.end)
    check_page(viz.to_page([found]), harmless_page)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert WordAttribution.from_dict(plain) == found


@SETTINGS
@given(prompt=TEXTS)
def test_generation(generate, harmless_matrix, prompt):
    if not prompt.strip() or len(prompt.encode()) > 30:
        return  # the model is tiny
    found = generate(prompt, " good")
    assert found.matrix.isfinite().all()
    assert found.matrix.shape[1] == len(found.words)
    check_page(found.to_html(), harmless_matrix)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert GenerationAttribution.from_dict(plain) == found
