"""Many texts: a callable on columns for `ray.data`, `datasets`, and `captum-sig corpus`."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from captum_sig._warnings import warn
from captum_sig.contexts import Contexts
from captum_sig.data.columns import checked_text
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.explainers.models import pretrained
from captum_sig.explainers.results import WordAttribution
from captum_sig.explainers.scoring import ScoringOptions

SPARE = 2**27  # bytes that may pile up; to touch pages anew that were given back takes time


class MemoryTrimmer:
    """Called now and then, gives freed memory back once `SPARE` more is resident than after that.

    On Linux with glibc; elsewhere it does nothing.
    """

    def __init__(self) -> None:
        """Nothing has been given back yet."""
        self.least = 0

    def __call__(self) -> None:
        """Trim if it is time."""
        if sys.platform == "linux" and resident() > self.least + SPARE:
            give_back()
            self.least = resident()


def give_back() -> None:
    """Return freed memory to the system, if the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    """Bytes of this process in memory, on Linux."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


AT_ONCE = 4096  # texts that are sorted by length together, which fills batches of a GPU
CANARY_TEXT = "a"  # explained when the model is loaded, and whenever a text has failed
ERROR_LENGTH = 500  # characters

Row = dict[str, Any]


_forked: list[int] = []  # not empty in a fork, as of `datasets`' num_proc: OpenMP's threads stayed
if hasattr(os, "register_at_fork"):  # behind, and to wait for them would take for ever
    os.register_at_fork(after_in_child=lambda: _forked.append(os.getpid()))


class CorpusExplainer:
    """Columns in, columns out: explains the texts of a batch, whatever they are.

    Ready for `ray.data.Dataset.map_batches(CorpusExplainer, fn_constructor_kwargs={"model": …})`,
    which makes one for each worker, and `datasets.Dataset.map(CorpusExplainer(…), batched=True)`.
    Texts are sorted by length within `AT_ONCE`, so let batches hold as many. Where the model was
    given by name the name is pickled, and each process loads the model at its first batch.

    The columns that it adds, one entry for each text, are fields of `WordAttribution`:

    - `label` and `probability`: the predicted label; `target`: the explained label
    - `words`, `offsets` (characters [start, end)), `scores` (logits of `target`): lists
    - `max_abs_word_delta`: the worst word's measured error, in logits
    - `dropped_tokens`: how many at the end of a text the model could not read
    - `std` of random baselines; `standard_error` and `residual` of contexts other than the input
    - `error`: "" (null in the command's shards), or why there is no explanation: a text that is
      null, no string, or fails in the model stops nothing

    Args:
        model: folder or hub name of a text classifier, or an explainer, which is pickled whole.
        text_column: the name of the column of texts.
        target: the label to explain, by name or index; None explains each text's predicted one.
        method: as in `TextClassificationExplainer`.
        contexts: likewise.
        n_steps: likewise.
        batch_size: likewise.
        internal_batch_size: likewise.
        truncation: cut texts beyond the model's limit; False makes an error of them.
        device: where the model runs; None is a GPU if there is one. An explainer stays where it is.
        masked_lm: as in `TextClassificationExplainer`, or its folder or hub name.
        **options: the others of `TextClassificationExplainer`: `baseline`, `level`, …

    Raises:
        ValueError: if the model cannot be explained so.

    >>> from captum_sig.demo_model import PATH
    >>> explain = CorpusExplainer(PATH, target="POSITIVE")
    >>> found = explain({"text": ["A charming film.", None]})
    >>> found["words"]
    [['A', 'charming', 'film', '.'], []]
    >>> found["error"]
    ['', 'the text is null; wanted a string: correct the row or leave it out']
    """

    def __init__(
        self,
        model: str | Path | TextClassificationExplainer,
        *,
        text_column: str = "text",
        target: str | int | None = None,
        method: str = "sig",
        contexts: str | Contexts | None = None,
        n_steps: int = 50,
        batch_size: int | None = None,
        internal_batch_size: int | None = None,
        truncation: bool = True,
        device: torch.device | str | None = None,
        masked_lm: Any = None,
        **options: Any,
    ) -> None:
        """Load the model and explain a first text."""
        options = {"device": device, "masked_lm": masked_lm, **options}
        ours = [name for name, value in options.items() if value is not None]
        if isinstance(model, TextClassificationExplainer) and ours:
            raise ValueError(f"the explainer is made already: make it with {', '.join(ours)}")
        self.text_column = text_column
        self.how: dict[str, Any] = {
            "target": target, "method": method, "contexts": contexts, "n_steps": n_steps,
            "batch_size": batch_size, "internal_batch_size": internal_batch_size,
            "truncation": truncation,
        }  # fmt: skip
        self._source = model
        self._options = options
        self._told: set[str] = set()
        self._trim = MemoryTrimmer()
        self._in_contexts = ScoringOptions.checked(
            method, contexts, n_steps, internal_batch_size
        ).contexts
        self._loaded: TextClassificationExplainer | None = self._load()

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, unless it was given."""
        return {**self.__dict__, "_loaded": None, "_told": set(), "_trim": MemoryTrimmer()}

    @property
    def explainer(self) -> TextClassificationExplainer:
        """What explains the texts, loaded and tried at first use in a process."""
        if self._loaded is None:
            if _forked:
                torch.set_num_threads(1)
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> TextClassificationExplainer:
        """The explainer, once it has explained something: mistakes are told before the texts."""
        loaded = self._source
        if not isinstance(loaded, TextClassificationExplainer):
            loaded = self._made(loaded)
        loaded(CANARY_TEXT, **self.how)
        return loaded

    def _made(self, source: str | Path) -> TextClassificationExplainer:
        options = dict(self._options)
        if options["device"] is None:
            options["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        if isinstance(options["masked_lm"], (str, Path)):
            from transformers import AutoModelForMaskedLM

            options["masked_lm"] = pretrained(
                AutoModelForMaskedLM, options["masked_lm"], "to fill in masked words"
            ).to(options["device"])
        return TextClassificationExplainer.from_pretrained(source, **options)

    @property
    def names(self) -> list[str]:
        """The columns that are added."""
        random = ["std"] if self.explainer.n_draws > 1 else []
        moved = ["standard_error", "residual"] if self._in_contexts is not None else []
        return [
            "label", "probability", "target", "words", "offsets", "scores", "max_abs_word_delta",
            "dropped_tokens", *random, *moved, "error",
        ]  # fmt: skip

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch's columns and those that are added.

        Where the batch has a column of such a name, `label` for instance, the new one is
        `sig_label`.

        Raises:
            TypeError: if the batch is no mapping of columns.
            ValueError: if it has no column of texts, or has both `label` and `sig_label`.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"a batch must be a dict of columns, got {type(batch).__name__}: Ray gives one "
                "with batch_format='numpy', datasets with batched=True"
            )
        if self.text_column not in batch:
            raise ValueError(
                f"there is no column {self.text_column!r}: text_column must be one of "
                f"{', '.join(map(repr, batch))}"
            )
        texts = batch[self.text_column]
        if isinstance(texts, (str, bytes)) or not hasattr(texts, "__len__"):
            raise TypeError(
                f"column {self.text_column!r} is of type {type(texts).__name__}; wanted a list or "
                "array with a text for each row"
            )
        found = self.columns(texts)
        added = {f"sig_{name}" if name in batch else name: found[name] for name in found}
        if twice := [name for name in added if name in batch]:
            raise ValueError(f"the batch has columns {', '.join(twice)} already: rename them")
        return {**batch, **added}

    def columns(
        self, texts: Sequence[Any], progress: Callable[[int], object] | None = None
    ) -> dict[str, list[Any]]:
        """The columns of some texts.

        Args:
            texts: strings, and whatever else a column of texts may hold.
            progress: told how many texts are done since it was last told.
        """
        rows: list[Row] = [{}] * len(texts)
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always")
            for start in range(0, len(texts), AT_ONCE):
                for numbers, found in self._explained(texts[start : start + AT_ONCE]):
                    for number, row in zip(numbers, found, strict=True):
                        rows[start + number] = row
                    if progress is not None:
                        progress(len(numbers))
                    self._trim()
        self._tell(notices)
        return {name: [row.get(name) for row in rows] for name in self.names}

    def _tell(self, notices: Sequence[warnings.WarningMessage]) -> None:
        """Warn of each matter once; that texts are cut stands in their rows."""
        for message in dict.fromkeys(str(notice.message) for notice in notices):
            if message not in self._told and " texts exceed the model's " not in message:
                self._told.add(message)
                warn(message)

    def _explained(self, texts: Sequence[Any]) -> Iterator[tuple[list[int], list[Row]]]:
        """Rows of some of the texts, by their numbers, as they are done."""
        strings: dict[int, str] = {}
        for number, text in enumerate(texts):
            try:
                strings[number] = checked_text(text)
            except ValueError as error:
                yield [number], [_bad(str(error))]
        if strings:
            yield from self._halved(list(strings), list(strings.values()))

    def _halved(
        self, numbers: list[int], texts: list[str]
    ) -> Iterator[tuple[list[int], list[Row]]]:
        """The texts together; when one of them fails, what is left in halves, down to it alone."""
        left = dict.fromkeys(range(len(texts)))
        try:
            for batch, found in self.explainer.in_batches(texts, **self.how):
                rows = [
                    self._row(result, dropped)
                    for result, dropped in zip(found, batch.dropped, strict=True)
                ]
                for place in batch.numbers:
                    del left[place]
                yield [numbers[place] for place in batch.numbers], rows
        except Exception as error:  # whatever a model makes of a text
            failure = error
        else:
            return
        places = list(left)
        if len(places) == 1:
            self._check_alive(failure)
            message = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
            yield [numbers[places[0]]], [_bad(message)]
            return
        for some in (places[: len(places) // 2], places[len(places) // 2 :]):
            yield from self._halved([numbers[i] for i in some], [texts[i] for i in some])

    def _check_alive(self, failure: Exception) -> None:
        """Blame a text only while the model still explains others (a GPU's error may stay)."""
        try:
            self.explainer(CANARY_TEXT, **self.how)
        except Exception:
            raise RuntimeError(f"the model explains nothing any more since: {failure}") from failure

    def _row(self, result: WordAttribution, dropped: int) -> Row:
        if result.label is None:
            return _bad("the tokenizer makes no token of the text, so the model had none to read")
        words = result.words
        return {
            "label": result.label,
            "probability": result.probability,
            "target": result.target,
            "words": [word.word for word in words],
            "offsets": [[word.start, word.end] for word in words],
            "scores": [word.score for word in words],
            "max_abs_word_delta": result.max_abs_word_delta,
            "dropped_tokens": dropped,
            "std": _all_told([word.std for word in words]),
            "standard_error": _all_told([word.standard_error for word in words]),
            "residual": result.residual,
            "error": "",
        }


def _all_told(values: list[float | None]) -> list[float | None] | None:
    return None if None in values else values


def _bad(error: str) -> Row:
    nothing: Row = {"words": [], "offsets": [], "scores": []}
    return {**nothing, "dropped_tokens": 0, "error": error[:ERROR_LENGTH]}
