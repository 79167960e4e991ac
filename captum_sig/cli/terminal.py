"""What all commands share: how a model is loaded, and how warnings and errors are told."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from captum_sig.corpus.explainer import CorpusExplainer
    from captum_sig.explainers.classification import TextClassificationExplainer
    from captum_sig.explainers.generation import TextGenerationExplainer


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    typer.echo(f"captum-sig: {message}", err=True)
    raise typer.Exit(2)


def checked_format(chosen: str, formats: Iterable[str], output: Path | None) -> str:
    """The format that was chosen, if there is such a one and it has where to go."""
    if chosen not in formats:
        fail(f"format {chosen!r} is unknown: use one of {', '.join(formats)}")
    if chosen == "png" and output is None:
        fail("a picture goes to a file: pass --output FILE.png")
    return chosen


@contextmanager
def reporting_errors() -> Iterator[None]:
    """While open, warnings are lines on stderr, each once; a mistake of the caller's ends all."""
    shown: set[str] = set()

    def show(message: Warning | str, *args: object) -> None:
        if str(message) not in shown:
            typer.echo(f"captum-sig: warning: {message}", err=True)
        shown.add(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            yield
        except BrokenPipeError:
            raise  # the reader has seen enough: typer ends quietly
        except (ValueError, OSError, FloatingPointError) as error:
            fail(" ".join(str(error).split()))


def explainers(
    model: str | None, baselines: Sequence[str], masked_lm: str | None, **options: Any
) -> list[TextClassificationExplainer]:
    """One for each baseline, of the model in a folder or of a hub name, by default the demo model.

    They share the model; `masked_lm` names that of baseline "blurred".
    """
    from transformers import AutoModelForMaskedLM

    from captum_sig.demo_model import PATH
    from captum_sig.explainers.classification import TextClassificationExplainer
    from captum_sig.explainers.models import pretrained

    _quietly(model, masked_lm)
    if masked_lm is not None:
        with _reading(masked_lm):
            options["masked_lm"] = pretrained(
                AutoModelForMaskedLM, masked_lm, "to fill in masked words"
            )
    with _reading(model):
        loaded = TextClassificationExplainer.from_pretrained(
            PATH if model is None else model, baseline=baselines[0], **options
        )
    others = [
        TextClassificationExplainer(loaded.model, loaded.tokenizer, baseline=name, **options)
        for name in baselines[1:]
    ]
    return [loaded, *others]


def generator(model: str | None, **options: Any) -> TextGenerationExplainer:
    """Of the language model in a folder or of a hub name."""
    from captum_sig.explainers.generation import TextGenerationExplainer

    if model is None:
        fail("no language model is included: pass --model with a folder or hub name")
    _quietly(model)
    with _reading(model):
        return TextGenerationExplainer.from_pretrained(model, **options)


def corpus_explainer(model: str | None, **options: Any) -> CorpusExplainer:
    """Of the model in a folder or of a hub name, by default the demo model."""
    from captum_sig.corpus.explainer import CorpusExplainer
    from captum_sig.demo_model import PATH

    _quietly(model, options["masked_lm"])
    source = str(PATH) if model is None else model
    if Path(source).is_dir():
        source = str(Path(source).absolute())  # workers may run in other folders
    with _reading(model or "the demo model"):
        return CorpusExplainer(source, **options)


def _quietly(*names: str | None) -> None:
    """Refuse folders that are not there; transformers is not to speak while it loads."""
    from transformers.utils import logging

    for name in names:
        if name is not None and name.startswith((".", "/", "~")) and not Path(name).is_dir():
            fail(f"there is no folder {name}")
    logging.disable_progress_bar()  # a bar over 0.1 s of loading hides the answer
    logging.set_verbosity_error()


@contextmanager
def _reading(name: str | None) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged file leads to: OSError, RuntimeError, …
        raise ValueError(f"{name} cannot be loaded: {error}") from error
