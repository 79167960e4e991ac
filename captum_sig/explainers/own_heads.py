"""Classifiers of your own: any module, with a function that returns logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.words.inputs import TextInput

MULTI_LABEL = "multi_label_classification"  # as configs of transformers call it
VALUE = "value"  # the name of the only output


class OwnHead(nn.Module):
    """A module with a function that returns its logits, which looks like a model of transformers.

    Args:
        model: the module, whose layers the function runs.
        function: the encoding's tensors by name → logits (R, C), or (R,) for one value. It receives
            those that its signature names, and all if it takes `**encoding`.
        labels: C names; None is for one value.
        multi_label: whether each label has a probability of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        function: Callable[..., Tensor],
        labels: Sequence[str] | None,
        multi_label: bool,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(f"forward must be a function that returns logits, got {function!r}")
        names = [VALUE] if labels is None else list(labels)
        self.model, self.function = model, function
        parameters = inspect.signature(function).parameters
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        self.names = None if takes_all else frozenset(parameters)
        config = getattr(model, "config", None)
        self.config = SimpleNamespace(
            id2label=dict(enumerate(names)),
            problem_type=MULTI_LABEL if multi_label else None,
            max_position_embeddings=getattr(config, "max_position_embeddings", None),
            attention_window=getattr(config, "attention_window", None),
        )

    def get_input_embeddings(self) -> Any:
        """The module's own, if it names them."""
        return self.model.get_input_embeddings()  # type: ignore[operator]

    def forward(self, input_ids: Tensor, **others: Tensor) -> Any:
        """Call the function: an output with logits, (R, C).

        Raises:
            TypeError: if it returns something else than a tensor.
            ValueError: if the number of its values is not that of the labels.
        """
        mask = torch.ones_like(input_ids)
        encoding = {"input_ids": input_ids, "attention_mask": mask, **others}
        if self.names is not None:
            encoding = {name: encoding[name] for name in encoding if name in self.names}
        logits = self.function(**encoding)
        if not isinstance(logits, Tensor):
            raise TypeError(f"forward returns {type(logits).__name__}; wanted a tensor of logits")
        if logits.shape == input_ids.shape[:1]:
            logits = logits[:, None]
        n_labels = len(self.config.id2label)
        if logits.shape != (len(input_ids), n_labels):
            raise ValueError(
                f"forward returns shape {tuple(logits.shape)} for {len(input_ids)} texts and "
                f"{n_labels} labels; wanted ({len(input_ids)}, {n_labels}): pass labels with a "
                "name for each value"
            )
        return SimpleNamespace(logits=logits)


def checked_labels(labels: Any) -> list[str]:
    """Return names of labels as a list.

    Raises:
        TypeError: if they are not strings.
        ValueError: if there are none, or two of the same name.
    """
    names = list(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else labels
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"labels must be a list of names, got {labels!r}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"labels must be different names, at least one, got {names}")
    return names


def with_extras(
    inputs: Sequence[TextInput], extra_inputs: Mapping[str, Any], model: nn.Module, tokenizer: Any
) -> list[TextInput]:
    """Give each text its row of further tensors, which the model takes by name.

    Raises:
        TypeError: if they are not tensors by name.
        ValueError: if one has not a row for each text, or a name that the model does not take.
    """
    if not isinstance(extra_inputs, Mapping):
        raise TypeError(
            f"extra_inputs is {type(extra_inputs).__name__}; wanted tensors by the names that the "
            "model takes, as {'numbers': tensor}"
        )
    tensors = {name: _numbers(name, value) for name, value in extra_inputs.items()}
    for name, tensor in tensors.items():
        if name in ("input_ids", *tokenizer.model_input_names):
            raise ValueError(f"extra_inputs has {name!r}, which the tokenizer makes: leave it out")
        if not _takes(model, name):
            raise ValueError(
                f"extra_inputs has {name!r}, which the model's forward does not take: correct the "
                "name"
            )
        n_rows = len(tensor) if tensor.dim() else None
        if n_rows != len(inputs):
            raise ValueError(
                f"extra_inputs[{name!r}] has shape {tuple(tensor.shape)}; wanted a row for each of "
                f"{len(inputs)} texts, ({len(inputs)}, …)"
            )
    return [
        replace(one, extras={name: tensor[number] for name, tensor in tensors.items()})
        for number, one in enumerate(inputs)
    ]


def _numbers(name: str, value: Any) -> Tensor:
    """Turn what was passed as a further input into a tensor."""
    try:
        return torch.as_tensor(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"extra_inputs[{name!r}] is {type(value).__name__}; wanted a tensor of numbers with a "
            "row for each text"
        ) from error


def _takes(model: nn.Module, name: str) -> bool:
    """Whether a model takes an input, by the names in its signature: others may be ignored."""
    if isinstance(model, OwnHead):
        return model.names is None or name in model.names
    return name in inspect.signature(model.forward).parameters
