"""Adapters that PEFT trained, such as LoRA: small weights beside those of a base model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

# Kinds that change what a model's own layers compute, and nothing else: no tokens of their own in
# front of the text, and no further files.
KINDS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA", "LN_TUNING")
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of names in an adapter's file
WANTED = f"wanted all of the adapter's in {WEIGHTS}"
MERGE = "merge it into its model (merge_and_unload, then save_pretrained), and load that"


def check_adapter(name_or_path: str | Path, config: Mapping[str, Any]) -> None:
    """Check that an adapter can be read here.

    Raises:
        ValueError: if it is of another kind, names no base model, would import code, or if the
            package peft is not there.
    """
    kind = str(config.get("peft_type"))
    if kind not in KINDS or config.get("megatron_config") is not None:
        raise ValueError(
            f"{name_or_path} is an adapter of the kind {kind}, which is not read here; wanted one "
            f"of {', '.join(KINDS)}: {MERGE}"
        )
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ValueError(
            f"{name_or_path} is an adapter whose adapter_config.json does not name its base model: "
            "set base_model_name_or_path there"
        )
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'{name_or_path} is an adapter, which needs peft: run pip install ".[adapters]" in the '
            f"checkout of captum_sig, or {MERGE}"
        ) from error


def n_labels(model: Any, weights: str) -> int | None:
    """Return the number of labels of an adapter's trained head if the model's head has another.

    Args:
        model: the base model, with a head of its own, trained or not.
        weights: the adapter's file.
    """
    from safetensors import safe_open

    ours = model.state_dict()
    with safe_open(weights, "pt") as file:
        for name in file.keys():  # noqa: SIM118 – a file is not a dict
            own = ours.get(name.removeprefix(PREFIX))
            size = file.get_slice(name).get_shape()
            if own is not None and len(size) > 0 and len(own) == model.config.num_labels != size[0]:
                return int(size[0])
    return None


def with_adapter(
    model: Any, name_or_path: str | Path, where: Mapping[str, Any]
) -> tuple[nn.Module, set[str]]:
    """Put an adapter's weights beside those of its base model, which computes with both from now.

    Args:
        model: the base model; its layers are changed in place.
        name_or_path: the adapter; `check_adapter` has read its config.
        where: options of its file on the hub.

    Returns:
        the model, and the names of the base model's weights that come with the adapter.

    Raises:
        ValueError: if the adapter does not fit the model, or its file lacks weights.
    """
    import peft
    from safetensors import safe_open
    from transformers.utils import cached_file

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
            wrapped = peft.PeftModel.from_pretrained(model, str(name_or_path), **where)
    except KeyError as error:  # part of a head
        raise ValueError(f"{name_or_path} has no weights for {error}; {WANTED}") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the adapter {name_or_path} does not fit its base model, {type(model).__name__}: "
            f"{error}"
        ) from error
    wanted = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    with safe_open(cached_file(name_or_path, WEIGHTS, **where), "pt") as file:
        names = set(file.keys())
    if missing := sorted(set(wanted) - names):
        raise ValueError(f"{name_or_path} has no weights for {', '.join(missing)}; {WANTED}")
    return without_wrapper(wrapped), {name.removeprefix(PREFIX) for name in names}


def has_own_tokens(model: Any) -> bool:
    """Whether a `peft.PeftModel` puts tokens of its own before the text, as prompt tuning."""
    config = getattr(model, "active_peft_config", None) if hasattr(model, "peft_type") else None
    return config is not None and config.is_prompt_learning


def without_wrapper(model: Any) -> Any:
    """Return the transformers model inside a `peft.PeftModel`, its adapters still at work.

    An adapter with tokens of its own works in the wrapper only, which is then returned, as any
    other model is.
    """
    is_wrapper = hasattr(model, "peft_type") and hasattr(model, "get_base_model")
    return model.get_base_model() if is_wrapper and not has_own_tokens(model) else model
