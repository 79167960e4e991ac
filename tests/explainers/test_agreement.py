"""What the labels of words and pairs say, on games in closed form and on planted words.

What counts as a turn was chosen on the first 16 synonyms and 15 negations; the other sentences were
written afterwards, before their labels were known.
"""

import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.explainers.results import agreement
from tests.problems import GameOfWords, either

MANY = 1_000  # more than the words of a text


def explained(rule, text="good bad movie"):
    model = GameOfWords(rule)
    explainer = TextClassificationExplainer(model, model.tokenizer)
    return explainer(text, "yes", "sig:two_sided", interactions=MANY)


SAME, TOGETHER, TURNS, APART = "say the same", "only together", "turns it", "independent"


@pytest.mark.parametrize(
    ("rule", "words", "pairs"),
    [
        (
            lambda good, bad, movie: good + 2 * bad - movie,
            ["additive", "additive", "additive"],
            {(0, 1): APART, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: either(good, bad) + movie,
            ["redundant", "redundant", "additive"],
            {(0, 1): SAME, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: -either(good, bad) + movie,  # against the label
            ["redundant", "redundant", "additive"],
            {(0, 1): SAME, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: good * bad + movie,
            ["synergistic", "synergistic", "additive"],
            {(0, 1): TOGETHER, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: good * (1 - 2 * bad) + movie,  # "bad" negates
            ["synergistic", "synergistic", "additive"],
            {(0, 1): TURNS, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: either(good * bad, movie),
            ["additive", "additive", "redundant"],  # "good" is worth 0 first and last
            {(0, 1): APART, (0, 2): SAME, (1, 2): SAME},  # but 1 without "movie"
        ),
        (
            lambda good, bad, movie: good * either(bad, movie),
            ["synergistic", "additive", "additive"],
            {(0, 1): APART, (0, 2): APART, (1, 2): SAME},
        ),
    ],
)
def test_games_in_closed_form(rule, words, pairs):
    result = explained(rule)
    assert [word.agreement for word in result.words] == words
    assert {pair.words: pair.kind for pair in result.interactions} == pairs
    for pair in result.interactions:
        i, j = pair.words

        def value(*removed):
            kept = [torch.tensor([0.0 if word in removed else 1.0]) for word in range(3)]
            return float(rule(*kept))

        expected = value() - value(i) - value(j) + value(i, j)
        assert pair.value == pytest.approx(expected, abs=1e-12)


def test_a_small_difference_is_rounding_or_noise():
    assert agreement(1.0, 0.95, 1.0) == "additive"
    result = explained(lambda good, bad, movie: good + bad + 0.05 * good * bad)
    assert {pair.kind for pair in result.interactions} == {APART}
    assert {word.agreement for word in result.words} == {"additive"}


SYNONYMS = [
    ("The film is brilliant and wonderful.", "brilliant", "wonderful"),
    ("A charming, delightful story about two brothers.", "charming", "delightful"),
    ("An awful, terrible waste of two hours.", "awful", "terrible"),
    ("The plot is dull and boring from start to end.", "dull", "boring"),
    ("It is a beautiful and moving portrait of a family.", "beautiful", "moving"),
    ("The jokes are stupid and the story is lame.", "stupid", "lame"),
    ("What a clever, engaging and quiet film.", "clever", "engaging"),
    ("A tedious and pointless sequel.", "tedious", "pointless"),
    ("The cast is superb and the music is excellent.", "superb", "excellent"),
    ("The dialogue is bland and the acting is flat.", "bland", "flat"),
    ("I found it funny and hilarious in every scene.", "funny", "hilarious"),
    ("The film was bad, and the ending was worse.", "bad", "worse"),
    ("An enjoyable, entertaining evening at the cinema.", "enjoyable", "entertaining"),
    ("The script is a mess and the direction is a failure.", "mess", "failure"),
    ("A powerful and gripping drama.", "powerful", "gripping"),
    ("The story is silly and the humour is annoying.", "silly", "annoying"),
    ("A smart, witty look at life in the city.", "smart", "witty"),
    ("A fresh and inventive thriller.", "fresh", "inventive"),
    ("It is a warm, touching film about old friends.", "warm", "touching"),
    ("The book is ugly and depressing.", "ugly", "depressing"),
    ("An exhausting and pretentious lecture.", "exhausting", "pretentious"),
    ("A sloppy, lifeless remake.", "sloppy", "lifeless"),
]
NEGATIONS = [
    ("The film is not good.", "not", "good"),
    ("The acting is never convincing.", "never", "convincing"),
    ("It is not a great movie.", "not", "great"),
    ("The jokes are not funny at all.", "not", "funny"),
    ("This is not a bad film.", "not", "bad"),
    ("The story is never boring.", "never", "boring"),
    ("The script is hardly clever.", "hardly", "clever"),
    ("There is nothing interesting in the plot.", "nothing", "interesting"),
    ("The second half is not dull.", "not", "dull"),
    ("The ending is not satisfying.", "not", "satisfying"),
    ("The film lacks charm.", "lacks", "charm"),
    ("It is a comedy without laughs.", "without", "laughs"),
    ("The result is not a disaster.", "not", "disaster"),
    ("Nobody could call it entertaining.", "Nobody", "entertaining"),
    ("The characters are not likable.", "not", "likable"),
    ("This is never a pleasant film.", "never", "pleasant"),
    ("The dialogue is not witty.", "not", "witty"),
    ("The young actors are not impressive.", "not", "impressive"),
    ("I did not like the ending.", "not", "like"),
    ("The remake is not terrible.", "not", "terrible"),
    ("The visuals are not ugly.", "not", "ugly"),
    ("The film is no masterpiece.", "no", "masterpiece"),
]


def labels(explainer, sentences):
    """Return (kind of the planted pair, agreement of its words) of each sentence."""
    texts = [text for text, *_ in sentences]
    found = []
    for result, (_, *planted) in zip(
        explainer(texts, method="sig:two_sided", interactions=MANY), sentences, strict=True
    ):
        words = [word.word for word in result.words]
        at = tuple(sorted(map(words.index, planted)))
        (kind,) = (pair.kind for pair in result.interactions if pair.words == at)
        found.append((kind, *(result.words[words.index(word)].agreement for word in planted)))
    return found


def share(values, right):
    return sum(value in right for value in values) / len(values)


def check_planted(explainer, *, turned):
    """Most of the labels are right; `turned`: the least share of negations that turn a word."""
    same, negated = labels(explainer, SYNONYMS), labels(explainer, NEGATIONS)
    assert share([kind for kind, *_ in same], [SAME]) >= 0.9
    assert share([label for _, *both in same for label in both], ["redundant"]) >= 0.9
    assert share([kind for kind, *_ in negated], [TURNS]) >= turned
    assert share([kind for kind, *_ in negated], [SAME, APART]) <= 0.1
    assert share([negation for _, negation, _ in negated], ["synergistic"]) >= 0.85


def test_planted_words(demo):
    """The demo model reads some negations as bad words of their own: "not witty"."""
    check_planted(demo, turned=0.6)


def test_planted_words_and_a_trained_bert(shared):
    path = shared / "models/minilm-sst2"
    check_planted(TextClassificationExplainer.from_pretrained(path), turned=0.8)
