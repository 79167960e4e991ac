"""Classifiers of texts beyond the model's limit, which are read in overlapping windows.

R rows of L positions, D features; N windows of a text; C labels.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from captum_sig._names import WindowLogitsName, unknown_name
from captum_sig.attr.chunks import depends_on_others, rounding_error, warn_of_dependent_rows
from captum_sig.attr.function import with_shared_weights
from captum_sig.attr.hooks import follow, patched
from captum_sig.explainers.embeddings import WordEmbeddings
from captum_sig.explainers.models import classifier_logits, word_embedding
from captum_sig.words.encoding import NO_LIMIT, Encoder
from captum_sig.words.windows import Windows

N_REMEMBERED = 64  # texts whose windows are remembered at a time

Combine = Callable[[Tensor], Tensor]  # logits of a text's windows, (N, C) → the text's, (C,)
WindowLogits = WindowLogitsName | Combine

Part = tuple[int, Tensor]  # the number of a row, and where a window is in it, (n,)

WINDOW_LOGITS: dict[str, Combine] = {
    "mean": lambda logits: logits.mean(0),
    "max": lambda logits: logits.amax(0),
}
DEFAULT = "mean"


def windowed(
    model: nn.Module,
    tokenizer: Any,
    embeddings: WordEmbeddings,
    encoder: Encoder,
    *,
    stride: Any,
    window_logits: Any,
) -> WindowedModel:
    """Let an explainer's model read texts in windows.

    Raises:
        TypeError: if `window_logits` is neither a name nor a function.
        ValueError: for an unknown name, a stride that leaves no room, a model without a limit, or
            if words do not move in one word embedding.
    """
    combine = combination(DEFAULT if window_logits is None else window_logits)
    name, layer = type(model).__name__, embeddings.first
    if encoder.limit >= NO_LIMIT:
        raise ValueError(
            f"stride cuts texts at the model's limit, and neither {name} nor its tokenizer has "
            "one: set tokenizer.model_max_length"
        )
    if len(embeddings.layers) > 1:
        raise ValueError(
            f"{name} reads a text twice, in its encoder and its decoder, and with stride words "
            "move in one embedding: pass layer, the encoder's"
        )
    if not isinstance(layer, nn.Embedding) and layer is not word_embedding(model):
        raise ValueError(
            f"layer is {type(layer).__name__}; with stride, words move in the word embedding: "
            "leave layer out"
        )
    return WindowedModel(
        model, layer, Windows.of(tokenizer, encoder.limit, stride), combine,
        token_inputs=tokenizer.model_input_names, multiple=encoder.multiple,
        pad_id=tokenizer.pad_token_id,
    )  # fmt: skip


def combination(window_logits: Any) -> Combine:
    """Return what makes a text's logits of its windows'.

    Raises:
        ValueError: for an unknown name.
        TypeError: if it is neither a name nor a function.
    """
    if isinstance(window_logits, str):
        if window_logits not in WINDOW_LOGITS:
            raise ValueError(unknown_name("window_logits", window_logits, WINDOW_LOGITS))
        return WINDOW_LOGITS[window_logits]
    if not callable(window_logits):
        raise TypeError(
            f"window_logits must be one of {', '.join(WINDOW_LOGITS)}, or a function from the "
            f"logits of a text's windows, (N, C), to the text's, (C,), got {window_logits!r}"
        )
    return window_logits


class WindowedModel(nn.Module):
    """A classifier that reads texts of any length, called as a model of transformers.

    Words move in `embedding`, which embeds a whole text's ids and shares the weights of the model's
    own. The model reads each window by itself: between the special tokens that the tokenizer adds,
    at positions from the first on, without padding. A text that fits is one window, as it is.

    Without a gradient, a window is evaluated only where it differs from the text's own and from
    that of the row before. A copy that is `remembering` knows both from call to call. With a
    gradient all windows are evaluated. A pass has at most as many windows as there are rows.

    Args:
        model: a classifier, called with keywords.
        layer: its word embedding.
        windows: how a text is cut.
        combine: the logits of a text's windows, (N, C), in the text's order → its own, (C,).
        token_inputs: names of inputs that have a number for each token, such as "attention_mask".
        multiple: length to whose multiples the model pads by itself; windows are padded before.
        pad_id: what they are padded with.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        windows: Windows,
        combine: Combine,
        *,
        token_inputs: Sequence[str],
        multiple: int | None = None,
        pad_id: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.embedding = with_shared_weights(layer)
        self.windows, self.combine = windows, combine
        self.token_inputs = frozenset(("attention_mask", *token_inputs))
        self.multiple, self.pad_id = multiple or 1, pad_id or 0
        self.memories: OrderedDict[Any, _Memory] | None = None
        self.is_checked, self.one_by_one = False, False

    def remembering(self) -> WindowedModel:
        """Return a copy that remembers windows: it serves while the weights stay as they are."""
        follow(self.embedding, self.layer)
        same = copy.copy(self)
        same.memories = OrderedDict()
        return same

    def forward(self, input_ids: Tensor, **others: Tensor) -> Any:
        """Evaluate texts: an output with logits, (R, C).

        Raises:
            ValueError: if `combine` returns something else than (C,).
        """
        rows = self.embedding(input_ids)  # or what is put in place of its output
        if self.cuts(input_ids):
            of_rows = self._of_windows(_Texts(input_ids, rows, others, self.token_inputs))
        else:
            of_rows = list(self._pass(input_ids, rows, others)[:, None])
        return SimpleNamespace(logits=torch.stack([self._combined(of_row) for of_row in of_rows]))

    def cuts(self, input_ids: Tensor) -> bool:
        """Whether texts take several windows, ids (R, L)."""
        return input_ids.shape[1] > self.windows.limit

    def _combined(self, logits: Tensor) -> Tensor:
        combined = self.combine(logits)
        if not isinstance(combined, Tensor) or combined.shape != logits.shape[1:]:
            is_tensor = isinstance(combined, Tensor)
            got = f"shape {tuple(combined.shape)}" if is_tensor else type(combined).__name__
            raise ValueError(
                f"window_logits returns {got} for logits of shape {tuple(logits.shape)}; wanted "
                f"a tensor {tuple(logits.shape[1:])}, with a value for each label"
            )
        return combined

    def _of_windows(self, texts: _Texts) -> list[Tensor]:
        """Return the logits of each row's windows, (N, C) each."""
        of_text: defaultdict[Any, list[int]] = defaultdict(list)  # the numbers of its rows
        for number, key in enumerate(texts.keys()):
            of_text[key].append(number)
        with_gradient = torch.is_grad_enabled() and texts.rows.requires_grad
        readings: list[_AllWindows | _NewWindows] = []
        for key, numbers in of_text.items():
            own_ids = texts.own_ids(numbers[0])
            places = [
                torch.tensor(positions, device=texts.ids.device)
                for positions in self.windows.positions(own_ids.tolist())
            ]
            if with_gradient:
                readings.append(_AllWindows(numbers, places))
                continue
            with torch.no_grad():
                own = self.layer(texts.ids[numbers[:1]])
            readings.append(
                _NewWindows(numbers, places, texts.rows[numbers], own, self._memory(key))
            )
        evaluated = self._logits_of(texts, [part for one in readings for part in one.parts])
        of_rows: dict[int, Tensor] = {}
        for one, logits in zip(
            readings, evaluated.split([len(one.parts) for one in readings]), strict=True
        ):
            of_rows.update(zip(one.numbers, one.logits(logits), strict=True))
        return [of_rows[number] for number in range(len(of_rows))]

    def _memory(self, key: Any) -> _Memory:
        if self.memories is None:
            return _Memory()
        memory = self.memories.setdefault(key, _Memory())
        self.memories.move_to_end(key)
        if len(self.memories) > N_REMEMBERED:
            self.memories.popitem(last=False)
        return memory

    def _logits_of(self, texts: _Texts, parts: Sequence[Part]) -> Tensor:
        """Evaluate windows, M of them, (M, C): those of a length share passes."""
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for index, (_, positions) in enumerate(parts):
            by_length[len(positions)].append(index)
        size = 1 if self.one_by_one else len(texts.ids)
        passes = [
            indices[start : start + size]
            for indices in by_length.values()
            for start in range(0, len(indices), size)
        ]
        logits = []
        for indices in passes:
            logits.append(self._read(texts, [parts[index] for index in indices]))
            if self._depend_on_each_other(texts, parts[indices[-1]], logits[-1]):
                self.one_by_one = True
                warn_of_dependent_rows()
                return self._logits_of(texts, parts)
        if not logits:
            return texts.rows.new_zeros(0)
        order = [index for indices in passes for index in indices]
        where = torch.tensor(order).argsort().to(logits[0].device)
        return torch.cat(logits)[where]

    def _depend_on_each_other(self, texts: _Texts, last: Part, logits: Tensor) -> bool:
        if self.memories is None or self.is_checked or len(logits) < 2 or logits.requires_grad:
            return False
        self.is_checked = True
        return depends_on_others(
            lambda: self._read(texts, [last]), logits, rounding_error(texts.rows)
        )

    def _read(self, texts: _Texts, parts: Sequence[Part]) -> Tensor:
        """Evaluate windows of the same length in one pass, (M, C)."""
        ids, rows, others = texts.cut(parts)
        if missing := -ids.shape[1] % self.multiple:
            others = {"attention_mask": torch.ones_like(ids), **others}
            ids = pad(ids, (0, missing), value=self.pad_id)
            with torch.no_grad():
                rows = torch.cat([rows, self.layer(ids[:, -missing:])], 1)
            others = {
                name: pad(tensor, (0, missing)) if name in self.token_inputs else tensor
                for name, tensor in others.items()
            }
        return self._pass(ids, rows, others)

    def _pass(self, ids: Tensor, rows: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        with patched([self.layer], (rows,)):
            return classifier_logits(self.model, self.model(input_ids=ids, **others))


@dataclass(frozen=True)
class _Texts:
    """Rows of whole texts, with padding behind the shorter ones."""

    ids: Tensor  # (R, L)
    rows: Tensor  # (R, L, D)
    others: Mapping[str, Tensor]  # (R, …)
    token_inputs: frozenset[str]  # which of those are (R, L)

    def keys(self) -> Iterator[tuple[bytes, ...]]:
        """Yield what tells each row's text and further inputs from others."""
        tensors = [of.reshape(len(of), -1).contiguous() for of in (self.ids, *self.others.values())]
        columns = [tensor.view(torch.uint8).cpu().numpy() for tensor in tensors]
        return (tuple(map(bytes, of_row)) for of_row in zip(*columns, strict=True))

    def own_ids(self, number: int) -> Tensor:
        """Return the ids of a text without its padding."""
        mask = self.others.get("attention_mask")
        return self.ids[number, : None if mask is None else int((mask[number] != 0).sum())]

    def cut(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return windows of a length n: ids (M, n), rows (M, n, D), and further inputs."""
        number = torch.tensor([number for number, _ in parts], device=self.ids.device)
        place = number[:, None], torch.stack([positions for _, positions in parts])
        others = {
            name: tensor[place if name in self.token_inputs else number]
            for name, tensor in self.others.items()
        }
        return self.ids[place], self.rows[place], others


@dataclass(frozen=True)
class _AllWindows:
    """Every window of a text's rows."""

    numbers: Sequence[int]  # of the rows
    places: Sequence[Tensor]  # of the windows

    @property
    def parts(self) -> list[Part]:
        """What must be evaluated."""
        return [(number, positions) for number in self.numbers for positions in self.places]

    def logits(self, evaluated: Tensor) -> Iterable[Tensor]:
        """Return the windows' logits of each row, (N, C), given those of the parts."""
        return evaluated.split(len(self.places))


@dataclass
class _Memory:
    """What is known of a text: its own windows' logits, and the row that came last."""

    own: dict[int, Tensor] = field(default_factory=dict)  # of a window, (C,)
    last_row: Tensor | None = None  # (1, L, D)
    last: Tensor | None = None  # (N, C)


class _NewWindows:
    """The windows of a text's rows that are not known: from the text itself, or the row before.

    Args:
        numbers: of the K rows.
        places: of the N windows.
        rows: (K, L, D).
        own: what the text's ids are embedded as, (1, L, D).
        memory: what is known of the text.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        places: Sequence[Tensor],
        rows: Tensor,
        own: Tensor,
        memory: _Memory,
    ) -> None:
        self.numbers, self.rows, self.memory = numbers, rows, memory
        before = torch.full_like(own, torch.nan) if memory.last_row is None else memory.last_row
        self.is_own = _same(rows, own, places)  # (K, N)
        self.is_new = ~self.is_own & ~_same(rows, torch.cat([before, rows[:-1]]), places)
        shows = self.is_own.any(0).tolist()
        self.own_windows = [n for n in range(len(places)) if shows[n] and n not in memory.own]
        first = self.is_own.int().argmax(0).tolist()
        wanted = [*self.is_new.nonzero().tolist(), *([first[n], n] for n in self.own_windows)]
        self.parts = [(numbers[row], places[window]) for row, window in wanted]

    def logits(self, evaluated: Tensor) -> Iterable[Tensor]:
        """Return the windows' logits of each row, (N, C), given those of the parts; keep them."""
        memory, n_own = self.memory, len(self.own_windows)
        new, own = evaluated.split([len(evaluated) - n_own, n_own])
        memory.own |= dict(zip(self.own_windows, own, strict=True))
        known = [*evaluated, *memory.own.values(), *([] if memory.last is None else memory.last)]
        is_own, is_new = self.is_own.to(known[0].device), self.is_new.to(known[0].device)
        n_rows, n_windows = is_own.shape
        logits = known[0].new_zeros(1 + n_rows, n_windows, len(known[0]))  # after the row before
        if memory.last is not None:
            logits[0] = memory.last
        logits[1:][is_new] = new.reshape(len(new), len(known[0]))
        for window, of_own in memory.own.items():
            logits[1:][is_own[:, window], window] = of_own
        row = torch.arange(1, 1 + n_rows, device=logits.device)[:, None]
        source = torch.where(is_own | is_new, row, 0).cummax(0).values
        logits = logits[source, torch.arange(n_windows, device=logits.device)]
        memory.last_row, memory.last = self.rows[-1:].clone(), logits[-1]
        return logits


def _same(rows: Tensor, others: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Whether rows have the same values as others in each window: (K, L, D) → (K, N)."""
    equal = (rows == others).flatten(2).all(-1)
    return torch.stack([equal[:, positions].all(1) for positions in places], 1)
