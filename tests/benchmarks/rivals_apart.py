"""Rivals in environments of their own: a process that answers questions, line by line.

    ENVIRONMENT/bin/python -m tests.benchmarks.rivals_apart MODEL TASK RIVAL

It writes {} once it is ready; then it reads the fields of a question and writes those of an answer,
or {"error": …}. An environment needs the rival, torch and transformers: see `rivals`.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.measure import Rows
from tests.benchmarks.rivals_methods import RIVALS, Question, Scores

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    """Scores, (W,), and what they took."""

    scores: list[float]
    forward: int  # rows
    backward: int
    seconds: float  # of this thread


@contextmanager
def rows_of_forward(model: Any) -> Iterator[Rows]:
    """While open, counts rows; a row under grad counts as one with a backward pass.

    `forward` itself is wrapped, since Captum's `LLMAttribution` calls it without the model's hooks.
    """
    rows, forward = Rows(), model.forward

    @functools.wraps(forward)
    def counting(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        number = next(len(one) for one in given if isinstance(one, torch.Tensor))
        rows.forward += number
        rows.backward += number * torch.is_grad_enabled()
        return forward(*args, **kwargs)

    model.forward = counting
    try:
        yield rows
    finally:
        del model.forward  # the class's is behind it


def answer(model: Any, gradients: bool, scores: Callable[[], Scores]) -> Answer:
    """Call for scores, and count: without gradients, no row counts as one with a backward pass."""
    with nullcontext() if gradients else torch.no_grad(), rows_of_forward(model) as rows:
        begun = time.thread_time()
        found = scores()
        seconds = time.thread_time() - begun
    return Answer([float(score) for score in found], rows.forward, rows.backward, seconds)


def asked(model: Any, tokenizer: Any, rival: str, question: Question) -> Answer:
    """The answer of a rival that this process can import."""
    one = RIVALS[rival]
    return answer(model, one.gradients, lambda: one.scores(model, tokenizer, question))


def load(folder: Path, task: str, rival: str) -> tuple[Any, Any]:
    """A model as the rival has it, and its tokenizer if that is read."""
    import transformers

    kind = {"classification": "ForSequenceClassification", "generation": "ForCausalLM"}[task]
    before_loading = RIVALS[rival].before_loading
    if before_loading is not None:
        before_loading(transformers.AutoConfig.from_pretrained(folder).model_type)
    model = getattr(transformers, f"AutoModel{kind}").from_pretrained(folder).eval()
    reads_text = RIVALS[rival].reads_text
    return model, transformers.AutoTokenizer.from_pretrained(folder) if reads_text else None


class Apart:
    """A process of another environment with one model; it starts with the first question."""

    def __init__(self, python: Path, folder: Path, task: str, rival: str) -> None:
        self.rival = rival
        self._command = [str(python), "-m", __spec__.name, str(folder.resolve()), task, rival]
        self._process: subprocess.Popen[str] | None = None
        self._why_not: str | None = None  # it cannot start

    def __call__(self, question: Question) -> Answer:
        """The answer to one question.

        Raises:
            ValueError: if the rival fails, or cannot be imported, or the model not be loaded.
        """
        if self._why_not is not None:
            raise ValueError(self._why_not)
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            self._read(self._process)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(question)) + "\n")
        self._process.stdin.flush()
        return Answer(**self._read(self._process))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _read(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        content = json.loads(line) if line else {"error": "its process ended"}
        if "error" in content:
            message = f"{self.rival} failed: {content['error']}"
            if content.get("ends", not line):
                self.close()
                self._why_not = message
            raise ValueError(message)
        return content


def main(folder: str, task: str, rival: str) -> None:
    """Answer until the input ends; what libraries print goes to the errors."""
    torch.set_num_threads(1)
    out = sys.stdout

    def write(content: dict[str, Any]) -> None:
        out.write(json.dumps(content) + "\n")
        out.flush()

    with redirect_stdout(sys.stderr):
        try:
            if not RIVALS[rival].is_installed:
                raise ImportError(f"{RIVALS[rival].package} is not installed")
            model, tokenizer = load(Path(folder), task, rival)
            write({})
        except Exception as error:
            write({"error": f"{type(error).__name__}: {error}", "ends": True})
            return
        for line in sys.stdin:
            try:
                write(asdict(asked(model, tokenizer, rival, Question(**json.loads(line)))))
            except Exception as error:
                write({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
