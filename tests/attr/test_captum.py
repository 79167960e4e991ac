"""A drop-in beside Captum's methods: its wrappers, metrics and pictures run on both classes."""

import inspect

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    IntegratedGradients,
    LayerIntegratedGradients,
    LLMGradientAttribution,
    NoiseTunnel,
    TextTokenInput,
)
from captum.attr import visualization as captum_visualization
from captum.metrics import infidelity, sensitivity_max
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from captum_sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients
from captum_sig.quadrature import rule
from tests import oracle
from tests.tiny_models import byte_level_tokenizer, mask_baseline, random_ids, tiny


def classes():
    return [
        (SequentialIntegratedGradients, IntegratedGradients),
        (LayerSequentialIntegratedGradients, LayerIntegratedGradients),
    ]


@pytest.mark.parametrize(("ours", "captums"), classes())
def test_names_order_and_defaults_are_captums(ours, captums):
    assert issubclass(ours, captums)
    for verb in ["__init__", "attribute", "compute_convergence_delta"]:
        theirs = list(inspect.signature(getattr(captums, verb)).parameters.values())
        mine = list(inspect.signature(getattr(ours, verb)).parameters.values())
        for expected, found in zip(theirs, mine, strict=False):
            assert (found.name, found.default) == (expected.name, expected.default)
        assert len(mine) >= len(theirs)
        assert {p.kind for p in mine[len(theirs) :]} <= {inspect.Parameter.KEYWORD_ONLY}
    assert ours.attribute.__wrapped__
    assert ours.has_convergence_delta(None)


@pytest.fixture(scope="module")
def bert():
    return tiny("bert")


@pytest.fixture(scope="module")
def on_embeddings(bert):
    """SIG of the embeddings as the model's inputs, and two examples of them."""
    ids = random_ids(2, 5)
    embeddings = bert.embedding(ids).detach()
    sig = SequentialIntegratedGradients(lambda e: bert.model(inputs_embeds=e).logits)
    return sig, embeddings, bert.embedding(mask_baseline(ids)).detach()


@pytest.mark.parametrize("how", [{"n_steps": 3}, {"tolerance": 1e-2}], ids=str)
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(on_embeddings, kind, how):
    sig, embeddings, base = on_embeddings
    mask = torch.tensor([[0, 1, 1, 2, 3]])
    options = {"target": 1, "baselines": base, "feature_mask": mask, **how}
    tunnel = NoiseTunnel(sig)
    noise = {"nt_type": kind, "nt_samples": 4, "stdevs": 0.01}
    found, delta = tunnel.attribute(embeddings, return_convergence_delta=True, **noise, **options)
    assert found.shape == embeddings.shape
    assert delta.shape == (2 * 4,)
    if kind == "smoothgrad":
        torch.testing.assert_close(found, sig.attribute(embeddings, **options), rtol=0, atol=0.05)


def test_sensitivity_and_infidelity(on_embeddings):
    sig, embeddings, base = on_embeddings
    options = {"target": 1, "baselines": base, "n_steps": 3}
    sensitivity = sensitivity_max(sig.attribute, embeddings, perturb_radius=0.01, **options)
    assert sensitivity.shape == (2,)
    assert 0 < sensitivity.max() < 1

    def perturb(inputs):
        noise = torch.randn_like(inputs) * 0.01
        return noise, inputs - noise

    found = infidelity(
        sig.forward_func, perturb, embeddings, sig.attribute(embeddings, **options), target=1
    )
    assert found.shape == (2,)
    assert found.isfinite().all()


def test_exact_words_are_captums_feature_ablation_with_baseline_ids(bert):
    ids = random_ids(2, 7)
    sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
    ablation = FeatureAblation(bert.logits)
    for mask in [None, torch.tensor([[0, 1, 1, 2, 3, 3, 4]])]:
        options = {"baselines": mask_baseline(ids), "target": 1, "feature_mask": mask}
        torch.testing.assert_close(
            sig.attribute_words(ids, **options),
            ablation.attribute(ids, **options),
            rtol=0,
            atol=1e-6,
        )


def test_visualize_text(demo):
    html = captum_visualization.visualize_text(
        [demo("a <b>bold</b> movie").to_captum_record("POSITIVE")]
    ).data
    assert "&lt;" in html
    assert "<b>bold" not in html


def causal_models():
    shape = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    gpt2 = GPT2Config(**shape, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    llama = LlamaConfig(
        **shape, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return [GPT2LMHeadModel(gpt2), LlamaForCausalLM(llama)]


@pytest.mark.parametrize("which", [0, 1], ids=["gpt2", "llama"])
@pytest.mark.parametrize("skip", [None, [0, 83]], ids=["all", "skip_tokens"])
@pytest.mark.parametrize("how", [{"n_steps": 64}, {"tolerance": 1e-3}], ids=str)
def test_llm_gradient_attribution(which, skip, how):
    model = causal_models()[which].eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.15)
    tokenizer = byte_level_tokenizer()
    embedding = model.get_input_embeddings()
    prompt, target = "the movies is good", " so good"
    inputs = TextTokenInput(prompt, tokenizer, skip_tokens=skip)
    attribution = LLMGradientAttribution(
        LayerSequentialIntegratedGradients(model, embedding), tokenizer
    )
    result = attribution.attribute(inputs, target=target, **how)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    target_ids = tokenizer(target, return_tensors="pt").input_ids
    kept = [p for p, i in enumerate(ids[0].tolist()) if i not in (skip or [])]
    assert result.token_attr.shape == (target_ids.shape[1], len(kept))
    assert len(kept) < ids.shape[1] or skip is None

    whole = torch.cat([ids, target_ids], 1)
    for step in range(target_ids.shape[1]):
        prefix = whole[:, : ids.shape[1] + step]

        def f(rows, prefix=prefix, step=step):
            logits = model(inputs_embeds=rows).logits[:, -1]
            return logits.log_softmax(-1)[:, target_ids[0, step]]

        x = embedding(prefix).detach()
        exact = oracle.word_differences(f, x, embedding(torch.zeros_like(prefix)).detach(),
                                        [[p] for p in kept])  # fmt: skip
        torch.testing.assert_close(result.token_attr[step], exact[0, kept], rtol=0, atol=2e-3)
    assert not embedding._forward_hooks


def test_tints_bug_is_not_ours(on_embeddings):
    """Under no_grad, as NoiseTunnel and sensitivity_max call: the leaf still requires grad."""
    sig, embeddings, base = on_embeddings
    with torch.no_grad():
        found = sig.attribute.__wrapped__(sig, embeddings, base, target=1, n_steps=3)
    exact = oracle.sequential_integrated_gradients(
        lambda e: sig.forward_func(e)[:, 1], embeddings[:1], base[:1],
        [[p] for p in range(5)], rule("gausslegendre", 3),
    )  # fmt: skip
    torch.testing.assert_close(found[:1], exact, rtol=0, atol=1e-10)
