"""Which explanation is faithful to a model on its own data: methods × baselines × metrics.

Texts are taken in blocks of similar length. What a method says of a block for a baseline is a
*unit* of work: its lines are written to `examples.jsonl` in one piece, and an interrupted run goes
on behind the last whole unit. Everything drawn depends on the seed and the text alone.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from captum_sig._files import replace_text
from captum_sig._warnings import TruncationWarning
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.data.records import Record
from captum_sig.data.statistics import bootstrap, paired
from captum_sig.data.tables import to_markdown, write_csv
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.explainers.models import weights_digest
from captum_sig.explainers.results import WordAttribution
from captum_sig.faithfulness.metrics import METRICS
from captum_sig.words.encoding import Sentence


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated; a run is resumed only by an equal plan."""

    data: str
    model: str
    masked_lm: str | None
    methods: tuple[str, ...]  # as `TextClassificationExplainer` takes them, such as "sig:sampled4"
    baselines: tuple[str, ...]
    metrics: tuple[str, ...]  # names in `faithfulness.METRICS`
    top_fraction: float
    level: str
    target: str  # "predicted" or "label"
    n_steps: int
    n_draws: int
    seed: int

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: for an unknown metric, a name that is given twice, a share outside (0, 1],
                or a seed below 0.
        """
        for kind in ("methods", "baselines", "metrics"):
            names = getattr(self, kind)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{kind} must be one or several names, each once, got {names}")
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(f"metric {name!r} is unknown: use one of {', '.join(METRICS)}")
        if not 0 < self.top_fraction <= 1:
            raise ValueError(
                f"top_fraction is a share of the words, in (0, 1], got {self.top_fraction}"
            )
        if self.target not in ("predicted", "label"):
            raise ValueError(f"target must be predicted or label, got {self.target!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class Example:
    """A text with what all methods are asked about it."""

    number: int  # in the data
    text: str
    label: str | None
    predicted: str
    sentence: Sentence
    log_probability: float  # of the explained label


def prepare_examples(
    explainer: TextClassificationExplainer, records: Sequence[Record], target: str
) -> list[Example]:
    """The records by length, without those that have no word.

    Raises:
        ValueError: if a label is unknown to the model, or missing where labels are explained.
        FloatingPointError: if the model's output for a text is not finite.
    """
    indices = [_label_index(explainer, record, i) for i, record in enumerate(records)]
    if target == "label" and None in indices:
        raise ValueError(
            f"record {indices.index(None)} has no label to explain: name the column of labels, or "
            "explain the predicted ones"
        )
    encoded = explainer.tokenizer([r.text for r in records], verbose=False)["input_ids"]
    some = [i for i, ids in enumerate(encoded) if len(ids) and records[i].text.strip()]
    sentences = explainer.sentences([records[i].text for i in some], [0] * len(some))
    names = explainer.labels
    found = []
    for i, sentence in zip(some, sentences, strict=True):
        if sentence.n_units == 0:
            continue
        log_p = explainer.log_probabilities(sentence.ids[None])[0]
        if not log_p.isfinite().all():
            raise not_finite("output", i, "the unchanged input")
        best, known = int(log_p.argmax()), indices[i]
        explained = known if target == "label" and known is not None else best
        found.append(
            Example(
                number=i,
                text=records[i].text,
                label=None if known is None else names[known],
                predicted=names[best],
                sentence=replace(sentence, target=explained),
                log_probability=float(log_p[explained]),
            )
        )
    return sorted(found, key=lambda example: (len(example.sentence.ids), example.number))


def not_finite(what: str, number: int, where: str) -> FloatingPointError:
    """What to raise for a text, by its number in the data."""
    return FloatingPointError(
        f"the model's {what} is not finite for record {number}, {where}: leave the record out, or "
        "use a wider dtype"
    )


def _label_index(explainer: TextClassificationExplainer, record: Record, number: int) -> int | None:
    if record.label is None:
        return None
    try:
        return explainer.label_index(record.label)
    except ValueError:
        known = ", ".join(f"{name} ({i})" for i, name in enumerate(explainer.labels))
        raise ValueError(
            f"record {number} has label {record.label!r}, which the model does not know: its "
            f"labels are {known}; convert the column, name another, or none (--label-column '')"
        ) from None


def accuracy(examples: Sequence[Example]) -> float | None:
    """Share of the labelled examples that the model predicts as labelled; None without labels."""
    known = [
        example.label == example.predicted for example in examples if example.label is not None
    ]
    return sum(known) / len(known) if known else None


BLOCK = 32  # texts
RESULTS = ("examples.jsonl", "table.csv", "table.md", "paired.csv")

Line = dict[str, Any]
Key = tuple[int, str, str]  # number of a block, baseline, method


class Evaluation:
    """An evaluation in a folder.

    Args:
        plan: what is evaluated.
        explainers: for each of the plan's baselines.
        examples: as from the function of this name.
        folder: where results go; made if it is not there.
        resume: go on with what the folder holds.

    Raises:
        ValueError: if the folder holds results and `resume` is False, or those of another plan,
            model or texts, or is a file.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        plan: EvaluationConfig,
        explainers: Mapping[str, TextClassificationExplainer],
        examples: Sequence[Example],
        folder: Path,
        *,
        resume: bool,
    ) -> None:
        """Look at what is there; nothing is asked yet."""
        self.plan, self.explainers, self.folder = plan, explainers, folder
        self.blocks = [examples[i : i + BLOCK] for i in range(0, len(examples), BLOCK)]
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name a folder for the results")
        folder.mkdir(parents=True, exist_ok=True)
        self.lines: list[Line] = self._found(resume)

    def _found(self, resume: bool) -> list[Line]:
        """The lines of whole units, which alone stay in the file."""
        plan, path = self.folder / "plan.json", self.folder / "examples.jsonl"
        asked = self._identity()
        there = [self.folder / name for name in RESULTS if (self.folder / name).exists()]
        if any(file.stat().st_size for file in there):
            if not resume:
                raise ValueError(
                    f"{self.folder} holds results already: resume, or use another folder"
                )
            self._check_same(plan, asked)
        replace_text(plan, json.dumps(asked, indent=1) + "\n")
        units: dict[Key, list[Line]] = {}
        for line in _whole_lines(path):
            units.setdefault(_key(line), []).append(line)
        numbers = {key: [example.number for example in block] for key, block in self._units()}
        whole = [
            lines for key, lines in units.items()
            if [line["number"] for line in lines] == numbers.get(key)
        ]  # fmt: skip
        kept = [line for lines in whole for line in lines]
        replace_text(path, "".join(_as_line(line) for line in kept))
        return kept

    def _check_same(self, plan: Path, asked: Line) -> None:
        try:
            then = dict(json.loads(plan.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            raise ValueError(
                f"{self.folder} holds results, but no plan.json that tells of what: use another "
                "folder"
            ) from None
        for name in asked:
            if then.get(name) != asked[name]:
                raise ValueError(
                    f"{self.folder} holds results for {name} {then.get(name)!r}, not "
                    f"{asked[name]!r}: resume with the same, or use another folder"
                )

    def _identity(self) -> Line:
        """The plan, and what tells other texts or weights of the same names, as JSON has them."""
        asked = [[e.number, e.text, e.label, e.sentence.target] for b in self.blocks for e in b]
        identity = {
            **asdict(self.plan),
            "texts": f"{len(asked)}, {hashlib.sha256(_as_line(asked).encode()).hexdigest()[:16]}",
            "weights": weights_digest(self.explainers[self.plan.baselines[0]].model),
        }
        return json.loads(json.dumps(identity))

    def _units(self) -> Iterator[tuple[Key, Sequence[Example]]]:
        for number, block in enumerate(self.blocks):
            for baseline in self.plan.baselines:
                for method in self.plan.methods:
                    yield (number, baseline, method), block

    def __call__(self, progress: bool = False) -> None:
        """Do what is left.

        Raises:
            ValueError: if a method does not fit the model.
            FloatingPointError: if the model's output is not finite; it names the text's number.
        """
        from tqdm import tqdm

        done = {_key(line) for line in self.lines}
        left = [unit for unit in self._units() if unit[0] not in done]
        hidden = None if progress else True  # None: unless stderr is a terminal
        bar = tqdm(total=sum(len(block) for _, block in left), unit="text", disable=hidden)
        with bar, (self.folder / "examples.jsonl").open("a", encoding="utf-8") as file:
            for key, block in left:
                bar.set_postfix_str(f"{key[2]}, {key[1]}")
                lines = self._ask(key, block)
                file.write("".join(_as_line(line) for line in lines))
                file.flush()
                self.lines += lines
                bar.update(len(block))

    def _ask(self, key: Key, block: Sequence[Example]) -> list[Line]:
        number, baseline, method = key
        explainer = self.explainers[baseline]
        sentences = [example.sentence for example in block]
        start = time.perf_counter()
        results = self._explained(explainer, block, method)
        seconds = (time.perf_counter() - start) / len(block)
        original = torch.tensor([example.log_probability for example in block])
        scores = [result.scores for result in results]
        metrics = {
            name: METRICS[name](
                explainer.log_probabilities,
                sentences,
                scores,
                self.plan.top_fraction,
                original=original,
            ).tolist()
            for name in self.plan.metrics
        }
        return [
            {
                "block": number,
                "number": example.number,
                "method": method,
                "baseline": baseline,
                "text": example.text,
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

    def _explained(
        self, explainer: TextClassificationExplainer, block: Sequence[Example], method: str
    ) -> list[WordAttribution]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # `examples` told it
            try:
                return explainer(
                    [example.text for example in block],
                    [example.sentence.target for example in block],
                    method,
                    n_steps=self.plan.n_steps,
                )
            except NotFiniteError as error:
                where = f"{error.where} (method {method})"
                raise not_finite(error.what, block[error.example].number, where) from None

    def tables(self) -> tuple[list[Line], list[Line]]:
        """Means with 95 % bootstrap intervals, and paired differences to the first method.

        Returns:
            the rows of `table.csv` and of `paired.csv`, whose `n` are texts.
        """
        cells: dict[tuple[str, str], list[Line]] = {}
        # an order of the texts' own: the bootstrap must not depend on that of the data
        for line in sorted(self.lines, key=itemgetter("text", "explained", "number")):
            cells.setdefault((line["method"], line["baseline"]), []).append(line)
        means, differences = [], []
        first = self.plan.methods[0]
        for baseline, method, metric in product(
            self.plan.baselines, self.plan.methods, self.plan.metrics
        ):
            lines = cells[method, baseline]
            name = {"method": method, "baseline": baseline, "metric": metric}
            values = [line[metric] for line in lines]
            seconds = sum(line["seconds"] for line in lines) / len(lines)
            interval = bootstrap(values, seed=self.plan.seed)
            means.append({**name, **asdict(interval), "seconds_per_example": seconds})
            if method != first:
                of_first = [line[metric] for line in cells[first, baseline]]
                interval = paired(of_first, values, seed=self.plan.seed)
                differences.append({**name, "reference": first, **asdict(interval)})
        return means, differences

    def write_tables(self) -> list[Line]:
        """Write `table.csv`, `table.md` and `paired.csv`; return the rows of the first."""
        means, differences = self.tables()
        write_csv(means, COLUMNS, self.folder / "table.csv")
        write_csv(differences, PAIRED_COLUMNS, self.folder / "paired.csv")
        replace_text(self.folder / "table.md", to_markdown(means, COLUMNS, FORMATS))
        return means


COLUMNS = ("method", "baseline", "metric", "mean", "low", "high", "n", "seconds_per_example")
PAIRED_COLUMNS = ("method", "reference", "baseline", "metric", "mean", "low", "high", "n")
FORMATS = {"mean": ".3f", "low": ".3f", "high": ".3f", "seconds_per_example": ".3f"}


def _key(line: Line) -> Key:
    return line["block"], line["baseline"], line["method"]


def _as_line(line: Any) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _whole_lines(path: Path) -> list[Line]:
    """The lines of a file that may have been cut short."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
            _key(line)
            line["number"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        lines.append(line)
    return lines
