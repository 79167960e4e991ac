"""Attention of many rows to the prefix that they share, without a copy of it for each row.

The rows' queries see every position of the prefix, so that they are folded into one long row: one
product serves all rows. To its own positions, those from the change on, each row attends causally.
The two parts are merged by their log-sum-exps, l₁ and l₂:

    attention = σ(l₁ − l₂) · (attention to the prefix) + σ(l₂ − l₁) · (attention to the own part)

A layer of the cache hands the model the own part alone, with a mask for it alone, as keys that know
of the prefix; `torch.nn.functional.scaled_dot_product_attention` computes the sum above for them.
So nothing of the model changes, and no other pass or thread sees it. Attention of other kinds is
noticed, see `PrefixAttentionLayer.require_attended`.

R rows, H attention heads, in groups of G that share keys and values; p positions of the prefix, q
of the own part; D features of a head.

Source of the merge: Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from captum_sig.attr.function import at_least_float32
from captum_sig.explainers.prefix_cache import KeysValues, NoPrefixError, PrefixLayer

Attended = tuple[Tensor, Tensor]  # the values' means, (…, q, D), and the log-sum-exps, (…, q)


class PrefixAttentionLayer(PrefixLayer):
    """Keys and values of the prefix, which rows attend to together.

    Args:
        keys: (1, H / G, p, D).
        values: (1, H / G, p, D).
        n_read: how many of the last positions are read after this layer, None for all; attention
            is NaN at all others, so that a model that reads them returns NaN.
    """

    def __init__(self, keys: Tensor, values: Tensor, n_read: int | None = None) -> None:
        super().__init__(keys, values)
        self.n_read = n_read
        self._is_attended = keys.shape[-2] == 0

    def get_mask_sizes(self, query: int | Tensor) -> tuple[int, int]:
        """Return length and offset of the positions that a mask is for: the own ones."""
        length = query if isinstance(query, int) else len(query)  # older versions pass positions
        return length, self.get_seq_length()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the own part, (R, H / G, q, D) each; its keys know of the prefix."""
        self.keep_last(key_states, value_states)
        if self.get_seq_length() == 0:
            return key_states, value_states
        return _OwnKeys.of(key_states, self), value_states

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend to the prefix and to the own part: (R, H, q, D).

        Arguments as in `torch.nn.functional.scaled_dot_product_attention`.

        Raises:
            NoPrefixError: if it is not plain causal attention.
        """
        if attn_mask is not None or dropout_p > 0 or not (is_causal or key.shape[-2] == 1):
            raise NoPrefixError("attention that is masked or random")
        if len({states.dtype for states in (query, key, value, *self.prefix)}) > 1:
            raise NoPrefixError("attention between several dtypes")
        self._is_attended = True
        key, value = (_of_heads(states, query.shape[1]) for states in (key, value))
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        n_unread = key.shape[-2] - (self.n_read or key.shape[-2])
        if n_unread <= 0:
            return self._attend(query, [(key, value)], is_causal, scale)
        read = slice(n_unread, None)
        before = key[:, :, :n_unread], value[:, :, :n_unread]
        own = key[:, :, read], value[:, :, read]
        result = value.new_full((*query.shape[:-1], value.shape[-1]), torch.nan)
        result[:, :, read] = self._attend(query[:, :, read], [before, own], is_causal, scale)
        return result

    def _attend(
        self, query: Tensor, parts: Sequence[KeysValues], is_causal: bool, scale: float
    ) -> Tensor:
        """Attend to the prefix and to the own parts, of which the last is the queries'."""
        folded = _attention(_fold(query, self.prefix[0]), *self.prefix, False, scale)
        attended = [_unfold(folded, query)]
        attended += [_attention(query, *part, False, scale) for part in parts[:-1]]
        attended.append(_attention(query, *parts[-1], is_causal, scale))
        return functools.reduce(_merged, attended)[0]

    def require_attended(self) -> None:
        """Raise if the model has not attended to the prefix.

        Raises:
            NoPrefixError: if its attention is another function, or runs compiled.
        """
        if not self._is_attended:
            raise NoPrefixError("attention by another function than scaled_dot_product_attention")


def layers_that_attend(
    prefix: Sequence[KeysValues], n_read: int | None = None
) -> list[PrefixLayer]:
    """Return the layers of a cache without copies.

    Args:
        prefix: keys and values of each layer.
        n_read: how many of the last positions are read after the last layer, None for all.
    """
    last = len(prefix) - 1
    return [
        PrefixAttentionLayer(*of_layer, n_read if n == last else None)
        for n, of_layer in enumerate(prefix)
    ]


class _OwnKeys(Tensor):
    """Keys after a prefix; they hand attention over to their layer of the cache."""

    layer: PrefixAttentionLayer

    @classmethod
    def of(cls, keys: Tensor, layer: PrefixAttentionLayer) -> _OwnKeys:
        own = keys.as_subclass(cls)
        own.layer = layer
        return own

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Attend; what only rearranges keys leaves them keys, and all else gets plain tensors."""
        options = kwargs or {}
        keys = next((given for given in (*args, *options.values()) if isinstance(given, cls)), None)
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.scaled_dot_product_attention and keys is not None:
                return keys.layer.attend(*args, **options)
            result = func(*args, **options)
            if func in _REARRANGE and keys is not None:
                return cls.of(result, keys.layer)
            if isinstance(result, cls):
                return result.as_subclass(Tensor)
            return result


# How models repeat keys for the heads of a group.
_REARRANGE = {
    Tensor.__getitem__, Tensor.expand, Tensor.reshape, Tensor.repeat_interleave, Tensor.contiguous,
    torch.repeat_interleave,
}  # fmt: skip


def _fold(query: Tensor, prefix_keys: Tensor) -> Tensor:
    """(R, H, q, D) → (1, H / G, G · R · q, D)."""
    n_heads = prefix_keys.shape[1]
    grouped = query.unflatten(1, (n_heads, -1))  # (R, H / G, G, q, D)
    return grouped.permute(1, 2, 0, 3, 4).reshape(1, n_heads, -1, query.shape[-1])


def _unfold(attended: Attended, query: Tensor) -> Attended:
    """Undo `_fold`."""
    n_rows, n_heads, length, _ = query.shape

    def unfold(folded: Tensor) -> Tensor:
        n_groups = folded.shape[1]
        rows = folded.reshape(n_groups, n_heads // n_groups, n_rows, length, *folded.shape[3:])
        return rows.movedim(2, 0).flatten(1, 2)

    values, log_sums = attended
    return unfold(values), unfold(log_sums)


def _of_heads(states: Tensor, n_heads: int) -> Tensor:
    """Repeat keys or values for the heads of each group."""
    n_times = n_heads // states.shape[1]
    return states if n_times == 1 else states.repeat_interleave(n_times, 1)


def _merged(one: Attended, other: Attended) -> Attended:
    weight = (other[1] - one[1]).sigmoid()[..., None]
    values = torch.lerp(one[0], other[0], weight.to(one[0].dtype))
    return values, torch.logaddexp(one[1], other[1])


def _attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> Attended:
    """Attend by a fused kernel where there is one, else by products."""
    fused = _fused_kernel(q, k, v, is_causal)
    return (_by_products if fused is None else fused)(q, k, v, is_causal, scale)


def _by_products(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> Attended:
    logits = ((q * scale) @ k.mT).to(at_least_float32(q.dtype))
    if is_causal:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits.masked_fill_(hidden, -math.inf)
    log_sums = logits.logsumexp(-1)
    return (logits - log_sums[..., None]).exp().to(v.dtype) @ v, log_sums


def _on_cpu(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> Attended:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(q, k, v, 0.0, is_causal, scale=scale)


def _flash(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> Attended:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention
    return kernel(q, k, v, 0.0, is_causal, False, scale=scale)[:2]


def _efficient(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float) -> Attended:
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    values, log_sums = kernel(q, k, v, None, True, 0.0, is_causal, scale=scale)[:2]
    return values, log_sums[..., : q.shape[-2]]  # it pads them


def _fused_kernel(
    q: Tensor, k: Tensor, v: Tensor, is_causal: bool
) -> Callable[..., Attended] | None:
    """Choose a kernel of torch that returns log-sum-exps, as torch itself would choose."""
    if q.shape[-1] != v.shape[-1]:
        return None
    if q.device.type == "cpu":
        return _on_cpu
    if q.device.type != "cuda" or q.shape[-1] % 8:  # else torch pads
        return None
    cuda = torch.backends.cuda
    parameters = (q, k, v, None, 0.0, is_causal)
    try:
        checked = cuda.SDPAParams(*parameters, False)  # groups that share keys, from torch 2.5 on
    except TypeError:
        checked = cuda.SDPAParams(*parameters)  # type: ignore[call-arg]
    if cuda.can_use_flash_attention(checked):
        return _flash
    return _efficient if cuda.can_use_efficient_attention(checked) else None
