"""Explain many texts: a callable on columns for `ray.data`, `datasets`, and `captum-sig corpus`."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from captum_sig._warnings import TruncationWarning, warn
from captum_sig.contexts import Auto, Contexts, Sampled, named
from captum_sig.contexts import input as only_input
from captum_sig.corpus.rows import (
    IN_CONTEXTS_ONLY,
    LOCATED,
    OF_DRAWS,
    OF_ONE,
    OF_PAIRS,
    OF_SCORES,
    OF_SEVERAL,
    OF_TOP,
    OF_UNITS,
    OF_VALUES,
    OPTIONAL_COLUMNS,
    RESULT_COLUMNS,
    SIDES,
    Row,
    failed_row,
    to_row,
)
from captum_sig.corpus.tasks import LABELLED, canary, check_columns, explainer_class
from captum_sig.data.columns import checked_input
from captum_sig.data.units import Units, units_of_row
from captum_sig.explainers.compiled import compile_explainer
from captum_sig.explainers.explainer import Explainer
from captum_sig.explainers.loading import pretrained_masked_lm
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.methods import IN_CONTEXTS
from captum_sig.explainers.readout import Result
from captum_sig.explainers.scoring import ScoringOptions
from captum_sig.explainers.top import Plan

MAX_FREED = 2**27  # bytes that a process keeps: touching pages anew that were returned takes time


def trim_memory(resident: int) -> int:
    """Return freed memory to the system once `MAX_FREED` bytes more than `resident` are in use.

    `resident` is what the previous call returned: the bytes in use after memory was last freed, at
    first 0. Works on Linux with glibc; elsewhere it does nothing.
    """
    if sys.platform == "linux" and resident_bytes() > resident + MAX_FREED:
        return_freed()
        return resident_bytes()
    return resident


def return_freed() -> None:
    """Return freed memory to the system, if the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return the bytes of this process in memory, on Linux."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


BYTES_OF_A_TOKEN = 4  # of UTF-8, on average
WORD_BY_WORD = (*IN_CONTEXTS, "occlusion", "shapley")  # methods that take rows for each word

Progress = Callable[[int, int], object]  # takes the number of texts just finished, and their work

SORT_WINDOW = 4096  # texts that are sorted by length together, which fills batches of a GPU
AUTO_BACKGROUNDS = 11  # rows of `contexts.auto` for each word, an estimate
TOKENS_OF_A_UNIT = {"word": 1, "token": 1, "sentence": 24, "paragraph": 96}  # estimates
TOKENS_OF_A_SPAN = 48  # of a text's own units
OPENED = 5  # level "auto" takes a row for so many words, unless there is a budget

Input = tuple[str | tuple[str, str], Units]  # a text, or a pair of texts, with its units if any

_forked: list[int] = []  # not empty in a fork, as made by `datasets`' num_proc: OpenMP's threads
if hasattr(os, "register_at_fork"):  # stay in the parent, and waiting for them would never end
    os.register_at_fork(after_in_child=lambda: _forked.append(os.getpid()))


def is_only_input(contexts: str | Contexts | None) -> bool:
    """Return whether words move in the input itself alone, as by default."""
    return contexts in (None, "input", only_input)


def n_backgrounds(contexts: str | Contexts | None) -> int:
    """Return the number of backgrounds in which each word moves; callables of users count as 2.

    Those of `contexts.auto` depend on the text: `AUTO_BACKGROUNDS` is what sentences take.
    """
    if isinstance(contexts, str):
        contexts = named(contexts)
    if isinstance(contexts, Sampled):
        return contexts.k
    if isinstance(contexts, Auto):
        return AUTO_BACKGROUNDS
    return 1 if is_only_input(contexts) else 2


class CorpusExplainer:
    """Explain a batch of texts, columns in, columns out, whatever the texts are.

    `ray.data.Dataset.map_batches(CorpusExplainer, fn_constructor_kwargs={"model": …})` makes one
    for each worker; `datasets.Dataset.map(CorpusExplainer(…), batched=True)` works too. Texts are
    sorted by length within `SORT_WINDOW`, so let batches hold as many. A model given by name is
    pickled as its name, and each process loads it at its first batch.

    It adds these columns, one entry for each text; most are fields of `WordAttribution`:

    - `label` and `probability`: the predicted label; `target`: the explained label
    - `words`, `offsets` (characters [start, end)), `scores` (logits of `target`): lists
    - `max_abs_word_delta`: the worst word's measured error, in logits
    - `value` and its `unit` where the model has no labels to predict but a value: of a regression
      or reward model, a reranker (`label` and `probability` are then None), a similarity
    - with pairs of texts: `sides`, a list with "text" or "text_pair" for each word, whose offsets
      are in that text
    - in place of `target`, `value` and `scores` where several targets are explained of a text:
      `targets`, `target_values` and `target_probabilities`, lists of T, and `target_scores`, a list
      for each target with a score for each word; for targets that are parts of a text, as entities
      are, `target_starts` and `target_ends`, their characters. So one row stays one text. The other
      columns of scores become lists in the same way, such as `target_std`, and
      `max_abs_word_delta` is the worst target's.
    - `dropped_tokens`: the number of tokens at the end of a text that the model could not read; a
      lower bound for texts of many pages, of which only the beginning is tokenised
    - `std` with random baselines: a list
    - with contexts other than the input: `residual`, and `standard_error`, a list, or None where
      nothing is drawn
    - with contexts other than the input and `sampled`, which show them by chance only: `first`,
      `last` and `agreement`, both sides of each word, lists
    - with another level than "word", or `units_column`: the `level` of the row, whose `words` are
      then the texts of units; with `units_column` also their `names`, None where there is none
    - with `top`, and level "auto", which gives the words of opened units and the other units as
      wholes: `evidence` of each score, a list, and the `bound` of what estimated words may be
      worth with its `confidence`, None in texts without such words
    - `error`: "" (null in the command's shards), or why there is no explanation. A text that is
      null, empty, not a string, or fails in the model does not stop the others.

    Args:
        model: folder or hub name of a model, or an explainer, which is pickled whole.
        text_column: the name of the column of texts.
        pair_column: the name of the column of second texts, if each row is a pair.
        units_column: the name of a column with units of each text, which move as one in place of
            the level's: JSON, or lists, of [start, end], [start, end, name] or objects with
            "start", "end", "name" and, in pairs, "side"; null leaves the text to the level.
        task: what the model does, one of `captum_sig.corpus.tasks.TASKS`; None is
            "text-classification", or the explainer's.
        target: what is explained of each text, as in the call of the task's explainer. For labels:
            a name or index; None for each text's predicted one; or several, as a list of names,
            "all", or ">0.5" for every label whose probability is above that.
        method, contexts, n_steps, batch_size, internal_batch_size, top: as in
            `TextClassificationExplainer`.
        budget: for level "auto": the most rows at which the model is evaluated for a text.
        compile: compile the model's layers by `torch.compile`, for method "sig" and a model given
            by name; it takes a minute or more, and is worth it for many texts.
        truncation: cut texts beyond the model's limit; False makes an error of them.
        device: where the model runs; None is a GPU if there is one. An explainer stays where it is.
        masked_lm: as in `TextClassificationExplainer`, or its folder or hub name.
        **options: the others of the task's explainer: `baseline`, `level`, …

    Raises:
        ValueError: if the model cannot be explained with these options.

    >>> from captum_sig.demo_model import PATH
    >>> explain = CorpusExplainer(PATH, target="POSITIVE")
    >>> columns = explain({"text": ["A charming film.", None]})
    >>> columns["words"]
    [['A', 'charming', 'film', '.'], []]
    >>> columns["error"]
    ['', 'the text is null; wanted a string: correct the row or leave it out']
    """

    def __init__(
        self,
        model: str | Path | Explainer,
        *,
        text_column: str = "text",
        pair_column: str | None = None,
        units_column: str | None = None,
        task: str | None = None,
        target: Any = None,
        method: str = "sig",
        contexts: str | Contexts | None = None,
        n_steps: int = 50,
        batch_size: int | None = None,
        internal_batch_size: int | None = None,
        truncation: bool = True,
        top: int | None = None,
        budget: int | None = None,
        compile: bool = False,
        device: torch.device | str | None = None,
        masked_lm: Any = None,
        **options: Any,
    ) -> None:
        options = {"device": device, "masked_lm": masked_lm, **options}
        own_options = [name for name, value in options.items() if value is not None]
        if isinstance(model, Explainer):
            if own_options:
                raise ValueError(
                    f"the explainer is made already: make it with {', '.join(own_options)}"
                )
            if task not in (None, model.TASK):
                raise ValueError(f"the explainer is for {model.TASK}, not {task}: leave task out")
            task = model.TASK
        self.task = task or LABELLED
        self._class = explainer_class(self.task)
        check_columns(self.task, pair_column is not None, target)
        self.text_column, self.pair_column = text_column, pair_column
        self.units_column = units_column
        self.call_options: dict[str, Any] = {
            "target": tuple(target) if isinstance(target, list) else target,
            "method": method, "contexts": contexts, "n_steps": n_steps,
            "batch_size": batch_size, "internal_batch_size": internal_batch_size,
            "truncation": truncation, "top": top,
        }  # fmt: skip
        if budget is not None:
            self.call_options["budget"] = budget
        if compile and (isinstance(model, Explainer) or method != "sig"):
            raise ValueError(
                "compile is for method 'sig' and a model given by its folder or hub name, whose "
                "layers no one else runs: leave compile out"
            )
        self._model, self._compile = model, compile
        self._options = options
        self._warned: set[str] = set()
        self._resident = 0
        self._scoring = ScoringOptions.checked(
            method, contexts, n_steps=n_steps, max_rows=internal_batch_size, top=top
        )
        self._loaded: Explainer | None
        self._loaded, result = self._load()
        self.names = self._names(self._loaded, result)  # the columns that are added

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what each process makes for itself: the loaded model, the warnings given."""
        return {**self.__dict__, "_loaded": None, "_warned": set(), "_resident": 0}

    @property
    def explainer(self) -> Explainer:
        """The explainer of the texts, loaded and tried at its first use in a process."""
        if self._loaded is None:
            if _forked:
                torch.set_num_threads(1)
            self._loaded, _ = self._load()
        return self._loaded

    def _load(self) -> tuple[Explainer, Result]:
        """Load the explainer and explain one text, so that mistakes are reported at once."""
        if isinstance(self._model, Explainer):
            explainer = self._model
        else:
            options = dict(self._options)
            if options["device"] is None:
                options["device"] = "cuda" if torch.cuda.is_available() else "cpu"
            if isinstance(options["masked_lm"], (str, Path)):
                masked_lm = pretrained_masked_lm(options["masked_lm"])
                options["masked_lm"] = masked_lm.to(options["device"])
            explainer = self._class.from_pretrained(self._model, **options)
        result = self._explain_canary(explainer)
        if self._compile:
            compile_explainer(explainer, lambda: self._explain_canary(explainer))
        return explainer, result

    def _explain_canary(self, explainer: Explainer) -> Result:
        top = self.call_options["top"]
        options = {**self.call_options, "top": top and 1}  # the text is short
        result: Result = explainer(canary(explainer, self.pair_column is not None), **options)
        return result

    def _names(self, explainer: Explainer, result: Result) -> list[str]:
        """Return the columns that are added, given the result of a text."""
        is_several = isinstance(result.flat(), TargetsAttribution)
        kept = OF_SEVERAL if is_several else OF_ONE
        if result.unit != "logit":
            kept = kept | (OF_VALUES - {"value"} if is_several else OF_VALUES)
        if is_several and self.task != LABELLED:
            kept = kept | LOCATED
        if self.pair_column is not None:
            kept = kept | OF_PAIRS
        if self.units_column is not None:
            kept = kept | OF_UNITS
        elif explainer.level != "word":
            kept = kept | (OF_UNITS - {"names"})
        of_scores = self._columns_of_scores(explainer)
        kept = kept | ({f"target_{name}" for name in of_scores} if is_several else of_scores)
        return [name for name in RESULT_COLUMNS if name in kept or name not in OPTIONAL_COLUMNS]

    def _columns_of_scores(self, explainer: Explainer) -> set[str]:
        """Return what is known of scores with these options."""
        absent = set() if explainer.n_draws > 1 else set(OF_DRAWS)
        contexts = self._scoring.contexts
        if is_only_input(contexts):
            absent |= IN_CONTEXTS_ONLY
        elif isinstance(named(contexts) if isinstance(contexts, str) else contexts, Sampled):
            absent |= SIDES
        if self._scoring.top is None and explainer.level != "auto":
            absent |= OF_TOP
        return OF_SCORES - absent

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch's columns and those that are added.

        Where the batch has a column of the same name, `label` for instance, the added one is
        `sig_label`.

        Raises:
            TypeError: if the batch is not a mapping of columns.
            ValueError: if it has no column of texts, or has both `label` and `sig_label`.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"a batch must be a dict of columns, got {type(batch).__name__}: use "
                "batch_format='numpy' with Ray, batched=True with datasets"
            )
        inputs: Sequence[Any] = _column(batch, self.text_column, "text_column")
        if self.pair_column is not None:
            pairs = _column(batch, self.pair_column, "pair_column")
            if len(pairs) != len(inputs):
                raise ValueError(
                    f"columns {self.text_column!r} and {self.pair_column!r} have {len(inputs)} and "
                    f"{len(pairs)} rows; wanted as many second texts as texts"
                )
            inputs = list(zip(inputs, pairs, strict=True))
        units = None
        if self.units_column is not None:
            units = _column(batch, self.units_column, "units_column")
        added = {
            f"sig_{name}" if name in batch else name: column
            for name, column in self.columns(inputs, units=units).items()
        }
        if duplicates := [name for name in added if name in batch]:
            raise ValueError(f"the batch has columns {', '.join(duplicates)} already: rename them")
        return {**batch, **added}

    def columns(
        self,
        texts: Sequence[Any],
        progress: Progress = lambda n_texts, work: None,
        *,
        units: Sequence[Any] | None = None,
        sort_window: int = SORT_WINDOW,
    ) -> dict[str, list[Any]]:
        """Return the columns that are added to these texts.

        Args:
            texts: strings, and whatever else a column of texts may hold; with a `pair_column`,
                tuples of two.
            progress: called with the number of texts finished since the last call, and their work.
            units: those of each text, as in `units_column`; None leaves them to the level.
            sort_window: the number of texts that are sorted by length together.

        Raises:
            ValueError: if there are not as many units as texts.
        """
        if units is not None and len(units) != len(texts):
            raise ValueError(
                f"there are {len(texts)} texts and {len(units)} entries of units: pass units, or "
                "None, for each text"
            )
        rows: list[Row] = [{}] * len(texts)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for start in range(0, len(texts), sort_window):
                window = slice(start, start + sort_window)
                own = None if units is None else units[window]
                for numbers, explained in self._explain(texts[window], own):
                    for number, row in zip(numbers, explained, strict=True):
                        rows[start + number] = row
                    progress(len(numbers), sum(self._work_of(texts[start + n]) for n in numbers))
                    self._resident = trim_memory(self._resident)
        for warning in caught:  # repeat each once, but for truncation, which the rows report
            message = str(warning.message)
            if message not in self._warned and warning.category is not TruncationWarning:
                self._warned.add(message)
                warn(message, warning.category)
        return {name: [row[name] for row in rows] for name in self.names}

    def _work_of(self, given: Any) -> int:
        return self.work(*given) if isinstance(given, tuple) else self.work(given)

    def work(self, *texts: Any) -> int:
        """Estimate the row-tokens of a text: rows at which the model is evaluated × their tokens.

        Args:
            *texts: a text, or both texts of a pair; whatever is not a string takes none.
        """
        if not all(isinstance(text, str) for text in texts):
            return 0
        n_bytes = sum(
            len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in texts
        )
        n_tokens = n_bytes // BYTES_OF_A_TOKEN + 2
        n_read = min(n_tokens, self.explainer.encoder.limit)  # in a row
        if not self.explainer.encoder.is_windowed:
            n_tokens = n_read
        n_rows = self._scoring.n_steps
        if self._scoring.method in WORD_BY_WORD:
            n_rows = self._n_rows(n_tokens - 1)
        return n_read * n_rows * self.explainer.n_draws

    def _n_rows(self, n_words: int) -> int:
        """Estimate the rows of a text of so many words."""
        level = self.explainer.level
        if level == "auto":
            n_rows = self._plan(n_words).n_rows // OPENED
            return min(n_rows, self.call_options.get("budget", n_rows)) or 1
        size = TOKENS_OF_A_UNIT[level] if self.units_column is None else TOKENS_OF_A_SPAN
        return self._plan(-(-n_words // size)).n_rows

    def _plan(self, n_words: int) -> Plan:
        contexts, top = self._scoring.contexts, self._scoring.top
        return Plan(
            n_words=n_words,
            m=n_words if top is None else top,
            n_backgrounds=n_backgrounds(contexts),
            both_sides=not is_only_input(contexts),
        )

    def _explain(
        self, texts: Sequence[Any], units: Sequence[Any] | None
    ) -> Iterator[tuple[list[int], list[Row]]]:
        """Yield the rows of some of the texts, with the texts' numbers, as they are finished."""
        inputs: dict[int, Input] = {}
        for number, text in enumerate(texts):
            try:
                checked = checked_input(text)
                own = None if units is None else units_of_row(units[number], checked)
                inputs[number] = checked, own
            except ValueError as error:
                yield [number], [failed_row(str(error))]
        if inputs:
            yield from self._explain_halving(list(inputs), list(inputs.values()))

    def _explain_halving(
        self, numbers: list[int], inputs: list[Input]
    ) -> Iterator[tuple[list[int], list[Row]]]:
        """Explain texts together; if one fails, halve what remains until it stands alone."""
        remaining = dict.fromkeys(range(len(inputs)))
        texts = [text for text, _ in inputs]
        units = [own for _, own in inputs] if self.units_column is not None else None
        try:
            batches = self.explainer.in_batches(texts, units=units, **self.call_options)
            for batch, results in batches:
                rows = [to_row(result.flat()) for result in results]
                for index in batch.numbers:
                    del remaining[index]
                yield [numbers[index] for index in batch.numbers], rows
        except Exception as error:  # whatever a model makes of a text
            failure = error
        else:
            return
        indices = list(remaining)
        if len(indices) == 1:
            try:  # blame a text only while the model still explains others: a GPU's error may stay
                self._explain_canary(self.explainer)
            except Exception:
                raise RuntimeError(
                    "the model stopped working (a known-good text now fails too); first error: "
                    f"{failure}"
                ) from failure
            message = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
            yield [numbers[indices[0]]], [failed_row(message)]
            return
        middle = len(indices) // 2
        for half in (indices[:middle], indices[middle:]):
            yield from self._explain_halving([numbers[i] for i in half], [inputs[i] for i in half])


def _column(batch: Mapping[str, Any], name: str, argument: str) -> Sequence[Any]:
    """Return a column of a batch, which must have an entry for each row."""
    if name not in batch:
        raise ValueError(
            f"there is no column {name!r}: {argument} must be one of {', '.join(map(repr, batch))}"
        )
    column: Sequence[Any] = batch[name]
    if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
        raise TypeError(
            f"column {name!r} is of type {type(column).__name__}; wanted a list or array with a "
            "text for each row"
        )
    return column
