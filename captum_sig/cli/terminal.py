"""What the commands share: loading models, choosing a format, reporting warnings and errors."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import typer

from captum_sig._files import check_file, check_model_path
from captum_sig.cli.process import quitting_on_interrupt

if TYPE_CHECKING:
    from captum_sig._names import TaskName
    from captum_sig.corpus.explainer import CorpusExplainer
    from captum_sig.explainers.classification import TextClassificationExplainer

P = ParamSpec("P")
RENAMED = {"rationale_column": "--rationales"}  # options that are not named after their argument


def fail(message: str) -> NoReturn:
    """Print one line on stderr and exit with code 2."""
    typer.echo(f"captum-sig: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def option_name(argument: str) -> str:
    """Return the option that sets an argument of a command.

    >>> option_name("n_steps")
    '--n-steps'
    """
    return RENAMED.get(argument, f"--{argument.replace('_', '-')}")


def choose_format(format: str | None, output: Path | None, endings: Mapping[str, str]) -> str:
    """Return the format that was asked for, or else that of the file's ending, or else text."""
    ending = "" if output is None else output.suffix.lower()
    if format is None and ending not in ("", *endings):
        known = ", ".join(endings)
        fail(f"{output} ends in none of {known}: rename the file, or pass --format")
    return format or endings.get(ending, "text")


def check_output(format: str, output: Path | None) -> None:
    """Fail if a result of this format cannot be written, to a file or else to stdout."""
    if output is not None:
        check_file(output)
    elif format == "png":
        fail("png cannot go to stdout: pass --output FILE.png")
    elif sys.stdout is None:
        fail("stdout is closed: pass --output FILE")


def check_budget(level: str, budget: int | None) -> None:
    """Fail if there are rows to spend, and no level that spends them."""
    if budget is not None and level != "auto":
        fail("--budget is for --level auto: leave it out")


def check_left_out(context: typer.Context, arguments: Sequence[str], reason: str) -> None:
    """Fail if one of these arguments of a command is given, and say the reason."""
    for name in arguments:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            fail(f"{option_name(name)} {reason}: leave it out")


def reporting_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command print each warning once, and a user's mistake as one line with exit code 2.

    The library's messages name arguments, such as `n_steps`; here they become options.
    """
    arguments = [name for name in inspect.signature(command).parameters if "_" in name]
    quoted_or_longer = r"(?<![\w.'\"/-])({})(?![\w'\"/-]|\.\w)"
    pattern = re.compile(quoted_or_longer.format("|".join(arguments) or "(?!)"))

    def translated(message: object) -> str:
        return pattern.sub(lambda match: option_name(match[1]), str(message))

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> None:
        shown: set[str] = set()

        def show(message: Warning | str, *details: object) -> None:
            if str(message) not in shown:
                typer.echo(f"captum-sig: warning: {translated(message)}", err=True)
            shown.add(str(message))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show  # type: ignore[assignment]
            try:
                command(*args, **kwargs)
            except BrokenPipeError:
                raise  # the reader has seen enough: typer ends quietly
            except (ValueError, OSError, FloatingPointError) as error:
                fail(translated(error))

    return reporting


def write(content: bytes, output: Path | None) -> None:
    """Write to a file, or else to stdout."""
    if output is None:
        sys.stdout.write(content.decode())
        sys.stdout.flush()  # here, where errors are reported
    else:
        output.write_bytes(content)


def load_classifiers(
    model: str | None, baselines: Sequence[str], masked_lm: str | None, **options: Any
) -> list[TextClassificationExplainer]:
    """Load a model once and make an explainer of it for each baseline.

    Args:
        model: folder or hub name; None is the demo model.
        baselines: their names.
        masked_lm: folder or hub name of the model that baseline "blurred" uses.
        **options: further arguments of each explainer.
    """
    options |= masked_lm_option(masked_lm)
    with _loading(model):
        from captum_sig.demo_model import PATH
        from captum_sig.explainers.classification import TextClassificationExplainer

        first = TextClassificationExplainer.from_pretrained(
            PATH if model is None else model, baseline=baselines[0], **options
        )
    return [first] + [
        TextClassificationExplainer(first.model, first.tokenizer, baseline=name, **options)
        for name in baselines[1:]
    ]


def task_of_model(model: str) -> TaskName:
    """Return the task that a model was trained for, by its config."""
    with _loading(model):
        from captum_sig.explainers.automatic import task_of

        return task_of(model)


def load_explainer(task: TaskName, model: str | None, masked_lm: str | None, **options: Any) -> Any:
    """Load a model by folder or hub name, by default the demo model, and make its explainer.

    Args:
        task: its task.
        model: folder or hub name; None is the demo model.
        masked_lm: folder or hub name of the model that baseline "blurred" uses.
        **options: further arguments of the explainer.
    """
    options |= masked_lm_option(masked_lm)
    with _loading(model):
        from captum_sig.demo_model import PATH
        from captum_sig.explainers.automatic import explainer

        return explainer(PATH if model is None else model, task=task, **options)


def masked_lm_option(masked_lm: str | None) -> dict[str, Any]:
    """Load a masked language model, and return it as an explainer's keyword; {} for None."""
    if masked_lm is None:
        return {}
    with _loading(masked_lm):
        from captum_sig.explainers.loading import pretrained_masked_lm

        return {"masked_lm": pretrained_masked_lm(masked_lm)}


def load_corpus_explainer(model: str | None, **options: Any) -> CorpusExplainer:
    """Load a model by folder or hub name, by default the demo model, for columns of texts."""
    with _loading(model, options["masked_lm"]):
        from captum_sig.corpus.explainer import CorpusExplainer
        from captum_sig.demo_model import PATH

        source = str(PATH) if model is None else model
        if Path(source).is_dir():
            source = str(Path(source).absolute())  # workers may run in other folders
        return CorpusExplainer(source, **options)


@contextmanager
def _loading(model: str | None, masked_lm: str | None = None) -> Iterator[None]:
    """Check that paths exist, keep transformers quiet, and name a model that does not load."""
    for name in (model, masked_lm):
        if name is not None:
            check_model_path(name)
    try:
        with quitting_on_interrupt():
            from transformers.utils import logging

            logging.disable_progress_bar()  # a bar over 0.1 s of loading hides the result
            logging.set_verbosity_error()
            yield
    except ValueError:
        raise
    except Exception as error:  # whatever a corrupt file leads to: OSError, RuntimeError, …
        raise ValueError(f"{model or 'the demo model'} cannot be loaded: {error}") from error
