"""DIG in Captum's verbs, and SIG along its paths."""

import pytest
import torch
from captum.attr import LLMGradientAttribution, TextTokenInput
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from captum_sig import LayerDiscretizedIntegratedGradients, LayerSequentialIntegratedGradients
from captum_sig.attr.dig import DiscretizedPath
from tests.tiny_models import mask_baseline, random_ids, tiny, wordpiece_tokenizer

IDS = random_ids(2, 7, seed=3)
OPTIONS = {"n_anchors": 6, "n_neighbors": 20}


@pytest.fixture(scope="module")
def bert():
    return tiny("bert")


def layer_dig(model, **options: object) -> LayerDiscretizedIntegratedGradients:
    return LayerDiscretizedIntegratedGradients(
        model.logits, model.embedding, **{**OPTIONS, **options}
    )


def output_at(model, ids: Tensor, rows: Tensor) -> Tensor:
    handle = model.embedding.register_forward_hook(lambda *_: rows)
    try:
        return model.logits(ids)[:, 1]
    finally:
        handle.remove()


def by_hand(model, ids: Tensor, base: Tensor, words: list[list[int]]) -> Tensor:
    """Left Riemann sums along the knots; the words of a list move together, list after list."""
    with torch.no_grad():
        x, b = model.embedding(ids), model.embedding(base)
    knots = DiscretizedPath(**OPTIONS)(model.embedding, ids, b)
    paths = knots.points[knots.path_of]  # (1, L, K, D)
    found = torch.zeros_like(x)
    for positions in words:
        for k in range(paths.shape[2] - 1):
            point = x.clone()
            point[:, positions] = paths[:, positions, k]
            point.requires_grad_()
            (gradient,) = torch.autograd.grad(output_at(model, ids, point).sum(), point)
            step = paths[:, :, k + 1] - paths[:, :, k]
            found[:, positions] += (gradient * step)[:, positions]
    return found


def test_attributions_are_left_sums_along_the_published_path(bert):
    base = mask_baseline(IDS)
    found = layer_dig(bert).attribute(IDS, base, target=1)
    for number in range(2):
        one = slice(number, number + 1)
        expected = by_hand(bert, IDS[one], base[one], [list(range(7))])
        torch.testing.assert_close(found[one], expected, atol=1e-10, rtol=0)
    assert found[:, [0, -1]].eq(0).all()  # special tokens


def test_sequential_dig_is_sig_along_the_same_path(bert):
    base = mask_baseline(IDS)
    sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
    groups = torch.tensor([[0, 1, 1, 2, 3, 4, 5]])
    found = sig.integrate(IDS, base, target=1, feature_mask=groups, path=DiscretizedPath(**OPTIONS))
    words = [[1, 2], [3], [4], [5]]
    expected = by_hand(bert, IDS[:1], base[:1], words)
    torch.testing.assert_close(found.attributions[:1], expected, atol=1e-10, rtol=0)
    exact = sig.attribute_words(IDS, base, target=1, feature_mask=groups)
    sums = torch.stack([found.attributions[:, word].sum((1, 2)) for word in words], 1)
    off = sums - exact[:, [1, 3, 4, 5]]
    torch.testing.assert_close(found.word_delta[:, [1, 3, 4, 5]], off, atol=1e-10, rtol=0)
    assert (found.n_evaluations[:, 1] == 7).all()


def test_the_delta_is_the_sentences_and_vanishes_with_the_factor(bert):
    base = mask_baseline(IDS)
    with torch.no_grad():
        change = bert.logits(IDS)[:, 1] - output_at(bert, IDS, bert.embedding(base))
    deltas = []
    for factor in (0, 3, 6):
        dig = layer_dig(bert, factor=factor)
        found, delta = dig.attribute(IDS, base, target=1, return_convergence_delta=True)
        torch.testing.assert_close(delta, found.sum((1, 2)) - change, atol=1e-10, rtol=0)
        again = dig.compute_convergence_delta(found, base, IDS, target=1)
        torch.testing.assert_close(again, delta, atol=1e-10, rtol=0)
        deltas.append(delta.abs().max())
    assert deltas[2] < deltas[0] / 20  # halved six times


@pytest.mark.parametrize("strategy", ["greedy", "maxcount"])
def test_chunks_change_nothing_and_zeros_are_a_baseline_too(bert, strategy):
    dig = layer_dig(bert, strategy=strategy)
    whole = dig.attribute(IDS, layer_baselines=0, target=1)
    parts = dig.attribute(IDS, layer_baselines=0, target=1, internal_batch_size=3)
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)
    assert whole.abs().sum() > 0


def test_without_the_factor_the_gradients_are_averages(bert):
    base = mask_baseline(IDS)
    times = layer_dig(bert).attribute(IDS, base, target=1)
    bare = LayerDiscretizedIntegratedGradients(
        bert.logits, bert.embedding, multiply_by_inputs=False, **OPTIONS
    ).attribute(IDS, base, target=1)
    with torch.no_grad():
        way = bert.embedding(IDS) - bert.embedding(base)
    torch.testing.assert_close(bare * way, times, atol=1e-12, rtol=0)


def test_a_layer_that_is_no_embedding_is_refused(bert):
    with pytest.raises(ValueError, match="layer is Linear: pass the word embedding"):
        LayerDiscretizedIntegratedGradients(bert.logits, nn.Linear(2, 2))
    block = bert.model.bert.embeddings
    sig = LayerSequentialIntegratedGradients(bert.logits, block)
    with pytest.raises(ValueError, match="a path through words needs the word embedding"):
        sig.attribute(IDS, mask_baseline(IDS), target=1, path=DiscretizedPath())


@pytest.mark.parametrize("more", [{"n_steps": 50}, {"tolerance": 1e-2}, {"method": "riemann_left"}])
def test_a_path_leaves_no_choice_of_steps(bert, more):
    sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
    with pytest.raises(ValueError, match="a path has its own steps"):
        sig.attribute(IDS, mask_baseline(IDS), target=1, path=DiscretizedPath(**OPTIONS), **more)


def test_captums_language_model_attribution_takes_it():
    tokenizer = wordpiece_tokenizer()
    config = GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=40, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    dig = LayerDiscretizedIntegratedGradients(model, model.get_input_embeddings(), **OPTIONS)
    prompt = TextTokenInput("the movie is", tokenizer, skip_tokens=tokenizer.all_special_ids)
    target = tokenizer("good mess", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    result = LLMGradientAttribution(dig, tokenizer).attribute(
        prompt, target=target, baselines=tokenizer.mask_token_id
    )
    assert result.token_attr.shape == (2, 3)
    assert result.token_attr.abs().sum() > 0


@pytest.mark.parametrize("wrong", ["dig", DiscretizedPath])
def test_a_path_must_be_made_first(bert, wrong):
    sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
    with pytest.raises(TypeError, match=r"must be an instance such as .*DiscretizedPath\(\)"):
        sig.attribute(IDS, mask_baseline(IDS), target=1, path=wrong)
