"""`captum-sig corpus`: the words of many texts, into Parquet."""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_sig.cli import terminal
from captum_sig.cli.options import (
    ADDRESS,
    BASELINE,
    BATCH_SIZE,
    CONTEXTS,
    CUT,
    DEVICE,
    DRAWS,
    ENGINE,
    GPUS_PER_WORKER,
    ID_COLUMN,
    INPUTS,
    LABEL,
    LEVEL,
    MASKED_LM,
    METHOD,
    MODEL,
    NUM_WORKERS,
    SEED,
    SHARD_SIZE,
    TEXT_COLUMN,
)

if TYPE_CHECKING:
    from captum_sig.corpus.explainer import CorpusExplainer
    from captum_sig.corpus.folder import CorpusFolder, Engine


SECONDS = 30.0  # between two lines


class Progress:
    """Tells rate and time left on stderr; called with how many texts were done since.

    Args:
        total: of texts.
        done: were done before this run; they do not count as its speed.
    """

    def __init__(self, total: int, done: int) -> None:
        """Start the clock."""
        from tqdm import tqdm

        self.total, self.done, self.initial = total, done, done
        self.on_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, unit="text", disable=not self.on_terminal, dynamic_ncols=True
        )
        self.start = self.last = time.monotonic()

    def __enter__(self) -> Progress:
        """Show the bar."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the bar."""
        self.bar.close()

    def __call__(self, n_texts: int) -> None:
        """So many more are done."""
        self.done += n_texts
        self.bar.update(n_texts)
        now = time.monotonic()
        if not self.on_terminal and now - self.last >= SECONDS:
            self.last = now
            print(self.line(now - self.start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What a log is told so many seconds after the start."""
        from tqdm import tqdm

        rate = (self.done - self.initial) / seconds
        left = tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
        return f"{self.done:,} of {self.total:,} texts, {rate:,.1f}/s, {left} left"


ENGINES = ("local", "ray")
SHOWN = 3  # failed rows, as examples


def corpus(
    inputs: Annotated[list[str], INPUTS],
    output: Annotated[Path, typer.Option(help="Folder for the shards; goes on with what it has.")],
    model: Annotated[str | None, MODEL] = None,
    target: Annotated[str | None, LABEL] = None,
    method: Annotated[str, METHOD] = "sig",
    contexts: Annotated[str | None, CONTEXTS] = None,
    baseline: Annotated[str, BASELINE] = "mask",
    masked_lm: Annotated[str | None, MASKED_LM] = None,
    draws: Annotated[int, DRAWS] = 5,
    seed: Annotated[int, SEED] = 0,
    level: Annotated[str, LEVEL] = "word",
    n_steps: Annotated[int, typer.Option(help="Steps of ig.")] = 50,
    truncate: Annotated[bool, CUT] = True,
    text_column: Annotated[str | None, TEXT_COLUMN] = None,
    id_column: Annotated[str | None, ID_COLUMN] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N rows.")] = None,
    shard_size: Annotated[int, SHARD_SIZE] = 2048,
    batch_size: Annotated[int | None, BATCH_SIZE] = None,
    device: Annotated[str | None, DEVICE] = None,
    engine: Annotated[str, ENGINE] = "local",
    address: Annotated[str | None, ADDRESS] = None,
    num_workers: Annotated[int | None, NUM_WORKERS] = None,
    gpus_per_worker: Annotated[float | None, GPUS_PER_WORKER] = None,
) -> None:
    """Explain every text of a corpus, on this machine or on a Ray cluster.

    Writes Parquet, a row for each text: label, probability, words, offsets, scores, the error of
    the worst word, or why there is no explanation. A run that was interrupted goes on with the same
    command. `captum-sig report` makes tables of it.
    """
    chosen = _engine(engine, address, num_workers, gpus_per_worker)
    settings: dict[str, Any] = {
        "target": target, "method": method, "contexts": contexts, "baseline": baseline,
        "masked_lm": masked_lm, "n_draws": draws, "seed": seed, "level": level, "n_steps": n_steps,
        "truncation": truncate,
    }  # fmt: skip
    with terminal.reporting_errors():
        from captum_sig.corpus.folder import CorpusFolder
        from captum_sig.corpus.shards import scan_corpus
        from captum_sig.explainers.models import weights_digest

        _check_apart(inputs, output)
        found = scan_corpus(
            inputs, text_column=text_column, id_column=id_column, shard_size=shard_size,
            limit=limit,
        )  # fmt: skip
        explain = terminal.corpus_explainer(model, batch_size=batch_size, device=device, **settings)
        weights = weights_digest(explain.explainer.model)
        settings = {
            "model": model or "demo", "weights": weights, **settings, "text_column": text_column,
            "id_column": id_column, "shard_size": shard_size, "limit": limit,
        }  # fmt: skip
        _go(CorpusFolder(output, found, settings), chosen, explain)


def _engine(
    name: str, address: str | None, num_workers: int | None, gpus_per_worker: float | None
) -> Engine:
    """The engine of this name with its options, which `local` has none of."""
    from captum_sig.corpus.engines import locally, on_ray

    options: dict[str, Any] = {
        "address": address, "num_workers": num_workers, "gpus_per_worker": gpus_per_worker,
    }  # fmt: skip
    given = [option for option, value in options.items() if value is not None]
    if name not in ENGINES:
        terminal.fail(f"engine {name!r} is unknown: use one of {', '.join(ENGINES)}")
    if name == "local" and given:
        terminal.fail(f"--{given[0].replace('_', '-')} is for --engine ray only: leave it out")
    return locally if name == "local" else functools.partial(on_ray, **options)


def _check_apart(inputs: list[str], output: Path) -> None:
    """Shards must not be taken for texts when the run goes on."""
    for given in inputs:
        if Path(given).is_dir() and output.resolve().is_relative_to(Path(given).resolve()):
            raise ValueError(f"{output} lies in the input {given}: use a folder beside it")


def _go(run: CorpusFolder, engine: Engine, explain: CorpusExplainer) -> None:
    from captum_sig.corpus.shards import ShardWriter

    with run.entered():
        before = run.counts["rows"]
        with Progress(run.corpus.n_rows, before) as progress:
            try:
                counts = run.explain_remaining(
                    engine, ShardWriter(run.folder, explain, run.settings["weights"]), progress
                )
            except RuntimeError as error:
                terminal.fail(" ".join(str(error).split()))
            except KeyboardInterrupt:
                told = f"{run.counts['rows']:,} texts are kept; the same command goes on"
                typer.echo(f"captum-sig: interrupted: {told}", err=True)
                raise
        _show(run.folder, counts, before)


def _show(folder: Path, counts: dict[str, int], before: int) -> None:
    from captum_sig.corpus.query import failed_rows
    from captum_sig.viz.text import on_one_line, shortened

    there = f" ({before:,} were there)" if before else ""
    cut = f", {counts['truncated']:,} cut at the model's limit" if counts["truncated"] else ""
    typer.echo(
        f"Texts: {counts['rows']:,}{there}; {counts['explained']:,} explained{cut}, "
        f"{counts['failed']:,} failed."
    )
    for file, row, error in failed_rows(folder, SHOWN) if counts["failed"] else ():
        typer.echo(f"  {file}, row {row}: {shortened(on_one_line(error), 120)}")
    if counts["failed"] > SHOWN:
        typer.echo(f"  … and {counts['failed'] - SHOWN:,} more, in column `error`")
    if counts["duplicate_ids"]:
        typer.echo(f"{counts['duplicate_ids']:,} rows have the id of another: file and row differ.")
    typer.echo(f"Shards and manifest.json are in {folder}: captum-sig report {folder}")
