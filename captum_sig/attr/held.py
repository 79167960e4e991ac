"""A backward pass through a transformer that holds what only rescales: attention and norms.

Gradients of a transformer at a point say little about its words: normalization and softmax shrink
whatever grows. `Held` leaves the forward pass as it is, and lets the backward pass see

    softmax(a)                    its value, as a constant: attention weights are held
    attention(q, k, v)            with q and k held
    layer_norm(h)                 (h − mean h) · s · w + b, with the scale s = 1 / std h held
    rms_norm(h)                   h · s · w, with the scale s = 1 / rms h held
    gelu, relu, silu, tanh (h)    h · (f(h) / h), with the slope f(h) / h held; at 0 its limit
    act(g) · u                    half of the gradient for each factor (gated MLPs)

Norms and activations that models spell out are recognised by their core: rsqrt or a power of −½
is the scale of a norm, and 1 + tanh(u) or 1 + erf(u) is twice the slope of a GELU.

Sources: Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation",
ICML 2022, for norms and attention; Montavon et al., "Layer-Wise Relevance Propagation: An
Overview" (2019), for the slopes of activations.
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from captum_sig.attr.function import at_least_float32

NEAR_ZERO = 1e-6  # where f(h) / h is taken as its limit

Function = Callable[..., Any]
Rule = Callable[..., Any]  # (held, function, *args, **kwargs) → what the function returns


class Held(TorchFunctionMode):
    """The rules above, for what the current thread computes within `with`.

    They apply where a gradient is recorded; all else, and all other threads, run unchanged. What
    runs below Python's functions, as scripted and compiled modules and fused kernels do, is not
    seen: `caught` counts what was.

    >>> h = torch.tensor([3.0, 1.0], requires_grad=True)
    >>> with Held() as held:
    ...     y = torch.relu(h) * 2 + torch.nn.functional.layer_norm(h, (2,))
    >>> held.caught["activation"], held.caught["norm"]
    (1, 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.caught: Counter[str] = Counter()  # "norm", "activation", "attention", "recurrent"
        self._role = ""  # of the latest activation or gate: "activation", "tanh", "erf", "gate"
        self._latest: Callable[[], object] = lambda: None

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch by its rule, if it has one."""
        rule = RULES.get(func)
        if rule is None or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        return rule(self, func, *args, **(kwargs or {}))

    @property
    def applies(self) -> bool:
        """Whether the rules cover the model: layer norms were caught, and no recurrent layer."""
        return self.caught["norm"] > 0 and self.caught["recurrent"] == 0

    def remember(self, result: Tensor, role: str) -> Tensor:
        """Remember the latest activation or gate, to know it when it is multiplied."""
        self._latest, self._role = weakref.ref(result), role
        return result

    def role(self, argument: object) -> str:
        """Return what an argument is known as: "" unless it is the one remembered."""
        return self._role if argument is self._latest() else ""


class _LayerNorm(torch.autograd.Function):
    """h → (h − mean h) · s · w + b, with the scale s held."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        result, _, scale = torch.native_layer_norm(h, shape, weight, bias, eps)
        ctx.set_materialize_grads(False)  # no gradient is an error, which zeros would hide
        ctx.save_for_backward(scale, weight)
        ctx.shape = shape
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if gradients[0] is None:
            return None, None, None, None, None
        scale, weight = ctx.saved_tensors
        zeros = torch.zeros_like(gradients[0], memory_format=torch.contiguous_format)
        # Where h is its mean, the derivative of the scale vanishes, and the held one is left.
        of_h, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradients[0], zeros, ctx.shape, torch.zeros_like(scale), scale, weight, None,
            [True, False, False],
        )  # fmt: skip
        return of_h, None, None, None, None


class _WithSlope(torch.autograd.Function):
    """h → f(h) = h · slope, with the slope held."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, f: Function, slope_of: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        value = f(h)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope_of(h, value))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return None if gradients[0] is None else gradients[0] * slope, None, None


def _layer_norm(
    held: Held,
    function: Function,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *more: Any,
    **options: Any,
) -> Tensor:
    if not input.requires_grad:
        return function(input, normalized_shape, weight, bias, eps, *more, **options)
    held.caught["norm"] += 1
    return _LayerNorm.apply(input, tuple(normalized_shape), weight, bias, eps)


def _rms_norm(
    held: Held,
    function: Function,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    def value(h: Tensor) -> Tensor:
        return function(h, normalized_shape, weight, eps)

    def slope(h: Tensor, _: Tensor) -> Tensor:
        dims = tuple(range(-len(normalized_shape), 0))
        squares = h.to(at_least_float32(h.dtype)).square().mean(dims, keepdim=True)
        scale = (squares + (torch.finfo(h.dtype).eps if eps is None else eps)).rsqrt()
        return (scale if weight is None else scale * weight).to(h.dtype)

    if not input.requires_grad:
        return value(input)
    held.caught["norm"] += 1
    return _WithSlope.apply(input, value, slope)


def _scale(held: Held, function: Function, input: Tensor, *args: Any, **options: Any) -> Tensor:
    """The scale of a norm that is spelled out: 1 / sqrt(…)."""
    result = function(input, *args, **options)
    if not result.requires_grad:
        return result
    held.caught["norm"] += 1
    return result.detach()


def _power(held: Held, function: Function, input: Any, exponent: Any, **options: Any) -> Any:
    if isinstance(exponent, float) and exponent == -0.5 and isinstance(input, Tensor):
        return _scale(held, function, input, exponent, **options)
    return function(input, exponent, **options)


def _weights(held: Held, function: Function, *args: Any, **options: Any) -> Tensor:
    result = function(*args, **options)
    if not result.requires_grad:
        return result
    held.caught["attention"] += 1
    return result.detach()


def _attention(
    held: Held,
    function: Function,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **options: Any,
) -> Any:
    if value.requires_grad:
        held.caught["attention"] += 1
    return function(query.detach(), key.detach(), value, *args, **options)


def _activation(limit: float, role: str = "activation") -> Rule:  # limit of f(h) / h at 0
    def slope(h: Tensor, value: Tensor) -> Tensor:
        return torch.where(h.abs() < NEAR_ZERO, limit, value / h)

    def rule(
        held: Held, function: Function, input: Tensor, inplace: bool = False, **options: Any
    ) -> Tensor:
        if not input.requires_grad:
            return function(input, **options, **({"inplace": True} if inplace else {}))
        held.caught["activation"] += 1
        result = _WithSlope.apply(input, functools.partial(function, **options), slope)
        return held.remember(input.copy_(result) if inplace else result, role)

    return rule


def _erf(held: Held, function: Function, input: Tensor, **options: Any) -> Tensor:
    return held.remember(function(input, **options), "erf")


def _sum(held: Held, function: Function, input: Any, other: Any, **options: Any) -> Any:
    """1 + tanh(u) and 1 + erf(u) are twice the slope of an activation that is spelled out."""
    result = function(input, other, **options)
    numbers = [of for of in (input, other) if not isinstance(of, Tensor)]
    if numbers != [1] or {held.role(input), held.role(other)}.isdisjoint({"tanh", "erf"}):
        return result
    if held._role == "erf":
        held.caught["activation"] += 1
    return held.remember(result.detach(), "gate")


def _product(held: Held, function: Function, input: Any, other: Any, **options: Any) -> Any:
    """An activation that is spelled out, h · slope, or a gated MLP, act(g) · u."""
    result = function(input, other, **options)
    roles = {held.role(input), held.role(other)}
    if "gate" in roles:
        return held.remember(result, "activation")
    both = isinstance(input, Tensor) and isinstance(other, Tensor)
    if both and "activation" in roles and input.requires_grad and other.requires_grad:
        result.register_hook(lambda gradient: gradient / 2)
    return result


def _recurrent(held: Held, function: Function, *args: Any, **options: Any) -> Any:
    held.caught["recurrent"] += 1
    return function(*args, **options)


RULES: dict[Function, Rule] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    torch.rsqrt: _scale,
    Tensor.rsqrt: _scale,
    torch.pow: _power,
    Tensor.pow: _power,
    Tensor.__pow__: _power,
    F.softmax: _weights,
    torch.softmax: _weights,
    Tensor.softmax: _weights,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _attention,
    F.gelu: _activation(0.5),
    F.silu: _activation(0.5),
    F.relu: _activation(0.5),
    torch.relu: _activation(0.5),
    Tensor.relu: _activation(0.5),
    torch.tanh: _activation(1.0, "tanh"),
    Tensor.tanh: _activation(1.0, "tanh"),
    torch.erf: _erf,
    Tensor.erf: _erf,
    torch.add: _sum,
    Tensor.add: _sum,
    Tensor.__add__: _sum,
    Tensor.__radd__: _sum,
    torch.mul: _product,
    Tensor.mul: _product,
    Tensor.__mul__: _product,
    Tensor.__rmul__: _product,
    torch.lstm: _recurrent,
    torch.gru: _recurrent,
    torch.rnn_tanh: _recurrent,
    torch.rnn_relu: _recurrent,
    torch.lstm_cell: _recurrent,
    torch.gru_cell: _recurrent,
    torch.rnn_tanh_cell: _recurrent,
    torch.rnn_relu_cell: _recurrent,
}
if hasattr(F, "rms_norm"):  # torch 2.4
    RULES |= {F.rms_norm: _rms_norm, torch.rms_norm: _rms_norm}
