"""The backward pass under `Held`, against the rules spelled out as the modules of a model."""

import math
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from captum_sig.attr.held import NEAR_ZERO, Held
from tests.tiny_models import random_ids, tiny

B, L, D, HEADS = 2, 5, 8, 2
ACTIVATIONS = {
    "gelu": (F.gelu, 0.5),
    "gelu_tanh": (lambda h: F.gelu(h, approximate="tanh"), 0.5),
    "relu": (F.relu, 0.5),
    "silu": (F.silu, 0.5),
    "tanh": (torch.tanh, 1.0),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def norm_by_rule(h: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = h - h.mean(-1, keepdim=True)
    return centred / (h.var(-1, correction=0, keepdim=True).detach() + eps).sqrt() * weight + bias


def activation_by_rule(name: str, h: Tensor) -> Tensor:
    f, limit = ACTIVATIONS[name]
    return h * torch.where(h.abs() < NEAR_ZERO, limit, f(h) / h).detach()


def attention_by_rule(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1).detach() @ v


class Block(nn.Module):
    """A layer of a transformer, as torch's functions or as the rules have it."""

    def __init__(self, name: str, attention: str = "sdpa") -> None:
        """Random weights, the same every time."""
        super().__init__()
        self.name, self.attention = name, attention
        self.by_rule = False
        self.qkv, self.up, self.down = nn.Linear(D, 3 * D), nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        self.norms = nn.ModuleList([nn.LayerNorm(D), nn.LayerNorm(D, eps=0.1)])
        self.double()
        for number, weight in enumerate(self.parameters()):
            weight.data = drawn(*weight.shape, seed=number)

    def norm(self, number: int, h: Tensor) -> Tensor:
        norm = self.norms[number]
        return norm_by_rule(h, norm.weight, norm.bias, norm.eps) if self.by_rule else norm(h)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.by_rule:
            return attention_by_rule(q, k, v)
        if self.attention == "sdpa":
            return F.scaled_dot_product_attention(query=q, key=k, value=v, is_causal=False)
        return F.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, HEADS, -1)).movedim(-3, 0).transpose(-2, -3)
        h = self.norm(0, x + self.attend(*parts).transpose(-2, -3).flatten(-2))
        act = activation_by_rule(self.name, self.up(h)) if self.by_rule else None
        act = ACTIVATIONS[self.name][0](self.up(h)) if act is None else act
        return self.norm(1, h + self.down(act)).square().sum((1, 2))


def gradient(f, x: Tensor, within=None) -> Tensor:
    x = x.clone().requires_grad_()
    with within or torch.enable_grad():
        y = f(x)
    return torch.autograd.grad(y.sum(), x)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_transformers_layer_has_the_gradient_of_the_rules(name, attention):
    block, x, held = Block(name, attention), drawn(B, L, D, seed=99), Held()
    plain, value = gradient(block, x), block(x)
    found = gradient(block, x, held)
    with Held():
        torch.testing.assert_close(block(x.clone().requires_grad_()), value, atol=0, rtol=0)
    block.by_rule = True
    torch.testing.assert_close(block(x), value)
    torch.testing.assert_close(found, gradient(block, x), atol=1e-10, rtol=1e-10)
    assert not torch.allclose(found, plain, rtol=0.1)
    assert held.caught == {"norm": 2, "activation": 1, "attention": 1}
    assert held.applies
    torch.testing.assert_close(gradient(block.__class__(name, attention), x), plain)  # nothing left


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_slope_of_an_activation_near_zero_is_its_limit(name):
    f, limit = ACTIVATIONS[name]
    found = gradient(f, torch.tensor([0.0, 1e-7, -1e-7, -0.0], dtype=torch.float64), Held())
    assert found.tolist() == [limit] * 4


def new_gelu(h: Tensor) -> Tensor:
    return 0.5 * h * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * torch.pow(h, 3))))


def erf_gelu(h: Tensor) -> Tensor:
    return h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0)))


@pytest.mark.parametrize("gelu", [new_gelu, erf_gelu])
def test_a_gelu_that_is_spelled_out_is_one(gelu):
    h, held = drawn(40), Held()
    torch.testing.assert_close(gradient(gelu, h, held), (gelu(h) / h), atol=1e-12, rtol=1e-12)
    assert held.caught["activation"] == 1


def test_a_sum_with_tanh_that_is_no_slope_keeps_its_gradient():
    h = drawn(40)
    for f in (lambda h: 2 + h.tanh(), lambda h: h.tanh() + h, lambda h: 1 + h.sin()):
        with_limit = h.tanh() / h if "sin" not in f.__code__.co_names else h.cos()
        expected = with_limit + (f.__code__.co_consts == (None,))
        torch.testing.assert_close(gradient(f, h, Held()), expected)


@pytest.mark.parametrize("activation", [F.silu, new_gelu])
def test_the_factors_of_a_gated_mlp_get_half_each(activation):
    g, u = drawn(30, seed=1), drawn(30, seed=2)
    of_u = gradient(lambda u: activation(g.requires_grad_()) * u, u, Held())
    torch.testing.assert_close(of_u, activation(g).detach() / 2)
    of_g = gradient(lambda g: u.requires_grad_() * activation(g), g.detach(), Held())
    torch.testing.assert_close(of_g, (u * activation(g) / g / 2).detach())
    weight = u.detach()  # a constant is no gate
    torch.testing.assert_close(
        gradient(lambda g: activation(g) * weight, g.detach(), Held()),
        (weight * activation(g) / g).detach(),
    )


def llama_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps))


def power_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (h * torch.pow(h.pow(2).mean(-1, keepdim=True) + eps, -0.5))


def method_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (h * (h.square().mean(-1, keepdim=True) + eps).rsqrt())


def torch_norm(h: Tensor, weight: Tensor, eps: float | None) -> Tensor:
    return F.rms_norm(h, h.shape[-1:], weight, eps)


@pytest.mark.parametrize("norm", [llama_norm, power_norm, method_norm, torch_norm])
def test_the_scale_of_a_root_mean_square_is_held(norm):
    if norm is torch_norm and not hasattr(F, "rms_norm"):
        pytest.skip("torch.rms_norm came with torch 2.4")
    h, weight, up, held = drawn(B, L, D), drawn(D, seed=1), drawn(B, L, D, seed=2), Held()
    scale = (h.square().mean(-1, keepdim=True) + 0.1).rsqrt()
    found = gradient(lambda h: norm(h, weight, 0.1) * up, h, held)
    torch.testing.assert_close(found, up * weight * scale)
    assert held.caught == {"norm": 1}


@pytest.mark.parametrize("shape", [(D,), (L, D)])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norms_of_every_form(shape, affine):
    h, up = drawn(B, L, D), drawn(B, L, D, seed=2)
    weight, bias = (drawn(*shape, seed=n) if affine else None for n in (3, 4))
    dims = tuple(range(-len(shape), 0))
    scale = (h.var(dims, correction=0, keepdim=True) + 1e-5).rsqrt()
    weighted = up if weight is None else up * weight
    for f in (F.layer_norm, torch.layer_norm):
        found = gradient(lambda h, f=f: f(h, shape, weight, bias) * up, h, Held())
        torch.testing.assert_close(found, scale * (weighted - weighted.mean(dims, keepdim=True)))


def test_in_place_activations_change_their_input():
    def f(h: Tensor) -> Tensor:
        h = h * 1
        F.relu(h, inplace=True)
        return h

    h = drawn(40)
    torch.testing.assert_close(gradient(f, h, Held()), (h > 0).double())


def test_torchs_own_encoder_has_its_attention_held():
    layer = nn.TransformerEncoderLayer(D, HEADS, 16, batch_first=True).double().eval()
    x, held = drawn(B, L, D), Held()
    values = layer(x)
    gradient(layer, x, held)
    with Held():
        torch.testing.assert_close(layer(x.clone().requires_grad_()), values)
    assert held.caught == {"norm": 2, "attention": 1, "activation": 1}


ATTENTION = {  # keywords of scaled_dot_product_attention
    "mask": {"attn_mask": torch.tensor([[True, True, False, True, True]])},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "groups": {"enable_gqa": True},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_takes_all_its_keywords(name):
    if name == "groups" and torch.__version__ < "2.5":
        pytest.skip("enable_gqa came with torch 2.5")
    q, k, v = (drawn(B, heads, L, 4, seed=heads) for heads in (4, 2, 2))
    q = q if name == "groups" else q[:, :2]

    def f(v: Tensor, q: Tensor = q) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **ATTENTION[name])

    torch.testing.assert_close(gradient(f, v, Held()), gradient(f, v))  # linear in v
    with Held():
        assert not f(v, q.clone().requires_grad_()).requires_grad


def test_without_gradients_nothing_is_caught():
    block, x, held = Block("gelu"), drawn(B, L, D), Held()
    with torch.no_grad(), held:
        value = block(x.requires_grad_())
    with torch.inference_mode(), held:
        torch.testing.assert_close(block(x), value, atol=0, rtol=0)
    assert held.caught == {}


def test_other_threads_are_untouched():
    block, x = Block("gelu"), drawn(B, L, D)
    plain, found = gradient(block, x), []
    held = Held()
    with held:
        thread = threading.Thread(target=lambda: found.append(gradient(block, x)))
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], plain, atol=0, rtol=0)
    assert held.caught == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_values_of_every_precision_are_unchanged(dtype, autocast):
    block, x = Block("gelu").to(dtype), drawn(B, L, D).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if autocast:
            block = block.float()
            x = x.float()
        value = block(x.clone().requires_grad_())
        with Held():
            torch.testing.assert_close(block(x.clone().requires_grad_()), value, atol=0, rtol=0)
        found = gradient(block, x, Held())
    block.by_rule = True
    expected = gradient(block.double(), x.double())
    assert found.dtype == x.dtype
    tolerance = 0.2 if autocast or dtype != torch.float32 else 1e-4
    assert (found.double() - expected).norm() < tolerance * expected.norm()


TRANSFORMERS = ["bert", "distilbert", "roberta", "electra", "albert", "deberta-v2", "modernbert",
                "mpnet", "gpt2", "llama", "qwen2", "gemma", "t5-encoder"]  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_caught(name):
    model, ids = tiny(name), random_ids(2, 7)
    with torch.no_grad():
        expected = model.logits(ids)
    hidden, held = [], Held()
    handle = model.embedding.register_forward_hook(
        lambda _, __, output: hidden.append(output.detach().requires_grad_()) or hidden[-1]
    )
    try:
        with held:
            logits = model.logits(ids)
    finally:
        handle.remove()
    torch.testing.assert_close(logits, expected)
    assert held.applies
    assert held.caught["activation"] >= 2
    assert held.caught["attention"] == 2
    (found,) = torch.autograd.grad(logits[:, 1].sum(), hidden[0])
    assert found.isfinite().all()
    assert found.abs().sum() > 0


def test_a_recurrent_model_is_not_covered():
    model, held = tiny("lstm"), Held()
    with held:
        model.logits(random_ids(2, 7))
    assert not held.applies
