"""The examples of transformers-interpret's README, call by call, beside ours on the same models.

    pip download --no-deps --no-binary :all: --dest peers transformers-interpret==0.10.0
    tar -xzf peers/transformers-interpret-0.10.0.tar.gz -C peers
    python -m tests.benchmarks.interpret --peer peers/transformers-interpret-0.10.0 --models FOLDER

It integrates gradients along the path of the whole text, from `[PAD]`, 50 steps. Two figures say
how exact that is, as fractions of |F(x) − F(baseline)|: the convergence delta that it reports, and
how far its sum is from the difference of F at the two ends of the path that it follows. The
largest of an example's integrals stand in the table. Our scores are differences of F themselves.
Seconds are the processor's, of the second of two runs.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

import captum_sig
from captum_sig.attr.hooks import patched
from tests.benchmarks.record import add_record_option, show_and_record

SENTIMENT = "AutoModelForSequenceClassification"


@dataclass(frozen=True)
class Example:
    """One of the README's calls: both snippets run with `model`, `tokenizer` and `page`."""

    name: str
    folder: str
    auto_class: str
    theirs: str
    ours: str


QUERY = "Where did Clara Weber paint the bridge?"
CONTEXT = "Clara Weber painted a bridge in Lisbon in 1987. Hugo sold a piano in Dublin in 1991."
EXAMPLES = [
    Example(
        "the predicted class", "minilm-sst2", SENTIMENT,
        """explainer = SequenceClassificationExplainer(model, tokenizer)
found = explainer("I love you, I like you")""",
        """explainer = TextClassificationExplainer(model, tokenizer)
found = explainer("I love you, I like you")""",
    ),
    Example(
        "another class, and a page", "minilm-sst2", SENTIMENT,
        """explainer = SequenceClassificationExplainer(model, tokenizer)
text = "I love you, I like you, I also kinda dislike you"
found = explainer(text, class_name="NEGATIVE")
explainer.visualize(page)""",
        """explainer = TextClassificationExplainer(model, tokenizer)
text = "I love you, I like you, I also kinda dislike you"
found = explainer(text, target="NEGATIVE")
found.to_html(page)""",
    ),
    Example(
        "a pair, a single value", "reranker", SENTIMENT,
        f"""explainer = PairwiseSequenceClassificationExplainer(model, tokenizer)
found = explainer({QUERY!r}, {CONTEXT!r})
explainer.visualize(page)""",
        f"""explainer = TextClassificationExplainer(model, tokenizer)
found = explainer(({QUERY!r}, {CONTEXT!r}))
found.to_html(page)""",
    ),
    Example(
        "every label", "multi-label", SENTIMENT,
        """explainer = MultiLabelClassificationExplainer(model, tokenizer)
found = explainer("A charming film. Who directed it? How many people saw it?")
explainer.visualize(page)""",
        """explainer = TextClassificationExplainer(model, tokenizer)
found = explainer("A charming film. Who directed it? How many people saw it?", "all")
found.to_html(page)""",
    ),
    Example(
        "labels given as words", "nli", SENTIMENT,
        """explainer = ZeroShotClassificationExplainer(model, tokenizer)
template = "This example is {}."
found = explainer("it is a charming film .", labels=["positive", "negative", "about a person"],
                  hypothesis_template=template)
explainer.visualize(page)""",
        """explainer = ZeroShotClassificationExplainer(model, tokenizer)
template = "This example is {}."
found = explainer("it is a charming film .", ["positive", "negative", "about a person"],
                  hypothesis_template=template)
found.to_html(page)""",
    ),
    Example(
        "an answer", "qa", "AutoModelForQuestionAnswering",
        f"""explainer = QuestionAnsweringExplainer(model, tokenizer)
found = explainer({QUERY!r}, {CONTEXT!r}, embedding_type=0)
answer = explainer.predicted_answer
explainer.visualize(page)""",
        f"""explainer = QuestionAnsweringExplainer(model, tokenizer)
found = explainer(({QUERY!r}, {CONTEXT!r}))
answer = found.label
found.to_html(page)""",
    ),
    Example(
        "entities", "ner", "AutoModelForTokenClassification",
        """explainer = TokenClassificationExplainer(model, tokenizer)
found = explainer("We flew to Lisbon to meet Clara Weber.", ignored_labels=["O"])
explainer.visualize(page)""",
        """explainer = TokenClassificationExplainer(model, tokenizer)
found = explainer("We flew to Lisbon to meet Clara Weber.")
found.to_html(page)""",
    ),
]  # fmt: skip


def run(snippet: str, names: dict[str, Any]) -> float:
    """A snippet's processor seconds; the first of two runs is warm-up."""
    for _ in range(2):
        start = time.process_time()
        with redirect_stdout(io.StringIO()):  # pages are shown as well
            exec(snippet, dict(names))
        seconds = time.process_time() - start
    return seconds


@contextmanager
def watching(integral: Any) -> Iterator[list[tuple[float, float]]]:
    """While open, notes the reported and the true error of each integral of this class."""
    errors: list[tuple[float, float]] = []
    original = integral.__init__

    def watched(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        errors.append(errors_of(self))

    integral.__init__ = watched
    try:
        yield errors
    finally:
        integral.__init__ = original


def errors_of(integral: Any) -> tuple[float, float]:
    """The delta that is reported, and the sum's distance from what F changes along the path."""
    given = [integral.input_ids, integral.token_type_ids, integral.position_ids]
    given = [tensor for tensor in given if tensor is not None]

    def value() -> Tensor:
        output = integral.custom_forward(*given, integral.attention_mask)
        return output.flatten()[integral.target or 0]

    with torch.no_grad():
        change = value()
        baseline = integral.embeddings(integral.ref_input_ids)
        with patched([integral.embeddings], [baseline]):
            change = change - value()
    off = integral._attributions.sum() - change
    return float((integral.delta / change).abs()), float((off / change).abs())


def compare(example: Example, models: Path, page: Path) -> dict[str, Any]:
    """A row of the table."""
    import transformers_interpret
    from transformers_interpret.attributions import LIGAttributions

    folder = models / example.folder
    names = {
        "model": getattr(transformers, example.auto_class).from_pretrained(folder).eval(),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(folder),
        "page": str(page),
    }
    theirs = names | vars(transformers_interpret)
    ours = names | {name: getattr(captum_sig, name) for name in captum_sig.__all__}
    seconds = [run(example.theirs, theirs), run(example.ours, ours)]
    with watching(LIGAttributions) as errors:
        run(example.theirs, theirs)
    reported, true = (max(of_kind) for of_kind in zip(*errors, strict=True))
    lines = " / ".join(str(len(code.splitlines())) for code in (example.theirs, example.ours))
    return {
        "example": example.name, "lines": lines, "its_integrals": len(errors) // 2,
        "its_delta": reported, "its_sum": true, "its_s": seconds[0], "our_s": seconds[1],
        "times": seconds[0] / seconds[1],
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.interpret", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("--peer", type=Path, required=True, help="folder of the unpacked sdist")
    options.add_argument("--models", type=Path, required=True, help="folder with the models")
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parser().parse_args(arguments)
    sys.path.insert(0, str(options.peer))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        rows = [compare(example, options.models, page) for example in EXAMPLES]
    show_and_record(options, __spec__.name, {"examples": rows})


if __name__ == "__main__":
    main()
