"""Compare explanations by how faithful they are to a model: methods × baselines × metrics.

Texts are taken in blocks of similar length. One block, explained by one method for one baseline, is
a *unit* of work: its lines are appended to `examples.jsonl` in one write, and an interrupted run
resumes after the last complete unit. All random draws depend on the seed and the text alone.

Where a model's labels do not exclude each other, several labels of a text are explained: those that
it has, or those that are predicted. Each has a line of its own, with the metrics of that label's
probability; a text counts in the tables with the mean of its lines.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captum_sig._files import replace_text
from captum_sig._numbers import checked_integer
from captum_sig._warnings import TruncationWarning
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.data.settings import check_same_settings, read_settings
from captum_sig.data.tables import write_csv
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.models import weights_digest
from captum_sig.explainers.results import WordAttribution
from captum_sig.faithfulness import distribution
from captum_sig.faithfulness.ablations import ABLATIONS, Ablation
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.examples import Example, not_finite
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS, plausibility, true_words
from captum_sig.faithfulness.metrics import METRICS
from captum_sig.faithfulness.ranks import AGREEMENT, RANKS, write_ranks
from captum_sig.faithfulness.samples import MaskedLmSamples
from captum_sig.faithfulness.summary import Line, Tables, write_tables

SETTINGS, EXAMPLES = "plan.json", "examples.jsonl"
DISTRIBUTION = "distribution.csv"
RESULTS = (EXAMPLES, "table.csv", "table.md", "paired.csv", RANKS, AGREEMENT, DISTRIBUTION)

Unit = tuple[int, str, str]  # the number of a block, baseline, method


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
        explainers: an explainer for each baseline, with `masked_lm` if words are to be sampled.
        examples: from `prepare_examples`.
        folder: for the results; made if it does not exist.
        resume: keep the results in the folder, and add only what is missing.
        block_size: the number of texts in a unit of work.

    Raises:
        ValueError: if the folder is a file, holds results and `resume` is False, or holds results
            of other settings, weights or texts; if a metric needs spans, and no text has any; or if
            words are to be sampled, and the language model does not fit.
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
        self.examples = examples
        self.ablations = self._ablations(config.n_draws)
        self._check_truth(examples)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name a folder for the results")
        folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(examples, resume)
        self.lines: list[Line] = self._complete_lines()

    def _ablations(self, n_draws: int) -> dict[str, Ablation]:
        """Return the kinds of deletion that the metrics ask for."""
        ablations: dict[str, Ablation] = {}
        explainer = self.explainers[self.config.baselines[0]]
        for measure in self.config.measures:
            if measure.ablation == "sample":
                ablations["sample"] = MaskedLmSamples(
                    explainer.tokenizer, explainer.masked_lm, n_draws=n_draws,
                    seed=self.config.seed, embedding=explainer.embeddings.first,
                )  # fmt: skip
            elif measure.ablation is not None:
                ablations[measure.ablation] = ABLATIONS[measure.ablation]
        return ablations

    def _check_truth(self, examples: Sequence[Example]) -> None:
        names = [name for name in self.config.metrics if name in TRUTH_METRICS]
        if names and not any(example.spans for example in examples):
            raise ValueError(
                f"metric {names[0]!r} compares scores with words that are known to matter, and no "
                "text has any: set rationale_column, or use other metrics"
            )

    def _check_settings(self, examples: Sequence[Example], resume: bool) -> None:
        texts = [
            [x.number, x.text, x.label, x.sentence.target, *filter(None, [x.text_pair, x.spans])]
            for x in examples
        ]
        first = self.explainers[self.config.baselines[0]]
        settings = settings_of(asdict(self.config), texts, first.model, first.masked_lm)
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
        metrics = self._faithfulness(explainer, block, results) | self._agreement(block, results)
        for name, values in metrics.items():
            for example, value in zip(block, values, strict=True):
                if value is not None and not math.isfinite(value):
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
                **{measure.key: metrics[measure.key][i] for measure in self.config.measures},
                "seconds": seconds,
            }
            for i, (example, result) in enumerate(zip(block, results, strict=True))
        ]

    def _faithfulness(
        self,
        explainer: TextClassificationExplainer,
        block: Sequence[Example],
        results: Sequence[WordAttribution],
    ) -> dict[str, list[float]]:
        """Return the metrics of what the model says without some words."""
        values = {}
        for measure in self.config.measures:
            if measure.metric not in METRICS:
                continue
            options: dict[str, Any] = {"n_draws": self.config.n_draws, "seed": self.config.seed}
            if measure.ablation is not None:
                options = {"ablation": self.ablations[measure.ablation]}
            values[measure.key] = METRICS[measure.metric](
                explainer.log_probabilities,
                [example.sentence for example in block],
                [result.scores for result in results],
                self.config.top_fraction,
                original=[example.log_probability for example in block],
                **options,
            ).tolist()
        return values

    def _agreement(
        self, block: Sequence[Example], results: Sequence[WordAttribution]
    ) -> dict[str, list[float | None]]:
        """Return the metrics of whether the words that are known to matter are scored highest."""
        names = [name for name in self.config.metrics if name in TRUTH_METRICS]
        values: dict[str, list[float | None]] = {name: [] for name in names}
        for example, result in zip(block, results, strict=True) if names else ():
            words = [word for word in result.words if word.side != "text_pair"]
            truth = true_words(words, example.spans or ())
            for name in names:
                values[name].append(TRUTH_METRICS[name]([word.score for word in words], truth))
        return values

    def write_distribution(self) -> str:
        """Write `distribution.csv`, see `captum_sig.faithfulness.distribution`.

        Returns:
            A sentence on what it says; "" if no metric deletes words.
        """
        explainer = self.explainers[self.config.baselines[0]]
        ablations = self._ablations(n_draws=1)  # of many texts
        if not ablations:
            return ""
        of_texts = {example.number: example for example in self.examples}.values()
        texts = [
            distribution.Labelled(example.sentence, _label_indices(explainer, example))
            for example in of_texts
        ]
        rows = distribution.distribution(
            explainer.log_probabilities, texts, ablations, seed=self.config.seed,
            is_multi_label=explainer.is_multi_label,
        )  # fmt: skip
        write_csv(rows, distribution.COLUMNS, self.folder / DISTRIBUTION)
        return distribution.sentence_of(rows)

    def write_tables(self) -> Tables:
        """Write all tables and return their rows.

        See `captum_sig.faithfulness.summary`, and for what the model makes of texts without some
        words `distribution`. Several kinds of deletion give `ranks` besides.
        """
        notes = [plausibility(self.config.metrics)] if self.config.rationale_column else []
        if sentence := self.write_distribution():
            notes.append(sentence)
        tables = write_tables(self.lines, self.config, self.folder, notes)
        if len(self.config.ablation) > 1:
            ranks, agreement = write_ranks(tables.means, self.config, self.folder)
            tables = tables._replace(ranks=tuple(ranks), rank_agreement=tuple(agreement))
        return tables


def settings_of(
    config: Mapping[str, Any], texts: Sequence[Any], model: Any, masked_lm: Any
) -> dict[str, Any]:
    """Return what a run may be resumed with only: settings, and digests of texts and weights."""
    return {
        **config,
        "texts": f"{len(texts)}, {hashlib.sha256(_as_line(texts).encode()).hexdigest()[:16]}",
        "weights": weights_digest(model),
        "masked_lm_weights": None if masked_lm is None else weights_digest(masked_lm),
    }


def _label_indices(
    explainer: TextClassificationExplainer, example: Example
) -> tuple[int, ...] | None:
    if example.label is None:
        return None
    names = (example.label,) if isinstance(example.label, str) else example.label
    return tuple(map(explainer.label_index, names))


def _targets(examples: Sequence[Example]) -> int | tuple[int, ...]:
    """Return what is explained of one text: a label, or several."""
    targets = tuple(example.sentence.target for example in examples)
    return targets[0] if len(targets) == 1 else targets


def _of_each_target(result: WordAttribution | TargetsAttribution) -> Iterator[WordAttribution]:
    return iter([result] if isinstance(result, WordAttribution) else result)


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
