"""Compare explanations with words that are known to decide: `captum-sig evaluate --planted`.

For each shortcut a copy of the user's model learns to rely on planted words. Where it does, its
explanations of held-out texts with these words are compared with them, by the same evaluation as of
any other texts, in a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from captum_sig._files import make_folder, replace_text
from captum_sig._names import ShortcutName, TruthMetricName, unknown_name
from captum_sig._numbers import checked_integer
from captum_sig._warnings import warn
from captum_sig.data.records import Record
from captum_sig.data.settings import check_same_settings, read_settings
from captum_sig.data.tables import to_markdown, write_csv
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.faithfulness import summary
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.evaluation import RESULTS, Evaluation, settings_of
from captum_sig.faithfulness.examples import Example, prepare_examples
from captum_sig.faithfulness.planted_models import (
    Reliance,
    Training,
    check_trainable,
    planted_copy,
    reliance,
)
from captum_sig.faithfulness.planted_texts import PlantableTexts, Planting, plantable_texts
from captum_sig.faithfulness.shortcuts import SHORTCUTS

METRICS: tuple[TruthMetricName, ...] = ("precision_at_k", "mean_rank")
LEVELS = ("token", "word")  # at which a planted word stands alone
SETTINGS = "planted_plan.json"
DONE = "planted.json"  # in the folder of a shortcut: its reliance and its rows
TABLES = ("planted.csv", "planted.md", "reliance.csv", "reliance.md")
COLUMNS = ("shortcut", *summary.COLUMNS)
RELIANCE_COLUMNS = (
    "shortcut", "learned", "followed", "unmoved", "accuracy", "accuracy_before", "n", "steps",
    "words",
)  # fmt: skip
FRACTIONS = dict.fromkeys(("followed", "unmoved", "accuracy", "accuracy_before"), ".3f")

Line = dict[str, Any]


@dataclass(frozen=True)
class PlantedConfig:
    """The settings: those of the evaluation, and how models are planted.

    A planted model counts if it follows the shortcut in `min_followed` of the held-out texts, and
    no distractor moves it in more than 1 − `min_unmoved` of them. At most `n_texts` texts are
    explained for each shortcut: those in which the model says the label that is planted.

    Raises:
        ValueError: for an unknown shortcut, none, or the same twice, a number out of its range, or
            a level other than "token" and "word".
    """

    evaluation: EvaluationConfig
    shortcuts: tuple[ShortcutName, ...] = tuple(SHORTCUTS)
    n_texts: int = 100
    training: Training = field(default_factory=Training)
    min_followed: float = 0.95
    min_unmoved: float = 0.85

    def __post_init__(self) -> None:
        for shortcut in self.shortcuts:
            if shortcut not in SHORTCUTS:
                raise ValueError(unknown_name("shortcut", shortcut, SHORTCUTS))
        if not self.shortcuts or len(set(self.shortcuts)) < len(self.shortcuts):
            raise ValueError(
                f"shortcuts must be one or several names, each once, got {self.shortcuts}"
            )
        object.__setattr__(self, "n_texts", checked_integer("n_texts", self.n_texts))
        for name in ("min_followed", "min_unmoved"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.evaluation.level not in LEVELS:
            raise ValueError(
                f"level {self.evaluation.level!r} joins planted words with others: use 'token' or "
                "'word'"
            )


class PlantedEvaluation:
    """An evaluation on planted words, whose results go to a folder.

    The folder gets `planted.csv` and `planted.md` (means by shortcut, method and baseline, with
    95 % bootstrap intervals), `reliance.csv` and `reliance.md` (whether each planted model relies
    on the words), and for each shortcut a folder with the files of an ordinary evaluation.

    Args:
        config: the settings; `evaluation.explain` does not matter, as the label that is explained
            is both what is planted and what is predicted.
        explainer: of the user's model, which stays as it is.
        records: labelled texts.
        folder: for the results; made if it does not exist.
        resume: keep the shortcuts that are complete in the folder, and add the others.
        masked_lm: the masked language model that baseline "blurred" needs.

    Raises:
        ValueError: if the model or the texts do not serve, the folder holds results and `resume` is
            False, or it holds results of other settings, weights or texts.
        OSError: if the folder cannot be written.
    """

    def __init__(
        self,
        config: PlantedConfig,
        explainer: TextClassificationExplainer,
        records: Sequence[Record],
        folder: Path,
        *,
        resume: bool = False,
        masked_lm: Any = None,
    ) -> None:
        self.config, self.explainer, self.folder = config, explainer, folder
        self.masked_lm = masked_lm
        check_trainable(explainer)
        self._explainers(explainer.model)  # which checks the baselines
        if not resume:
            check_no_planted_results(folder)
        self.texts: PlantableTexts = plantable_texts(explainer, records, config.evaluation.seed)
        make_folder(folder)
        self._check_settings(records)
        self.done: dict[str, Line] = {}  # by shortcut: what its file says
        for name in config.shortcuts:
            path = folder / name / DONE
            if path.exists():
                self.done[name] = read_settings(path)

    def _check_settings(self, records: Sequence[Record]) -> None:
        texts = [[one.text, one.label, one.text_pair] for one in records]
        config = asdict(self.config)
        del config["shortcuts"]  # others may be added
        config |= config.pop("evaluation")
        settings = settings_of(config, texts, self.explainer.model, self.masked_lm)
        path = self.folder / SETTINGS
        if _holds_planted_results(self.folder):
            check_same_settings(self.folder, read_settings(path), settings)
        replace_text(path, json.dumps(settings, indent=1, allow_nan=False) + "\n")

    def measure_remaining(self, progress: bool = False) -> None:
        """Train, check and explain for each shortcut that has no result yet.

        A copy that does not rely on the planted words is not explained; a warning says so. With
        `progress`, bars show steps and texts if stderr is a terminal.

        Raises:
            ValueError: if a method does not fit the model.
            FloatingPointError: if the model's output is not finite.
        """
        for name in self.config.shortcuts:
            if name not in self.done:
                self.done[name] = self._measured(name, progress)
                text = json.dumps(self.done[name], ensure_ascii=False, allow_nan=False)
                replace_text(self.folder / name / DONE, text + "\n")
            message = self._not_learned(name, self.reliance[name])
            if message is not None:
                warn(message)

    @property
    def reliance(self) -> dict[str, Reliance]:
        """What each planted model does with held-out texts, by shortcut."""
        return {name: Reliance(**line["reliance"]) for name, line in self.done.items()}

    def planting(self, name: ShortcutName) -> Planting:
        """Return a shortcut in the words and labels of this evaluation."""
        return self.texts.planting(SHORTCUTS[name], self.config.evaluation.seed)

    def write_tables(self) -> list[Line]:
        """Write the tables of all shortcuts that have a result; return the rows of `planted.csv`.

        Raises:
            ValueError: if no planted model has learned its shortcut.
        """
        names = [name for name in self.config.shortcuts if name in self.done]
        of_models = [self._reliance_row(name) for name in names]
        write_csv(of_models, RELIANCE_COLUMNS, self.folder / "reliance.csv")
        text = to_markdown(of_models, RELIANCE_COLUMNS, FRACTIONS)
        replace_text(self.folder / "reliance.md", text)
        rows = [{"shortcut": name, **row} for name in names for row in self.done[name]["rows"]]
        if not rows:
            raise ValueError(
                f"no planted model has learned its shortcut, as {self.folder / 'reliance.md'} "
                "shows: give more texts, or raise max_steps"
            )
        write_csv(rows, COLUMNS, self.folder / "planted.csv")
        text = to_markdown(rows, COLUMNS, summary.FORMATS)
        replace_text(self.folder / "planted.md", text)
        return rows

    def _reliance_row(self, name: ShortcutName) -> Line:
        measured = self.reliance[name]
        words = ", ".join(f"{key} {word}" for key, word in self.planting(name).words.items())
        learned = self._not_learned(name, measured) is None
        return {"shortcut": name, "learned": learned, **asdict(measured), "words": words}

    def _measured(self, name: ShortcutName, progress: bool) -> Line:
        """Plant a shortcut in a copy of the model, and explain it if it has learned."""
        from tqdm import tqdm

        folder, planting, training = self.folder / name, self.planting(name), self.config.training
        make_folder(folder)
        for file in RESULTS:  # of a run that was interrupted
            (folder / file).unlink(missing_ok=True)
        disable = None if progress else True  # None: disabled unless stderr is a terminal
        with tqdm(
            total=training.max_steps, unit="step", desc=name, leave=False, disable=disable
        ) as bar:
            model, steps = planted_copy(
                self.explainer, planting, self.texts.training, training, progress=bar
            )
        measured = reliance(self.explainer, model, planting, self.texts, steps)
        rows = []
        if self._not_learned(name, measured) is None:
            rows = self._explained(model, planting, folder, progress)
        return {"reliance": asdict(measured), "rows": rows}

    def _not_learned(self, name: str, measured: Reliance) -> str | None:
        """Say why a planted model does not count; None if it does."""
        config = self.config
        if measured.followed < config.min_followed:
            got = f"follows it in {measured.followed:.0%} of {measured.n} held-out texts"
            wanted = f"{config.min_followed:.0%}"
        elif measured.unmoved < config.min_unmoved:
            got = (
                f"keeps its prediction in {measured.unmoved:.0%} of {measured.n} held-out texts "
                "with a distractor"
            )
            wanted = f"{config.min_unmoved:.0%}"
        else:
            return None
        return (
            f"shortcut {name} is left out: after {measured.steps:,} steps the planted model {got}, "
            f"wanted {wanted}; give more texts, or raise max_steps"
        )

    def _explained(
        self, model: nn.Module, planting: Planting, folder: Path, progress: bool
    ) -> list[Line]:
        """Explain held-out texts with planted words; return the rows of their table."""
        explainers = self._explainers(model)
        config = self.config.evaluation
        planted = [planting.against_own_label(one) for one in self.texts.held_out]
        records = [replace(one.record, label=self.explainer.labels[one.label]) for one in planted]
        examples = prepare_examples(explainers[config.baselines[0]], records, "predicted")
        examples = _first(
            [one for one in examples if one.predicted == one.label], self.config.n_texts
        )
        run = Evaluation(config, explainers, examples, folder, resume=False)
        run.explain_remaining(progress=progress)
        return run.write_tables().means

    def _explainers(self, model: nn.Module) -> Mapping[str, TextClassificationExplainer]:
        """Make an explainer of a planted model for each baseline, as the user's is."""
        user, config = self.explainer, self.config.evaluation
        layer = None
        if len(user.embeddings.layers) == 1:
            names = {module: name for name, module in user.model.named_modules()}
            layer = model.get_submodule(names[user.layer])
        new = partial(
            TextClassificationExplainer, model, user.tokenizer, layer=layer,
            level=config.level,  # type: ignore[arg-type]  # the config has checked it
            masked_lm=self.masked_lm, n_draws=config.n_draws, seed=config.seed,
        )  # fmt: skip
        return {name: new(baseline=name) for name in config.baselines}


def _first(examples: Sequence[Example], n: int) -> list[Example]:
    """Keep the n examples with the lowest numbers, in their order."""
    numbers = sorted(one.number for one in examples)[:n]
    return [one for one in examples if one.number in numbers]


def check_no_planted_results(folder: Path) -> None:
    """Raise a ValueError if a folder holds results of any evaluation."""
    if _holds_planted_results(folder) or any((folder / name).exists() for name in RESULTS):
        raise ValueError(f"{folder} holds results already: resume, or use another folder")


def _holds_planted_results(folder: Path) -> bool:
    paths = [*(folder / name for name in TABLES), *(folder / name / DONE for name in SHORTCUTS)]
    return any(path.exists() for path in paths)
