"""Teacher forcing: the log-probability of every target token, as a function of the embeddings.

One pass over prompt and target gives them all, so the model is one function of rows with T values,
and a sweep over the words asks it once for each. R rows; P positions of the prompt, T tokens of
the target, L = P + T − 1 positions that a decoder alone reads, the last target token not among
them; D features, V ids.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_sig.attr.function import RowFunction, Tensors, at_least_float32
from captum_sig.attr.hooks import LayerOutputs, capture, embed_without_pass, patched

if TYPE_CHECKING:
    from captum_sig.explainers.prefix_cache import SharedPrefix


# What models call the keys and values that they take and give: transformers from 5.24 on, before.
CACHE = ("cache", "past_key_values")


class TokenFunction(RowFunction):
    """F with a value for each target token: log p, (R, T)."""

    def explained(self, output: Any, example: Tensor) -> Tensor:
        """All of it."""
        return output


class Forced(ABC):
    """A model that is forced to give a target after a prompt."""

    model: nn.Module
    layers: tuple[nn.Module, ...]  # that move
    ids: Tensors  # what they look up: (1, L), or a source and a decoder's input
    points: Tensors  # what they give, (1, L, D) each
    whole: Tensor  # (1, T): log-probabilities of the untouched model
    hooked: Tensor  # (1, T): the same as rows are asked
    n_ids: int  # V
    without_cache: str | None  # why the prefix cache is not used

    @abstractmethod
    def __call__(self, rows: Tensors, example: Tensor) -> Tensor:
        """Log-probabilities of the target's tokens, (R, T)."""

    @abstractmethod
    def activations(self, number: int, ids: Tensor) -> Tensor:
        """What a layer gives for other ids in place of `ids[number]`."""

    @abstractmethod
    def target_position(self, number: int) -> tuple[int, int]:
        """Where a token of the target is read: which of the tensors, and the position in it."""


class DecoderForced(Forced):
    """A decoder alone: prompt and target stand in one text.

    Args:
        model: a causal language model; it stays where and as it is.
        layer: its word embedding.
        prompt: ids, (1, P).
        target: ids, (T,).
        use_cache: compute what stands before a change once.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module, prompt: Tensor, target: Tensor, use_cache: bool
    ) -> None:
        """One pass: the embeddings, the log-probabilities, the keys and values."""
        self.model, self.layers, self.target = model, (layer,), target
        self.n_prompt = prompt.shape[1]
        self.ids = (torch.cat([prompt, target[None, :-1]], dim=1),)
        taken = _arguments(model)
        self.cache_name = next((name for name in CACHE if name in taken), "")
        options = {"logits_to_keep": len(target), "use_cache": False}
        self.options: dict[str, Any] = {
            name: value for name, value in options.items() if name in taken
        }
        cached = {"use_cache": use_cache} if "use_cache" in taken else {}
        reading = self._read(self.ids[0], **cached)
        output: Any = reading.output
        if not hasattr(output, "logits"):
            raise ValueError(
                f"{type(model).__name__} gives no logits: wanted a model with its language model's "
                "head, such as AutoModelForCausalLM loads"
            )
        self.reading = replace(reading, output=None)  # else its logits and cache were kept
        self.points = reading.activations[0]
        self.whole, self.n_ids = log_probabilities(output.logits, target), output.logits.shape[-1]
        self.prefix: SharedPrefix | None = None
        self.without_cache = "it was not asked for"
        if use_cache:
            self._share(getattr(output, self.cache_name, None))
        if self.prefix is None:
            self.hooked = self(self.points, self.ids[0].new_zeros(1))

    def __call__(self, rows: Tensors, example: Tensor) -> Tensor:
        """Pass over the positions from the first that any row changes.

        Where gradients are wanted over all, as rows at the input's end of a path change nothing.
        """
        (row,) = rows
        start, more = 0, self.options
        if self.prefix is not None and not row.requires_grad:
            start = self._first_change(row)
        if self.prefix is not None and start > 0:
            more = {**more, self.cache_name: self.prefix.upto(start)}
        ids = self.ids[0][:, start:].expand(len(row), -1)
        with patched(self.layers, (row[:, start:],), [1], None, False):
            output = self.model(input_ids=ids, **more)
        return log_probabilities(output.logits, self.target)

    def activations(self, number: int, ids: Tensor) -> Tensor:
        """What the layer gives for other ids."""
        return _given_for(self.layers[0], self.reading, self.ids[0], ids, self._read)

    def target_position(self, number: int) -> tuple[int, int]:
        """Behind the prompt."""
        return 0, self.n_prompt + number

    def _read(self, ids: Tensor, **options: Any) -> LayerOutputs:
        def forward(ids: Tensor) -> Any:
            return self.model(input_ids=ids, **{**self.options, **options})

        return _reading(forward, self.layers[0], ids)

    def _share(self, cache: Any) -> None:
        """Take the cache, if the unchanged input says the same through it."""
        from captum_sig.explainers.prefix_cache import NoPrefixError, shared_prefix

        try:
            self.prefix = shared_prefix(cache, self.ids[0].shape[1])
            self.hooked = self(self.points, self.ids[0].new_zeros(1))
            gap = float((self.hooked - self.whole).abs().max())
            if not gap <= _allowed(self.points[0].dtype) * (1 + float(self.whole.abs().max())):
                raise NoPrefixError(f"keys and values that change log-probabilities by {gap:.1g}")
        except NoPrefixError as error:
            self.prefix = None
            self.without_cache = f"{type(self.model).__name__} has {error}"
        else:
            self.without_cache = None

    def _first_change(self, row: Tensor) -> int:
        """The first position that any row changes; at most that which the first logits need."""
        changed = (row != self.points[0]).flatten(2).any(-1).any(0)
        changed[self.n_prompt - 1] = True
        return int(changed.int().argmax())


class EncoderDecoderForced(Forced):
    """An encoder that reads the prompt, and a decoder that is forced to give the target.

    The encoder runs by itself, so that an embedding that both share is met once at a time.

    Args:
        model: as for `DecoderForced`, with an encoder.
        layer: the encoder's word embedding.
        prompt: ids, (1, P).
        target: ids, (T,).

    Raises:
        ValueError: if the model does not say which id its decoder begins with.
    """

    without_cache: str | None = "an encoder reads words in both directions"

    def __init__(self, model: Any, layer: nn.Module, prompt: Tensor, target: Tensor) -> None:
        """One pass of each: the embeddings, and the log-probabilities."""
        self.model, self.target = model, target
        self.encoder = model.get_encoder()
        self.layers = layer, model.get_decoder().get_input_embeddings()
        self.options = {"use_cache": False} if "use_cache" in _arguments(model) else {}
        start = target.new_tensor([_first_id(model)])
        self.ids = (prompt, torch.cat([start, target[:-1]])[None])
        self.readings = [self._read_source(prompt)]
        self.encoded: Any = self.readings[0].output
        self.readings.append(self._read_target(self.ids[1], self.encoded))
        output: Any = self.readings[1].output
        self.points = tuple(reading.activations[0][0] for reading in self.readings)
        self.whole, self.n_ids = log_probabilities(output.logits, target), output.logits.shape[-1]
        self.hooked = self(self.points, prompt.new_zeros(1))

    def __call__(self, rows: Tensors, example: Tensor) -> Tensor:
        """Encode the source's rows, then force the decoder."""
        source, target = (ids.expand(len(example), -1) for ids in self.ids)
        with patched(self.layers[:1], rows[:1], [1], None, False):
            encoded = self.encoder(input_ids=source)
        with patched(self.layers[1:], rows[1:], [1], None, False):
            output = self._decode(target, encoded)
        return log_probabilities(output.logits, self.target)

    def activations(self, number: int, ids: Tensor) -> Tensor:
        """What the encoder's (0) or decoder's (1) embedding gives for other ids."""
        read = (self._read_source, lambda ids: self._read_target(ids, self.encoded))[number]
        return _given_for(self.layers[number], self.readings[number], self.ids[number], ids, read)

    def target_position(self, number: int) -> tuple[int, int]:
        """In the decoder, behind the id that it begins with."""
        return 1, number + 1

    def _decode(self, ids: Tensor, encoded: Any) -> Any:
        return self.model(decoder_input_ids=ids, encoder_outputs=encoded, **self.options)

    def _read_source(self, ids: Tensor) -> LayerOutputs:
        return _reading(lambda ids: self.encoder(input_ids=ids), self.layers[0], ids)

    def _read_target(self, ids: Tensor, encoded: Any) -> LayerOutputs:
        return _reading(lambda ids: self._decode(ids, encoded), self.layers[1], ids)


def _first_id(model: Any) -> int:
    for config in (getattr(model, "generation_config", None), model.config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return start
    raise ValueError(
        "the model does not say what its decoder begins with: set "
        "model.generation_config.decoder_start_token_id"
    )


def log_probabilities(
    logits: Tensor,  # (R, at least T, V), the last T of them the target's
    target: Tensor,  # (T,)
) -> Tensor:
    """Of the target's tokens, (R, T), float32 at least."""
    last = logits[:, -len(target) :]
    last = last.to(at_least_float32(last.dtype))
    index = target.to(last.device).expand(len(last), -1)[..., None]
    return last.gather(-1, index)[..., 0] - last.logsumexp(-1)


def _reading(forward: Callable[[Tensor], Any], layer: nn.Module, ids: Tensor) -> LayerOutputs:
    return capture(forward, [layer], (ids,), None, None, False)


def _given_for(
    layer: nn.Module,
    reading: LayerOutputs,
    ids: Tensor,
    others: Tensor,
    read: Callable[[Tensor], LayerOutputs],
) -> Tensor:
    embedded = embed_without_pass(layer, reading, (ids,), (others,))
    return read(others).activations[0][0] if embedded is None else embedded


def _arguments(model: nn.Module) -> set[str]:
    """Names of what the model's forward pass takes (its own, if an adapter wraps it)."""
    wrapped = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return {name for m in (model, wrapped) for name in inspect.signature(m.forward).parameters}


def _allowed(dtype: torch.dtype) -> float:
    """Relative difference of log-probabilities that rounding can explain."""
    return max(1e-3, 16 * torch.finfo(dtype).eps)
