"""Second differences of the strongest words: exact, and named by what they mean."""

import itertools
import json

import pytest
import torch

from captum_sig import TextClassificationExplainer, WordAttribution
from captum_sig.explainers.classification import read_labels
from captum_sig.explainers.game import Game
from captum_sig.explainers.interactions import interactions, joint_effects, pair_kind
from captum_sig.explainers.results import Interaction
from captum_sig.explainers.scoring import text_generator
from captum_sig.words.inputs import TextInput
from tests.tiny_models import MASK, TEXTS, bert, wordpiece_tokenizer

TEXT = "The movie is not unbelievable, not good."
METHODS = ["sig", "sig:two_sided", "sig:auto", "sig:sampled3", "sequential_dig", "ig", "random"]


@pytest.fixture(scope="module")
def explainer():
    return TextClassificationExplainer(bert(), wordpiece_tokenizer())


def differences_by_hand(model, text, target):
    """Second differences of all pairs of words, from plain ids with MASKs."""
    encoding = wordpiece_tokenizer()(text, return_tensors="pt")
    word_ids = encoding.word_ids()

    def value(*removed):
        ids = encoding["input_ids"].clone()
        ids[0, [p for p, word in enumerate(word_ids) if word in removed]] = MASK
        with torch.no_grad():
            logits = model(ids, attention_mask=encoding["attention_mask"]).logits
        return float(logits[0, target])

    n_words = max(word for word in word_ids if word is not None) + 1
    return {
        (i, j): value() - value(i) - value(j) + value(i, j)
        for i, j in itertools.combinations(range(n_words), 2)
    }


def strongest(result, k):
    order = sorted(range(len(result.words)), key=lambda n: -abs(result.words[n].score))
    return sorted(order[:k])


@pytest.mark.filterwarnings("ignore:sequential_dig is far")
@pytest.mark.parametrize("method", METHODS)
def test_they_are_the_differences_by_hand_of_the_methods_strongest_words(explainer, method):
    for result in explainer(TEXTS, 1, method, interactions=4):
        expected = differences_by_hand(explainer.model, result.text, 1)
        chosen = strongest(result, 4)
        pairs = set(itertools.combinations(chosen, 2))
        assert {pair.words for pair in result.interactions} == pairs
        for pair in result.interactions:
            assert pair.value == pytest.approx(expected[pair.words], abs=1e-10)
        sizes = [abs(pair.value) for pair in result.interactions]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("method", ["sig", "ig", "sig:two_sided"])
def test_a_list_equals_each_text_alone(explainer, method):
    together = explainer([*TEXTS, *TEXTS[::-1]], method=method, interactions=3)
    for found, text in zip(together, [*TEXTS, *TEXTS[::-1]], strict=True):
        (alone,) = explainer([text], method=method, interactions=3)
        assert [p.words for p in found.interactions] == [p.words for p in alone.interactions]
        assert [p.kind for p in found.interactions] == [p.kind for p in alone.interactions]
        assert [p.value for p in found.interactions] == pytest.approx(
            [p.value for p in alone.interactions], abs=1e-10
        )


@pytest.mark.parametrize(
    ("method", "n_single"),
    [("sig", 0), ("sig:two_sided", 0), ("sig:sampled1", 4), ("ig", 4), ("random", 4)],
)
def test_rows(explainer, method, n_single):
    """A row for each pair, and one for each word that the method does not leave out itself."""
    n_rows = []

    def count(module, args, kwargs):
        n_rows.append(len(kwargs["input_ids"]))

    options = {"method": method, "internal_batch_size": 1}
    handle = explainer.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        explainer([TEXT, TEXT], **options)
        without = sum(n_rows)
        explainer([TEXT, TEXT], **options, interactions=4)
    finally:
        handle.remove()
    assert sum(n_rows) - 2 * without == 2 * (4 * 3 // 2 + n_single)


def test_a_word_that_does_not_differ_takes_no_row_and_changes_nothing():
    explainer = TextClassificationExplainer(bert(), wordpiece_tokenizer(), baseline="unk")
    result = explainer("not zzz good", 1, interactions=3)
    assert result.words[1].score == 0.0
    values = {pair.words: pair for pair in result.interactions}
    assert values[0, 1].value == values[1, 2].value == 0.0
    assert values[0, 1].kind == values[1, 2].kind == "independent"
    assert values[0, 2].value != 0.0
    with pytest.warns(UserWarning, match="nothing differs"):
        (pair,) = explainer("zzz qqq", 1, interactions=2).interactions
    assert pair == Interaction((0, 1), 0.0, "independent")


def test_random_baselines_give_the_mean_over_their_draws():
    options = {"baseline": "uniform", "seed": 3}
    explainer = TextClassificationExplainer(bert(), wordpiece_tokenizer(), n_draws=3, **options)
    found = explainer(TEXT, 1, interactions=3).interactions
    (batch,) = explainer._batches([TextInput(TEXT)], 1, True)
    generators = [text_generator(TEXT, 3)]
    question = explainer._question(batch, read_labels([[1]]), 1)
    games = [Game.of(batch, "POSITIVE", question.problem(generators, column=0)) for _ in range(3)]
    for pair in found:
        masks = torch.ones(4, 9, dtype=torch.bool)
        masks[1, pair.words[0]] = masks[2, pair.words[1]] = False
        masks[3, list(pair.words)] = False
        values = sum(game(masks) for game in games) / 3
        assert pair.value == pytest.approx(values @ [1, -1, -1, 1], abs=1e-10)
    assert found == explainer(["bad", TEXT], 1, interactions=3)[1].interactions
    other = TextClassificationExplainer(
        bert(), wordpiece_tokenizer(), n_draws=3, baseline="uniform", seed=4
    )
    assert found != other(TEXT, 1, interactions=3).interactions


def test_tokens_are_the_units_at_their_level(explainer):
    tokens = TextClassificationExplainer(explainer.model, wordpiece_tokenizer(), level="token")
    assert explainer("movies", interactions=2).interactions == ()
    (pair,) = tokens("movies", interactions=2).interactions
    assert pair.words == (0, 1)


@pytest.mark.parametrize("text", ["", "  ", "[SEP]", "bad"])
def test_fewer_than_two_words_have_no_interaction(explainer, text):
    result = explainer(text, interactions=5)
    assert result.interactions == ()
    assert result.to_dict()["interactions"] == []
    assert explainer([text, TEXT], interactions=2)[0].interactions == ()


def test_a_tokenizer_without_special_tokens():
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    explainer = TextClassificationExplainer(bert(), tokenizer)
    assert explainer("", interactions=2).interactions == ()


def test_more_than_the_words_are_all_words(explainer):
    short, long = explainer(["bad movies!", TEXT], interactions=100)
    assert (len(short.interactions), len(long.interactions)) == (3, 9 * 8 // 2)


@pytest.mark.parametrize("k", [1, 0, -2, 2.0, True, "3"])
def test_an_interaction_of_one_word(explainer, k):
    message = "an interaction takes two words: interactions must be an integer of at least 2, got "
    with pytest.raises(ValueError, match=message):
        explainer(TEXT, interactions=k)


def test_json(explainer):
    result = explainer(TEXT, interactions=3)
    data = json.loads(json.dumps(result.to_dict()))
    assert data["interactions"][0]["words"] == list(result.interactions[0].words)
    assert WordAttribution.from_dict(data) == result
    assert hash(result) == hash(WordAttribution.from_dict(data))
    plain = explainer(TEXT)
    assert plain.interactions is None
    assert "interactions" not in plain.to_dict()
    assert plain.to_captum_record().raw_input_ids == result.to_captum_record().raw_input_ids


def test_half_precision_and_one_row_at_a_time(explainer):
    wide = explainer(TEXT, 1, interactions=3).interactions
    single = explainer(TEXT, 1, interactions=3, internal_batch_size=1).interactions
    assert [p.value for p in single] == pytest.approx([p.value for p in wide], abs=1e-10)
    narrow = TextClassificationExplainer(bert().bfloat16(), wordpiece_tokenizer())
    for pair in narrow(TEXT, 1, interactions=3).interactions:
        expected = differences_by_hand(explainer.model, TEXT, 1)[pair.words]
        assert pair.value == pytest.approx(expected, abs=0.05)


def test_what_is_known_of_single_words_is_used(explainer):
    (batch,) = explainer._batches([TextInput(TEXT)], 1, True)
    question = explainer._question(batch, read_labels([[1]]), 1)
    problem = question.problem([text_generator(TEXT, 0)], column=0)
    positions = [[span.position for span in batch.spans[0]]]
    effects = joint_effects(problem, positions)
    assert torch.equal(effects, effects.transpose(1, 2))
    known = problem.paths.scatter(problem.word_effects().mean)[0]
    known[0, positions[0][0]] = torch.nan
    assert torch.allclose(joint_effects(problem, positions, known), effects, atol=1e-12)


@pytest.mark.parametrize(
    ("effects", "difference", "largest", "kind"),
    [
        ((1.0, 2.0), 0.0, 2.0, "independent"),
        ((1.0, 2.0), 0.2, 2.0, "independent"),  # within a tenth
        ((1.0, 2.0), 0.3, 2.0, "only together"),
        ((1.0, 2.0), -0.3, 2.0, "say the same"),
        ((-1.0, -2.0), 0.3, 2.0, "say the same"),  # against the label
        ((0.0, 0.0), 1.0, 1.0, "say the same"),
        ((1.0, 1.0), 1.0, 1.0, "only together"),
        ((-2.0, -1.0), -2.0, 2.0, "turns it"),
        ((-0.2, 3.1), 1.5, 4.0, "turns it"),  # "but" takes back "not"
        ((1.0, 0.9), 0.95, 2.0, "only together"),  # both near 0 alone, of whatever sign
        ((2.0, 0.1), 1.1, 2.0, "turns it"),  # a tenth of what it turns to, but taken back
        ((2.0, 0.2), 1.2, 2.0, "turns it"),
        ((0.0, 0.0), 0.0, 0.0, "independent"),
    ],
)
def test_kinds(effects, difference, largest, kind):
    assert pair_kind(effects, difference, largest) == kind
    assert pair_kind(effects[::-1], difference, largest) == kind
    negative = tuple(-effect for effect in effects)
    assert pair_kind(negative, -difference, largest) == kind


def test_ties_keep_the_order_of_the_words():
    effects = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert [p.words for p in interactions([0, 4, 7], effects)] == [(0, 4), (0, 7), (4, 7)]
    assert interactions([], torch.zeros(0, 0)) == ()
