"""`captum-sig corpus`: explain the words of many texts, into Parquet."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from captum_sig._files import check_folder
from captum_sig._names import CorpusLevel, CorpusTaskName, WindowLogitsName
from captum_sig.cli import options, terminal
from captum_sig.cli.options import EXPLANATION_PANEL, INPUT_PANEL, OUTPUT_PANEL, RAY_PANEL
from captum_sig.cli.process import quitting_on_interrupt

if TYPE_CHECKING:
    from captum_sig.corpus.folder import CorpusFolder

EngineName = Literal["local", "ray"]
SECONDS_BETWEEN_LINES = 30.0
MAX_EXAMPLES = 3  # of failed texts


class Progress:
    """Reports progress on stderr: a bar on a terminal, else a line now and then.

    The time that is left follows from the work that is left, as a long text takes as much time as
    hundreds of short ones.

    Args:
        n_texts: the number of texts.
        work: their work.
        n_before: the number of texts done by earlier runs; they do not count towards the rate.
        work_before: their work.
    """

    def __init__(self, n_texts: int, work: int, n_before: int = 0, work_before: int = 0) -> None:
        from tqdm import tqdm

        self.n_texts, self.done, self.n_before = n_texts, n_before, n_before
        self.start = self.last_line = time.monotonic()
        self.bar = tqdm(  # `disable=None`: unless stderr is a terminal
            total=work, initial=work_before, disable=None, dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]",
            desc=self._count(),
        )  # fmt: skip
        self.work, self.work_done, self.work_before = work, work_before, work_before

    def _count(self) -> str:
        return f"{self.done:,} of {self.n_texts:,} texts"

    def update(self, n_texts: int, work: int) -> None:
        """Count texts that are done, and their work."""
        self.done += n_texts
        self.work_done += work
        self.bar.set_description_str(self._count(), refresh=False)
        self.bar.update(work)
        now = time.monotonic()
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            print(self.line(now - self.start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Return the line for a log, this many seconds after the start."""
        rate = (self.done - self.n_before) / seconds
        work_rate = (self.work_done - self.work_before) / seconds
        work_left = max(0, self.work - self.work_done)
        left = self.bar.format_interval(work_left / work_rate) if work_rate else "?"
        return f"{self._count()}, {rate:,.1f}/s, {left} left"


@terminal.reporting_errors
def corpus(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUTS",
            help="Files (.tsv, .csv, .jsonl, .parquet), folders of them, or glob patterns in "
            "quotes.",
        ),
    ],
    *,
    text_column: Annotated[str | None, options.TEXT_COLUMN(rich_help_panel="Input")] = None,
    pair_column: Annotated[str | None, options.PAIR_COLUMN(rich_help_panel="Input")] = None,
    id_column: Annotated[
        str | None, INPUT_PANEL(help="Column of the ids; default: guessed, else file and row.")
    ] = None,
    units_column: Annotated[
        str | None,
        INPUT_PANEL(
            help="Column of what moves as one, in place of --level: JSON as in explain --units; "
            "an empty field leaves the text to the level."
        ),
    ] = None,
    limit: Annotated[int | None, options.LIMIT(rich_help_panel="Input")] = None,
    truncation: Annotated[
        bool,
        INPUT_PANEL(help="Truncate texts that exceed the model's limit, or count them as failed."),
    ] = True,
    model: Annotated[str | None, options.MODEL(rich_help_panel="Explanation")] = None,
    task: Annotated[
        CorpusTaskName,
        EXPLANATION_PANEL(help="What the model does, to one text or one pair a row."),
    ] = "text-classification",
    target: Annotated[list[str] | None, options.TARGETS(rich_help_panel="Explanation")] = None,
    method: Annotated[str, options.METHOD(rich_help_panel="Explanation")] = "sig",
    contexts: Annotated[str | None, options.CONTEXTS(rich_help_panel="Explanation")] = None,
    baseline: Annotated[str, options.BASELINE(rich_help_panel="Explanation")] = "mask",
    masked_lm: Annotated[str | None, options.MASKED_LM(rich_help_panel="Explanation")] = None,
    n_draws: Annotated[int, options.N_DRAWS(rich_help_panel="Explanation")] = 5,
    seed: Annotated[int, options.SEED(rich_help_panel="Explanation")] = 0,
    level: Annotated[CorpusLevel, options.LEVEL(rich_help_panel="Explanation")] = "word",
    n_steps: Annotated[int, options.N_STEPS(rich_help_panel="Explanation")] = 50,
    top: Annotated[int | None, options.TOP(rich_help_panel="Explanation")] = None,
    budget: Annotated[int | None, options.BUDGET(rich_help_panel="Explanation")] = None,
    stride: Annotated[int | None, options.STRIDE(rich_help_panel="Explanation")] = None,
    window_logits: Annotated[
        WindowLogitsName | None, options.WINDOW_LOGITS(rich_help_panel="Explanation")
    ] = None,
    batch_size: Annotated[
        int | None, EXPLANATION_PANEL(help="Maximum texts per batch; default: 32, or 512 on a GPU.")
    ] = None,
    compile: Annotated[
        bool,
        EXPLANATION_PANEL(
            "--compile", help="Compile the model's layers first; worthwhile for many texts."
        ),
    ] = False,
    device: Annotated[
        str | None, EXPLANATION_PANEL(help="Device of the model; default: a GPU if there is one.")
    ] = None,
    engine: Annotated[
        EngineName, RAY_PANEL(help="local runs in this process, ray on this machine or a cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        RAY_PANEL(help="Address of a running cluster, such as auto; default: start one here."),
    ] = None,
    num_workers: Annotated[
        int | None,
        RAY_PANEL(help="Number of workers, each with a model; default: one per GPU, else per CPU."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        RAY_PANEL(help="GPUs per worker, possibly a fraction; default: 1 where there are GPUs."),
    ] = None,
    output: Annotated[
        Path, OUTPUT_PANEL(help="Folder for the shards; an unfinished run in it is resumed.")
    ],
    shard_size: Annotated[
        int,
        OUTPUT_PANEL(
            help="Maximum rows per output file, fewer of long texts (work lost if interrupted)."
        ),
    ] = 2048,
) -> None:
    """Explain every text of a corpus, on this machine or on a Ray cluster.

    Writes Parquet with a row for each text or pair of texts: label, probability,
    words, offsets, scores, the error of the worst word, or why there is no
    explanation; with contexts also both sides of each word and the residual.
    Several labels, entities or answers of a text are lists in its row. The same
    command resumes an interrupted run. Summarise with `captum-sig report`.
    """
    engine_options: dict[str, Any] = {
        "address": address, "num_workers": num_workers, "gpus_per_worker": gpus_per_worker,
    }  # fmt: skip
    for name, value in engine_options.items():
        if engine == "local" and value is not None:
            terminal.fail(f"{terminal.option_name(name)} is for --engine ray only: leave it out")
    terminal.check_budget(level, budget)
    units_column = units_column or None
    windows = {"stride": stride, "window_logits": window_logits}
    for name, given in windows.items():
        if given is not None and task != "text-classification":
            terminal.fail(
                f"{terminal.option_name(name)} is for text-classification only: leave it out"
            )
    if model is None and task != "text-classification":
        terminal.fail(f"no model for {task} is included: pass --model with a folder or hub name")
    settings: dict[str, Any] = {
        "task": task, "target": target[0] if target and len(target) == 1 else target or None,
        "method": method, "contexts": contexts, "baseline": baseline,
        "masked_lm": masked_lm, "n_draws": n_draws, "seed": seed, "level": level,
        "n_steps": n_steps, "truncation": truncation, "top": top, "budget": budget,
        **{name: given for name, given in windows.items() if given is not None},
    }  # fmt: skip
    for folder in map(Path, inputs):  # a resumed run would read shards as texts
        if folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{output} lies in the input {folder}: use a folder beside it")
    with quitting_on_interrupt():
        from captum_sig.corpus.engines import locally, on_ray
        from captum_sig.corpus.folder import CorpusFolder, check_packages
        from captum_sig.corpus.manifest import MANIFEST
        from captum_sig.corpus.shard_files import ShardWriter
        from captum_sig.corpus.shards import cut, find_texts
        from captum_sig.data.columns import PAIR
        from captum_sig.explainers.models import weights_digest

    check_packages(with_ray=engine == "ray")
    if not (output / MANIFEST).exists():  # a finished run is only read
        check_folder(output)
    files = find_texts(
        inputs, text_column=text_column, pair_column=pair_column, units_column=units_column,
        id_column=id_column, output=output,
    )  # fmt: skip
    found = next((file.columns[PAIR] for file in files if PAIR in file.columns), None)
    explain = terminal.load_corpus_explainer(
        model, batch_size=batch_size, compile=compile, device=device, pair_column=found,
        units_column=units_column,
        **settings,
    )  # fmt: skip
    texts = cut(files, shard_size=shard_size, limit=limit, work=explain.work)
    weights = weights_digest(explain.explainer.model)
    settings = {
        "model": model or "demo", "weights": weights, **settings, "text_column": text_column,
        "pair_column": found, "units_column": units_column, "id_column": id_column,
        "shard_size": shard_size, "limit": limit,
    }  # fmt: skip
    run_engine = locally if engine == "local" else functools.partial(on_ray, **engine_options)
    run = CorpusFolder(output, texts, settings)
    with run.entered():
        before = run.counts["rows"]
        work_left = sum(shard.work for shard in run.remaining)
        progress = Progress(texts.n_rows, texts.work, before, texts.work - work_left)
        with progress.bar:
            try:
                writer = ShardWriter(output, explain, run.manifest.run, weights=weights)
                run.explain_remaining(run_engine, writer, progress.update)
            except RuntimeError as error:
                terminal.fail(str(error))
            except KeyboardInterrupt:
                kept = f"{run.counts['rows']:,} texts are kept; the same command resumes"
                typer.echo(f"captum-sig: interrupted: {kept}", err=True)
                raise
        _print_summary(run, before)


def _print_summary(run: CorpusFolder, before: int) -> None:
    from captum_sig.corpus.query import failed_rows
    from captum_sig.viz.characters import on_one_line, shortened

    folder, counts = run.folder, run.manifest.counts
    assert counts is not None, "the run is finished"
    earlier = f" ({before:,} from earlier runs)" if before else ""
    truncated = f", {counts['truncated']:,} truncated" if counts["truncated"] else ""
    typer.echo(
        f"Texts: {counts['rows']:,}{earlier}; {counts['explained']:,} explained{truncated}, "
        f"{counts['failed']:,} failed."
    )
    paths = run.manifest.paths(folder)
    for file, row, error in failed_rows(paths, MAX_EXAMPLES) if counts["failed"] else ():
        typer.echo(f"  {file}, row {row}: {shortened(on_one_line(error), 120)}")
    if counts["failed"] > MAX_EXAMPLES:
        typer.echo(f"  … and {counts['failed'] - MAX_EXAMPLES:,} more, in column `error`")
    if counts["duplicate_ids"]:
        typer.echo(f"{counts['duplicate_ids']:,} rows repeat an id; file and row still differ.")
    typer.echo(f"Shards and manifest.json are in {folder}; next: captum-sig report {folder}")
