"""The strongest words exactly, the others by estimate."""

import json
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from captum_sig import TextClassificationExplainer, WordAttribution, contexts
from captum_sig.explainers.results import Audit
from captum_sig.explainers.top import AUDITED, ESTIMATED, Plan, choose
from tests.tiny_models import WORDS, spread, wordpiece_tokenizer

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "vocab_size": 64, "max_position_embeddings": 130}  # fmt: skip
M = 7


def long_tokenizer() -> Any:
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_max_length = 130
    return tokenizer


def text_of(n_words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS[:9], k=n_words))


LONG = [text_of(n, n) for n in (60, 75, 90)]
SHORT = ["bad", text_of(M, 1), text_of(20, 2)]


@pytest.fixture(scope="module")
def explainer() -> TextClassificationExplainer:
    model = spread(BertForSequenceClassification(BertConfig(**SHAPE)))
    return TextClassificationExplainer(model, long_tokenizer())


def evidence(result: WordAttribution) -> list[str | None]:
    return [word.evidence for word in result.words]


def known(result: WordAttribution) -> list[int]:
    return [i for i, of_word in enumerate(evidence(result)) if of_word != "estimated"]


@pytest.mark.parametrize("method", ["sig", "sig:two_sided", "sig:sampled3"])
def test_exact_and_audited_words_have_the_scores_of_the_full_sweep(explainer, method):
    for text in LONG:
        full, found = (explainer(text, method=method, top=top) for top in (None, M))
        assert found.method == full.method
        assert found.max_abs_word_delta < 1e-12
        assert evidence(found).count("exact") == M
        for i in known(found):
            assert found.scores[i] == pytest.approx(full.scores[i], abs=1e-12)
            assert found.words[i].first == pytest.approx(full.words[i].first, abs=1e-12)
            assert found.words[i].standard_error == pytest.approx(
                full.words[i].standard_error, abs=1e-12
            )


def test_audit_counts_words_and_bounds_by_the_audited(explainer):
    (text, *_) = LONG
    found = explainer(text, method="sig:two_sided", top=M)
    audited = [word.score for word in found.words if word.evidence == "audited"]
    bound = max(map(abs, audited))
    assert found.audit == Audit(M, 9, 60 - M - 9, pytest.approx(bound), pytest.approx(0.9))
    assert f"{M + 9} of 60 words exact, another within ±{bound:.2g} at 90%" in found.summary
    estimated = [word for word in found.words if word.evidence == "estimated"]
    assert len(estimated) == found.audit.n_estimated
    assert all(word.first is word.last is word.agreement is None for word in estimated)
    assert found.residual is None


class Planted(nn.Module):
    """Two classes by Σ of the tokens' values; what is planted decides, and says the same."""

    def __init__(self) -> None:
        """Values of 0 to 0.1, and 3 for two words."""
        super().__init__()
        self.config = BertConfig(vocab_size=64, pad_token_id=0)
        self.embedding = nn.Embedding(64, 1)
        ids = wordpiece_tokenizer()(["gorgeous", "mess"])["input_ids"]
        with torch.no_grad():
            self.embedding.weight.copy_(torch.linspace(0, 0.1, 64)[:, None])
            self.embedding.weight[[row[1] for row in ids]] = 3.0
        self.double().eval()

    def get_input_embeddings(self) -> nn.Embedding:
        """As transformers' models have it."""
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> object:
        """Saturates: in the text, each of two words that say the same loses little."""
        total = (self.embedding(input_ids)[..., 0] * attention_mask).sum(1)
        return SequenceClassifierOutput(
            logits=torch.stack([torch.zeros_like(total), 4 * torch.tanh(total / 4)], dim=1)
        )


def test_planted_words_are_found_where_no_rule_applies():
    explainer = TextClassificationExplainer(Planted(), long_tokenizer())
    words = text_of(100, 3).replace("gorgeous", "good").replace("mess", "good").split()
    words[17], words[60] = "gorgeous", "mess"
    found = explainer(" ".join(words), method="sig:two_sided", top=2)
    assert [i for i, of_word in enumerate(evidence(found)) if of_word == "exact"] == [17, 60]
    assert found.audit.bound < 1
    assert min(found.words[i].first for i in (17, 60)) > 2


def test_estimates_are_in_the_unit_of_effects():
    explainer = TextClassificationExplainer(Planted(), long_tokenizer())
    full, found = (explainer(LONG[0], method="sig:two_sided", top=top) for top in (None, M))
    assert found.audit is not None
    assert found.scores == pytest.approx(full.scores, rel=0.1, abs=2e-3)


@contextmanager
def counted_rows(model: nn.Module) -> Iterator[dict[bool, int]]:
    """How many rows the model receives with a gradient, and without."""
    counts = {True: 0, False: 0}

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        counts[torch.is_grad_enabled()] += len(kwargs["input_ids"])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()


@pytest.mark.parametrize(("method", "sides"), [("sig", 1), ("sig:two_sided", 2)])
def test_rows(explainer, method, sides):
    plan = Plan(90, M, n_backgrounds=sides, both_sides=sides == 2)
    with counted_rows(explainer.model) as counts:
        explainer(LONG[2], method=method, top=M)
    assert counts[True] == {1: 4, 2: 4 + 8}[sides]
    exact = sides * (M + 9 + 1)
    assert exact <= counts[False] <= exact + 8  # the prediction, and rows that are checked alone
    assert plan.n_rows == exact + 3 * counts[True]
    with counted_rows(explainer.model) as of_full:
        explainer(LONG[2], method=method)
    assert counts[False] + 3 * counts[True] < of_full[False]


def test_a_plan_never_takes_more_rows_than_a_full_explanation():
    for n_words in range(1, 200):
        for m in (1, 5, n_words // 4, n_words):
            plan = Plan(n_words, max(1, m), n_backgrounds=2, both_sides=True)
            assert plan.n_rows <= 2 * (n_words + 1)
            assert plan.is_in_full == (plan.n_rows == 2 * (n_words + 1))


def test_a_batch_of_long_and_short_texts_equals_each_alone(explainer):
    texts = [*LONG, *SHORT]
    together = explainer(texts, method="sig:two_sided", top=M)
    for text, found in zip(texts, together, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "top=7 is more than")
            alone = explainer(text, method="sig:two_sided", top=M)
        assert evidence(found) == evidence(alone)
        assert found.scores == pytest.approx(alone.scores, abs=1e-10)
        assert (found.audit is None) == (text in SHORT)


def test_short_texts_are_explained_in_full(explainer):
    full = explainer(SHORT, method="sig:two_sided")
    found = explainer(SHORT, method="sig:two_sided", top=M)
    for before, after in zip(full, found, strict=True):
        assert set(evidence(after)) == {"exact"}
        assert after.scores == pytest.approx(before.scores, abs=1e-12)
        assert after.residual == pytest.approx(before.residual, abs=1e-12)
        assert after.audit is None


def test_the_audit_depends_on_seed_and_text_alone(explainer):
    def audited(seed: int, texts: list[str]) -> list[int]:
        seeded = TextClassificationExplainer(explainer.model, explainer.tokenizer, seed=seed)
        (first, *_) = seeded(texts, method="sig:two_sided", top=M)
        return [i for i, of_word in enumerate(evidence(first)) if of_word == "audited"]

    assert audited(0, LONG[:1]) == audited(0, LONG)
    assert audited(0, LONG[:1]) != audited(1, LONG[:1])


def test_draws_of_a_random_baseline_share_the_words(explainer):
    drawn = TextClassificationExplainer(
        explainer.model, explainer.tokenizer, baseline="uniform", n_draws=2
    )
    full, found = (drawn(LONG[0], method="sig:two_sided", top=top) for top in (None, M))
    assert evidence(found).count("exact") == M
    for i in known(found):
        assert found.scores[i] == pytest.approx(full.scores[i], abs=1e-12)
        assert found.words[i].std == pytest.approx(full.words[i].std, abs=1e-12)


def test_auto_contexts_or_any_callable(explainer):
    def all_sizes(n_words: int) -> Tensor:
        return torch.arange(4)[:, None] * n_words > 3 * torch.arange(n_words)

    full, found = (explainer(LONG[1], contexts=all_sizes, top=top) for top in (None, M))
    for i in known(found):
        assert found.scores[i] == pytest.approx(full.scores[i], abs=1e-12)


@pytest.mark.parametrize(
    "draw", [torch.randn, torch.rand, lambda n, generator: torch.randn(n, generator=generator) ** 5]
)
def test_audit_keeps_its_promise_whatever_the_effects(draw: Callable[..., Tensor]):
    """An estimated word drawn at random exceeds the bound in 1 − confidence of the texts."""
    generator, shares, kept = torch.Generator().manual_seed(0), [], []
    plan = Plan(80, 10, n_backgrounds=2, both_sides=True)
    for _ in range(1000):
        effects = draw(80, generator=generator)
        estimates = effects + 0.5 * effects.std() * torch.randn(80, generator=generator)
        kind = choose(estimates, plan, generator)
        assert kind.bincount().tolist() == [10, 61, 9]
        bound = float(effects[kind == AUDITED].abs().max())
        above = effects[kind == ESTIMATED].abs() > bound
        shares.append(float(above.double().mean()))
        kept.append(int(above.sum()) <= Audit(10, 9, 61, bound, 0.9).most_above(0.9))
    assert mean(shares) == pytest.approx(0.1, abs=0.01)
    assert 0.88 <= mean(kept) <= 0.94


def test_json_keeps_evidence_and_audit(explainer):
    found = explainer(LONG[0], method="sig:two_sided", top=M)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert WordAttribution.from_dict(data) == found
    assert data["audit"]["n_exact"] == M
    plain = explainer(LONG[0]).to_dict()
    assert "audit" not in plain
    assert "evidence" not in plain["words"][0]


@pytest.mark.parametrize("top", [0, -1, 1.5, "a"])
def test_top_must_be_a_number_of_words(explainer, top):
    with pytest.raises((ValueError, TypeError), match="top must be"):
        explainer("bad movie", top=top)


@pytest.mark.parametrize("method", ["ig", "sequential_dig", "shapley"])
def test_top_is_for_methods_with_rows_for_each_word(explainer, method):
    with pytest.raises(
        ValueError, match=f"top saves rows of method 'sig'.*, got method {method!r}"
    ):
        explainer("bad movie", method=method, top=1)


def test_top_is_for_contexts_that_are_not_sampled_until_exact_enough(explainer):
    with pytest.raises(ValueError, match="top gives words exact scores, and contexts 'auto'"):
        explainer("bad movie", method="sig:auto", top=1)


def test_more_than_all_words(explainer):
    with pytest.warns(
        UserWarning, match="top=7 is more than the 2 words of the text, so all words"
    ):
        explainer("bad movie", top=M)
    with pytest.warns(UserWarning, match="the 2 words of the longest text"):
        explainer(["bad movie", "bad"], top=M)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer(["bad movie", LONG[0]], top=M)
        explainer("", top=M)


def test_contexts_may_be_an_instance(explainer):
    found = explainer(LONG[0], contexts=contexts.sampled(2), top=M)
    assert found.audit.n_exact == M


def test_interactions_of_the_strongest_words_take_estimates_for_ranks_alone(explainer):
    full = explainer.game(LONG[0])
    found = explainer(LONG[0], method="sig:two_sided", top=M, interactions=3)
    for pair in found.interactions:
        keeps = torch.ones(4, full.n_players, dtype=torch.bool)
        keeps[1, pair.words[0]] = keeps[2, pair.words[1]] = False
        keeps[3] = keeps[1] & keeps[2]
        all_words, without_i, without_j, without_both = full(keeps).tolist()
        second_difference = all_words - without_i - without_j + without_both
        assert pair.value == pytest.approx(second_difference, abs=1e-10)
