"""Compare explanations by how faithful they are to a model: methods × baselines × metrics.

Texts are taken in blocks of similar length. One block, explained by one method for one baseline, is
a *unit* of work: its lines are appended to `examples.jsonl` in one write, and an interrupted run
resumes after the last complete unit. All random draws depend on the seed and the text alone.

Where a model's labels do not exclude each other, several labels of a text are explained: those that
it has, or those whose probability is above `PREDICTED_ABOVE`. Each has a line of its own, with the
metrics of that label's probability; a text counts in the tables with the mean of its lines.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_sig._files import replace_text
from captum_sig._names import AblationName, MetricName, unknown_name
from captum_sig._numbers import checked_integer
from captum_sig._warnings import TruncationWarning
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.data.records import Record
from captum_sig.data.settings import check_same_settings, read_settings
from captum_sig.data.statistics import bootstrap, paired
from captum_sig.data.tables import to_markdown, write_csv
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.models import weights_digest
from captum_sig.explainers.results import WordAttribution
from captum_sig.faithfulness.metrics import ABLATIONS, METRICS
from captum_sig.words.cutting import readable_part
from captum_sig.words.encoding import Sentence
from captum_sig.words.tokenize import tokenize

SETTINGS, EXAMPLES = "plan.json", "examples.jsonl"
RESULTS = (EXAMPLES, "table.csv", "table.md", "paired.csv")
COLUMNS = ("method", "baseline", "metric", "mean", "low", "high", "n", "seconds_per_example")
PAIRED_COLUMNS = ("method", "reference", "baseline", "metric", "mean", "low", "high", "n")
FORMATS = {"mean": ".3f", "low": ".3f", "high": ".3f", "seconds_per_example": ".3f"}

PREDICTED_ABOVE = 0.5  # the probability of a label that excludes no other
LABEL_SEPARATORS = re.compile("[,;|]")  # between the labels of a text, in a column of strings

Line = dict[str, Any]  # one label of a text, explained by one method for one baseline
Unit = tuple[int, str, str]  # the number of a block, baseline, method


@dataclass(frozen=True)
class EvaluationConfig:
    """The settings of an evaluation, which can be resumed only with the same settings."""

    data: str
    model: str
    masked_lm: str | None
    methods: tuple[str, ...]  # as `TextClassificationExplainer` takes them, such as "sig:sampled4"
    baselines: tuple[str, ...]
    metrics: tuple[MetricName, ...]
    top_fraction: float
    level: str
    explain: str  # "predicted" or "label"
    n_steps: int
    n_draws: int
    seed: int
    ablation: AblationName | None = None  # as in `captum_sig.faithfulness`: None is each metric's

    def __post_init__(self) -> None:
        """Check the values; integers of any kind become Python's.

        Raises:
            ValueError: for an unknown metric or ablation, a repeated name, a fraction outside
                (0, 1], an unknown `explain`, or a number that is not an integer or too small.
        """
        for kind in ("methods", "baselines", "metrics"):
            names = getattr(self, kind)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{kind} must be one or several names, each once, got {names}")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(unknown_name("metric", metric, METRICS))
        if not 0 < self.top_fraction <= 1:
            raise ValueError(
                f"top_fraction, of the words, must lie in (0, 1], got {self.top_fraction}"
            )
        if self.explain not in ("predicted", "label"):
            raise ValueError(f"explain must be 'predicted' or 'label', got {self.explain!r}")
        if self.ablation not in (None, *ABLATIONS):
            raise ValueError(
                f"ablation {self.ablation!r} is unknown: use one of {', '.join(ABLATIONS)}"
            )
        for name, least in (("n_steps", 1), ("n_draws", 1), ("seed", 0)):
            number = checked_integer(name, getattr(self, name), least)
            object.__setattr__(self, name, number)


@dataclass(frozen=True)
class Example:
    """A label of a text or of a pair of texts, encoded once for all methods."""

    number: int  # in the data
    text: str
    label: str | tuple[str, ...] | None  # of the data; all of them if labels exclude no others
    predicted: str | tuple[str, ...]
    sentence: Sentence
    log_probability: float  # of the explained label
    text_pair: str | None = None

    @property
    def input(self) -> str | tuple[str, str]:
        """The text or the pair, as explainers take it."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


def prepare_examples(
    explainer: TextClassificationExplainer, records: Sequence[Record], explain: str
) -> list[Example]:
    """Encode and classify the records, sort them by length, and drop those without an explanation.

    There is none for empty texts, texts without a word, and texts for which no label is predicted,
    or none is true, where labels exclude no others.

    Raises:
        ValueError: if the model does not know a label, or a label to explain is missing.
        FloatingPointError: if the model's output for a text is not finite.
    """
    known = [_label_indices(explainer, record, i) for i, record in enumerate(records)]
    if explain == "label" and None in known:
        raise ValueError(
            f"record {known.index(None)} has no label to explain: set label_column, or explain the "
            "predicted labels"
        )
    numbers = [i for i in _with_tokens(explainer, records) if not records[i].is_blank]
    sentences = explainer.sentences([records[i].input for i in numbers], [0] * len(numbers))
    examples = []
    for i, sentence in zip(numbers, sentences, strict=True):
        if sentence.n_units == 0:
            continue
        inputs = {name: tensor[None] for name, tensor in sentence.inputs.items()}
        log_p = explainer.log_probabilities(sentence.ids[None], inputs=inputs)[0]
        if not log_p.isfinite().all():
            raise not_finite("output", i, "the unchanged input")
        predicted, labels = _predicted(explainer, log_p), known[i]
        explained = labels if explain == "label" and labels is not None else predicted
        examples += [
            Example(
                number=i,
                text=records[i].text,
                label=None if labels is None else _label_names(explainer, labels),
                predicted=_label_names(explainer, predicted),
                sentence=replace(sentence, target=index),
                log_probability=float(log_p[index]),
                text_pair=records[i].text_pair,
            )
            for index in explained
        ]
    return sorted(
        examples, key=lambda one: (len(one.sentence.ids), one.number, one.sentence.target)
    )


def _with_tokens(
    explainer: TextClassificationExplainer, records: Sequence[Record]
) -> Iterator[int]:
    """Yield the numbers of the records of which the tokenizer makes at least one token."""
    tokenizer, limit = explainer.tokenizer, explainer.encoder.limit
    parts = [readable_part(tokenizer, record.text, limit) for record in records]
    token_ids = tokenize(tokenizer, parts, verbose=False)["input_ids"]
    return (number for number, ids in enumerate(token_ids) if len(ids))


def _predicted(explainer: TextClassificationExplainer, log_p: Tensor) -> list[int]:
    """Return the indices of the labels that a model predicts, given their log-probabilities."""
    if not explainer.is_multi_label:
        return [int(log_p.argmax())]
    return [int(index) for index in (log_p.exp() > PREDICTED_ABOVE).nonzero()[:, 0]]


def _label_names(
    explainer: TextClassificationExplainer, indices: Sequence[int]
) -> str | tuple[str, ...]:
    names = tuple(explainer.labels[index] for index in indices)
    return names if explainer.is_multi_label else names[0]


def not_finite(what: str, number: int, where: str) -> FloatingPointError:
    """Return the error for a text, which is identified by its number in the data."""
    return FloatingPointError(
        f"the model's {what} is not finite for record {number}, {where}: leave the record out, or "
        "use a wider dtype"
    )


def _label_indices(
    explainer: TextClassificationExplainer, record: Record, number: int
) -> list[int] | None:
    """Return the indices of a record's labels in the model, ascending; None if it has none."""
    if record.label is None:
        return None
    names = (record.label,) if isinstance(record.label, str) else record.label
    if not explainer.is_multi_label and len(names) != 1:
        raise ValueError(
            f"record {number} has {len(names)} labels, and the model predicts one: convert the "
            "column, or set label_column to another or to ''"
        )
    try:
        return sorted({i for name in names for i in _indices(explainer, name)})
    except ValueError:
        labels = ", ".join(f"{name} ({i})" for i, name in enumerate(explainer.labels))
        written = record.label if isinstance(record.label, str) else list(record.label)
        raise ValueError(
            f"record {number} has label {written!r}, which the model does not know: its "
            f"labels are {labels}; convert the column, or set label_column to another or to ''"
        ) from None


def _indices(explainer: TextClassificationExplainer, written: str) -> list[int]:
    """Return the indices of a label, or of several labels that are written in one string."""
    try:
        return [explainer.label_index(written)]
    except ValueError:
        parts = [part.strip() for part in LABEL_SEPARATORS.split(written)]
        if not explainer.is_multi_label or len(parts) == 1:
            raise
        return [explainer.label_index(part) for part in parts if part]


def accuracy(examples: Sequence[Example]) -> float | None:
    """Return the fraction of labelled texts predicted as labelled; None without labels.

    Of labels that exclude no others, all must be right.
    """
    correct = {x.number: x.label == x.predicted for x in examples if x.label is not None}
    return sum(correct.values()) / len(correct) if correct else None


def check_no_results(folder: Path) -> None:
    """Raise a ValueError if a folder holds results of an evaluation."""
    if _holds_results(folder):
        raise ValueError(f"{folder} holds results already: resume, or use another folder")


def _holds_results(folder: Path) -> bool:
    paths = [folder / name for name in RESULTS]
    return any(path.exists() and path.stat().st_size for path in paths)


class Evaluation:
    """An evaluation whose results go to a folder.

    Args:
        config: the settings.
        explainers: an explainer for each baseline.
        examples: from `prepare_examples`.
        folder: for the results; made if it does not exist.
        resume: keep the results in the folder, and add only what is missing.
        block_size: the number of texts in a unit of work.

    Raises:
        ValueError: if the folder is a file, holds results and `resume` is False, or holds results
            of other settings, weights or texts.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        explainers: Mapping[str, TextClassificationExplainer],
        examples: Sequence[Example],
        folder: Path,
        *,
        resume: bool,
        block_size: int = 32,
    ) -> None:
        self.config, self.explainers, self.folder = config, explainers, folder
        block_size = checked_integer("block_size", block_size)
        blocks = [examples[i : i + block_size] for i in range(0, len(examples), block_size)]
        self.units: dict[Unit, Sequence[Example]] = {
            (number, baseline, method): block
            for number, block in enumerate(blocks)
            for baseline in config.baselines
            for method in config.methods
        }
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name a folder for the results")
        folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(examples, resume)
        self.lines: list[Line] = self._complete_lines()

    def _check_settings(self, examples: Sequence[Example], resume: bool) -> None:
        texts = [
            [x.number, x.text, x.label, x.sentence.target, *filter(None, [x.text_pair])]
            for x in examples
        ]
        settings = {
            **asdict(self.config),
            "texts": f"{len(texts)}, {hashlib.sha256(_as_line(texts).encode()).hexdigest()[:16]}",
            "weights": weights_digest(self.explainers[self.config.baselines[0]].model),
        }
        if not resume:
            check_no_results(self.folder)
        elif _holds_results(self.folder):
            check_same_settings(self.folder, read_settings(self.folder / SETTINGS), settings)
        replace_text(self.folder / SETTINGS, json.dumps(settings, indent=1, allow_nan=False) + "\n")

    def _complete_lines(self) -> list[Line]:
        """Return the lines of complete units, and remove all others from the file."""
        path = self.folder / EXAMPLES
        lines: list[Line] = []
        for unit, unit_lines in _read_units(path).items():
            numbers = [example.number for example in self.units.get(unit, ())]
            if [line["number"] for line in unit_lines] == numbers:
                lines += unit_lines
        replace_text(path, "".join(map(_as_line, lines)))
        return lines

    def explain_remaining(self, progress: bool = False) -> None:
        """Explain and measure the units that have no results yet.

        `progress` shows a bar if stderr is a terminal.

        Raises:
            ValueError: if a method does not fit the model.
            FloatingPointError: if the model's output is not finite; names the text by its number.
        """
        from tqdm import tqdm

        complete = set(map(_unit, self.lines))
        remaining = {unit: block for unit, block in self.units.items() if unit not in complete}
        disable = None if progress else True  # None: disabled unless stderr is a terminal
        bar = tqdm(total=sum(map(len, remaining.values())), unit="text", disable=disable)
        with bar, (self.folder / EXAMPLES).open("a", encoding="utf-8") as file:
            for unit, block in remaining.items():
                bar.set_postfix_str(f"{unit[2]}, {unit[1]}")
                lines = self._measure(unit, block)
                file.write("".join(map(_as_line, lines)))
                file.flush()
                self.lines += lines
                bar.update(len(block))

    def _measure(self, unit: Unit, block: Sequence[Example]) -> list[Line]:
        """Explain a block and compute the metrics of its scores."""
        number, baseline, method = unit
        explainer = self.explainers[baseline]
        of_texts: dict[int, list[Example]] = {}
        for example in block:
            of_texts.setdefault(example.number, []).append(example)
        texts = list(of_texts.values())
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # `prepare_examples` has warned
            try:
                explained = explainer(
                    [examples[0].input for examples in texts],
                    list(map(_targets, texts)),
                    method,
                    n_steps=self.config.n_steps,
                )
            except NotFiniteError as error:
                where = f"{error.where} (method {method})"
                raise not_finite(error.what, texts[error.example][0].number, where) from None
        results = [one for result in explained for one in _of_each_target(result)]
        seconds = (time.perf_counter() - start) / len(block)
        metrics = {
            name: METRICS[name](
                explainer.log_probabilities,
                [example.sentence for example in block],
                [result.scores for result in results],
                self.config.top_fraction,
                original=[example.log_probability for example in block],
                ablation=self.config.ablation,
            ).tolist()
            for name in self.config.metrics
        }
        for name, values in metrics.items():
            for example, value in zip(block, values, strict=True):
                if not math.isfinite(value):
                    raise not_finite(name, example.number, f"with words ablated ({method})")
        return [
            {
                "block": number,
                "number": example.number,
                "method": method,
                "baseline": baseline,
                "text": example.text,
                **({} if example.text_pair is None else {"text_pair": example.text_pair}),
                "label": example.label,
                "predicted": example.predicted,
                "explained": result.target,
                "words": [word.word for word in result.words],
                "scores": result.scores,
                **{name: values[i] for name, values in metrics.items()},
                "seconds": seconds,
            }
            for i, (example, result) in enumerate(zip(block, results, strict=True))
        ]

    def write_tables(self) -> list[Line]:
        """Write means with 95 % bootstrap intervals, and paired differences to the first method.

        They are means over texts: several labels of a text count as one.

        Returns:
            The rows of `table.csv` and `table.md`; `n` is the number of texts.
        """
        cells: dict[tuple[str, str], list[Line]] = {}
        # The bootstrap must not depend on the order of the data: sort by the texts themselves.
        for line in sorted(self.lines, key=itemgetter("text", "explained", "number")):
            cells.setdefault((line["method"], line["baseline"]), []).append(line)
        means, differences = [], []
        config, reference = self.config, self.config.methods[0]
        for baseline, method, metric in product(config.baselines, config.methods, config.metrics):
            lines = cells[method, baseline]
            name = {"method": method, "baseline": baseline, "metric": metric}
            values = _of_texts(lines, metric)
            seconds = sum(line["seconds"] for line in lines) / len(lines)
            interval = bootstrap(values, seed=config.seed)
            means.append({**name, **asdict(interval), "seconds_per_example": seconds})
            if method != reference:
                of_reference = _of_texts(cells[reference, baseline], metric)
                interval = paired(of_reference, values, seed=config.seed)
                differences.append({**name, "reference": reference, **asdict(interval)})
        write_csv(means, COLUMNS, self.folder / "table.csv")
        write_csv(differences, PAIRED_COLUMNS, self.folder / "paired.csv")
        replace_text(self.folder / "table.md", to_markdown(means, COLUMNS, FORMATS))
        return means


def _targets(examples: Sequence[Example]) -> int | tuple[int, ...]:
    """Return what is explained of one text: a label, or several."""
    targets = tuple(example.sentence.target for example in examples)
    return targets[0] if len(targets) == 1 else targets


def _of_each_target(result: WordAttribution | TargetsAttribution) -> Iterator[WordAttribution]:
    return iter([result] if isinstance(result, WordAttribution) else result)


def _of_texts(lines: Sequence[Line], metric: str) -> list[float]:
    """Return a metric of each text, the mean over the text's labels."""
    values: dict[int, list[float]] = {}
    for line in lines:
        values.setdefault(line["number"], []).append(line[metric])
    return [math.fsum(of_text) / len(of_text) for of_text in values.values()]


def _unit(line: Line) -> Unit:
    return line["block"], line["baseline"], line["method"]


def _as_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _read_units(path: Path) -> dict[Unit, list[Line]]:
    """Read the valid lines of a file that may have been cut off."""
    units: dict[Unit, list[Line]] = {}
    content = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for text in content.split("\n"):
        with suppress(json.JSONDecodeError, KeyError, TypeError):
            line = json.loads(text)
            line["number"]
            units.setdefault(_unit(line), []).append(line)
    return units
