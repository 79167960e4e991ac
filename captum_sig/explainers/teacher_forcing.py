"""Teacher forcing: the log-probability of every target token, as a function of the embeddings.

One pass over prompt and target yields the log-probability of every target token, so the model is a
function of rows with T values, evaluated once for each word. R rows; P positions of the prompt, T
tokens of the target, L = P + T − 1 positions that a decoder alone reads, without the last target
token; D features, V ids.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_sig.attr.function import RowFunction, Tensors, at_least_float32
from captum_sig.attr.hooks import LayerOutputs, capture, embed_without_pass, patched
from captum_sig.attr.read_positions import ReadPositions, last_positions

if TYPE_CHECKING:
    from captum_sig.explainers.prefix_cache import Prefixes, SharedPrefix


# In a pass: fewer would leave a device idle.
LEAST_TOKENS = {"cpu": 256, "cuda": 4096}
CACHE_NAMES = ("cache", "past_key_values")  # in transformers from 5.24 on, and before


class TokenFunction(RowFunction):
    """F with a value for each target token, log p, and one for all: (R, T) → (R, T + 1)."""

    def select(self, output: Any, example: Tensor) -> Tensor:
        """Return all values, with their sum behind them."""
        return with_sum(output)


def with_sum(log_probabilities: Tensor) -> Tensor:
    """Append the sum over the target's tokens: (R, T) → (R, T + 1)."""
    return torch.cat([log_probabilities, log_probabilities.sum(1, keepdim=True)], dim=1)


@dataclass(frozen=True, kw_only=True)
class TeacherForced:
    """A language model that is forced to generate a target after a prompt."""

    model: nn.Module
    ids: Tensors  # of each embedding that moves: (1, L), or a source and a decoder's input
    points: Tensors  # the embeddings' outputs, (1, L, D) each
    log_probabilities: Callable[[Tensors, Tensor], Tensor]  # rows, their examples → (R, T)
    embed: Callable[[int, Tensor], Tensor]  # number of the embedding, other ids → its output
    target_start: tuple[int, int]  # number of the embedding that reads the target, and where
    n_ids: int  # V
    unchanged: Tensor  # (1, T): log-probabilities of the unchanged model
    without_cache: str | None  # why the prefix cache is not used


def force_decoder(
    model: nn.Module,
    layer: nn.Module,
    prompt: Tensor,  # (1, P)
    target: Tensor,  # (T,)
    *,
    use_cache: bool,
) -> TeacherForced:
    """Force a decoder alone: prompt and target stand in one text.

    Args:
        model: a causal language model; it stays where and as it is.
        layer: its word embedding.
        prompt: ids.
        target: ids.
        use_cache: compute only once what stands before a change.

    Raises:
        ValueError: if the model returns no logits.
    """
    ids = torch.cat([prompt, target[None, :-1]], dim=1)
    parameters = _parameters(model)
    cache_name = next((name for name in CACHE_NAMES if name in parameters), "")
    options = {"logits_to_keep": len(target), "use_cache": False}
    options = {name: value for name, value in options.items() if name in parameters}

    def read(ids: Tensor, **more: Any) -> LayerOutputs:
        return capture(lambda ids: model(input_ids=ids, **{**options, **more}), [layer], (ids,))

    outputs = read(ids, **({"use_cache": use_cache} if "use_cache" in parameters else {}))
    output: Any = outputs.output
    if not hasattr(output, "logits"):
        raise ValueError(
            f"{type(model).__name__} returns no logits: wanted a model with its language model's "
            "head, such as AutoModelForCausalLM loads"
        )
    outputs = replace(outputs, output=None)  # else its logits and cache would be kept
    (x,) = outputs.activations[0]

    positions = ReadPositions({"target's": last_positions(len(target))})

    def read_rows(rows: Tensor, start: int = 0, **cached: Any) -> Tensor:
        row_ids = ids[:, start:].expand(len(rows), -1)

        def read_whole() -> Tensor:
            with patched([layer], (rows[:, start:],)):
                result = model(input_ids=row_ids, **options, **cached)
            return log_probabilities(result.logits, target)

        return positions.evaluate(read_whole, torch.ones_like(row_ids))

    def evaluate(rows: Tensors, prefixes: Prefixes | None) -> Tensor:
        """Evaluate rows, leaving out first positions that another row has already been through.

        Gradients need all positions.
        """
        (row,) = rows
        if prefixes is None or row.requires_grad:
            return read_rows(row)
        from captum_sig.explainers.prefix_cache import cache_of

        values = []
        while len(row) > 0:
            n, start, layers = prefixes.split(row)
            values.append(read_rows(row[:n], start, **{cache_name: cache_of(layers)}))
            prefixes.remember(row[n - 1 : n], layers)
            row = row[n:]
        return torch.cat(values)

    unchanged = log_probabilities(output.logits, target)
    prefixes: Prefixes | None = None
    without_cache: str | None = "it was not requested"
    if use_cache:
        cache = getattr(output, cache_name, None)
        prefixes, without_cache = _share(model, cache, x, unchanged, evaluate)
    if prefixes is not None:
        attended = torch.ones_like(ids[:, prefixes.limit :])
        positions.find(model, lambda: evaluate((x,), prefixes), attended, unchanged)
    return TeacherForced(
        model=model,
        ids=(ids,),
        points=(x,),
        log_probabilities=lambda rows, example: evaluate(rows, prefixes),
        embed=lambda number, others: _embed(layer, outputs, ids, others, read),
        target_start=(0, prompt.shape[1]),
        n_ids=output.logits.shape[-1],
        unchanged=unchanged,
        without_cache=without_cache,
    )


def _share(
    model: nn.Module,
    cache: Any,
    x: Tensor,
    unchanged: Tensor,
    evaluate: Callable[[Tensors, Prefixes | None], Tensor],
) -> tuple[Prefixes | None, str | None]:
    """Take the cache if the unchanged input has the same log-probabilities through it.

    The keys and values that the pass through it leaves must be the cache's, too.

    Returns:
        what passes may begin with, and why there is nothing.
    """
    from captum_sig.explainers.prefix_attention import layers_that_attend
    from captum_sig.explainers.prefix_cache import (
        NoPrefixError,
        Prefixes,
        layers_that_copy,
        shared_prefix,
    )

    n_tokens = unchanged.shape[1]
    # A pass has one position more than is read: so the check sees what masks and heads do with it.
    limit = max(0, x.shape[1] - n_tokens - 1)
    worth = least_tokens(x.device)
    reason = ""
    for make_layers in (
        functools.partial(layers_that_attend, n_read=n_tokens),
        layers_that_attend,
        layers_that_copy,
    ):
        try:
            of_input = shared_prefix(cache, x)
            prefixes = Prefixes(of_input, limit, worth, make_layers)
            _require_same(evaluate((x,), prefixes), unchanged, of_input, prefixes.of_last)
        except NoPrefixError as error:
            reason = f"{type(model).__name__} has {error}"
        except Exception:  # whatever a model's own code makes of fewer keys
            if make_layers is layers_that_copy:
                raise
        else:
            return prefixes, None
    return None, reason


def _require_same(
    values: Tensor, unchanged: Tensor, of_input: SharedPrefix, of_last: SharedPrefix
) -> None:
    """Raise if a pass through the cache differs from the input's, also in what it leaves."""
    from captum_sig.explainers.prefix_cache import NoPrefixError

    rounding = max(1e-3, 16 * torch.finfo(of_input.row.dtype).eps)
    gap = _gap(values, unchanged)
    if not gap <= rounding:
        raise NoPrefixError(f"keys and values that change log-probabilities by {gap:.1g}")
    length = of_input.row.shape[1]
    for layer, again in zip(of_input.layers, of_last.layers, strict=True):
        pairs = zip(again.upto(length), layer.begin, strict=True)
        if not all(_gap(*pair) <= rounding for pair in pairs):
            raise NoPrefixError("keys and values that differ from pass to pass")


def least_tokens(device: torch.device) -> int:
    """Return the number of tokens that keep a device busy."""
    return LEAST_TOKENS.get(device.type, LEAST_TOKENS["cuda"])


def _gap(values: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a fraction of 1 + the largest expected value."""
    return float((values - expected).abs().max() / (1 + expected.abs().max()))


def force_encoder_decoder(
    model: Any,
    layer: nn.Module,
    prompt: Tensor,  # (1, P)
    target: Tensor,  # (T,)
) -> TeacherForced:
    """Force a decoder to generate the target while an encoder reads the prompt.

    The encoder runs separately, so that an embedding that both share is met once at a time.

    Args:
        model: as for `force_decoder`, with an encoder.
        layer: the encoder's word embedding.
        prompt: ids.
        target: ids.

    Raises:
        ValueError: if the model does not name the id with which its decoder begins.
    """
    encoder = model.get_encoder()
    layers = layer, model.get_decoder().get_input_embeddings()
    options = {"use_cache": False} if "use_cache" in _parameters(model) else {}
    start = target.new_tensor([_first_id(model)])
    ids = prompt, torch.cat([start, target[:-1]])[None]

    def decode(ids: Tensor, encoded: Any) -> Any:
        return model(decoder_input_ids=ids, encoder_outputs=encoded, **options)

    def read_source(ids: Tensor) -> LayerOutputs:
        return capture(lambda ids: encoder(input_ids=ids), [layers[0]], (ids,))

    source = read_source(ids[0])

    def read_target(ids: Tensor) -> LayerOutputs:
        return capture(lambda ids: decode(ids, source.output), [layers[1]], (ids,))

    outputs = source, read_target(ids[1])
    readers = read_source, read_target
    decoded: Any = outputs[1].output
    points = tuple(of_layer.activations[0][0] for of_layer in outputs)

    def evaluate(rows: Tensors, example: Tensor) -> Tensor:
        source_ids, target_ids = (row.expand(len(example), -1) for row in ids)
        with patched(layers[:1], rows[:1]):
            encoded = encoder(input_ids=source_ids)
        with patched(layers[1:], rows[1:]):
            output = decode(target_ids, encoded)
        return log_probabilities(output.logits, target)

    return TeacherForced(
        model=model,
        ids=ids,
        points=points,
        log_probabilities=evaluate,
        embed=lambda n, others: _embed(layers[n], outputs[n], ids[n], others, readers[n]),
        target_start=(1, 1),  # after the id with which the decoder begins
        n_ids=decoded.logits.shape[-1],
        unchanged=log_probabilities(decoded.logits, target),
        without_cache="an encoder reads words in both directions",
    )


def contrasted(target: TeacherForced, contrast: TeacherForced) -> TeacherForced:
    """Subtract another target's log-probabilities after the same prompt, token by token.

    After the end of the shorter target, the other's stand alone. Only the prompt may move.
    """
    moving, start = target.target_start
    length = max(target.unchanged.shape[1], contrast.unchanged.shape[1])

    def difference(mine: Tensor, theirs: Tensor) -> Tensor:
        mine, theirs = (
            torch.nn.functional.pad(p, (0, length - p.shape[1])) for p in (mine, theirs)
        )
        return mine - theirs

    def evaluate(rows: Tensors, example: Tensor) -> Tensor:
        others = list(rows)
        rest = contrast.points[moving][:, start:].expand(len(example), -1, -1)
        others[moving] = torch.cat([rows[moving][:, :start], rest], dim=1)
        return difference(
            target.log_probabilities(rows, example),
            contrast.log_probabilities(tuple(others), example),
        )

    return replace(
        target,
        log_probabilities=evaluate,
        unchanged=difference(target.unchanged, contrast.unchanged),
        without_cache=target.without_cache or contrast.without_cache,
    )


def _first_id(model: Any) -> int:
    for config in (getattr(model, "generation_config", None), model.config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return start
    raise ValueError(
        "the model does not name the id with which its decoder begins: set "
        "model.generation_config.decoder_start_token_id"
    )


def log_probabilities(
    logits: Tensor,  # (R, at least T, V), the last T of them the target's
    target: Tensor,  # (T,)
) -> Tensor:
    """Compute the log-probabilities of the target's tokens, (R, T), at least float32."""
    last = logits[:, -len(target) :]
    last = last.to(at_least_float32(last.dtype))
    index = target.to(last.device).expand(len(last), -1)[..., None]
    return last.gather(-1, index)[..., 0] - last.logsumexp(-1)


def _embed(
    layer: nn.Module,
    outputs: LayerOutputs,
    ids: Tensor,
    others: Tensor,
    read: Callable[[Tensor], LayerOutputs],
) -> Tensor:
    """Return the layer's output for other ids in place of `ids`."""
    embedded = embed_without_pass([layer], outputs, (ids,), (others,))
    return read(others).activations[0][0] if embedded is None else embedded[0]


def _parameters(model: nn.Module) -> set[str]:
    """Return the names of the forward pass's parameters (also the base model's, of an adapter)."""
    wrapped = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return {name for m in (model, wrapped) for name in inspect.signature(m.forward).parameters}
