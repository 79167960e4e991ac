"""The tasks of `captum-sig explain`: which options each has, and how they reach its explainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import typer

from captum_sig._names import TaskName
from captum_sig.cli import terminal
from captum_sig.cli.inputs import Input
from captum_sig.cli.options import split_names

Options = Mapping[str, Any]  # of the command, by the names of its arguments
Sides = Literal["one", "one or two", "two"]  # texts in an input

# Options of the explainers, and of their calls, where a model reads whole texts.
CALL = ("method", "truncation", "top", "smooth", "noise")
READER = ("masked_lm", "n_draws", *CALL)
CHAT = ("chat", "messages")


@dataclass(frozen=True)
class Task:
    """A task of the command."""

    explain: Callable[[Any, list[Any], Options], list[Any]]  # explainer, inputs → results
    options: tuple[str, ...]  # that not all tasks have
    sides: Sides = "one"
    second: str = "pair"  # the option with the second text of a pair
    arguments: Mapping[str, str] = field(default_factory=dict)  # options by those of the explainer


def check_options(command: typer.Context, task: TaskName) -> None:
    """Fail if an option was given that the task does not have."""
    for name in sorted(_OF_SOME - {*TASKS[task].options}):
        source = command.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            *others, last = [other for other in TASKS if name in TASKS[other].options]
            takers = f"{', '.join(others)} and {last}" if others else f"{last} only"
            kind = f"is for {takers}" if len(others) < 3 else f"is not for {task}"
            terminal.fail(f"{terminal.option_name(name)} {kind}: leave it out")


def explainer_options(task: TaskName, options: Options) -> dict[str, Any]:
    """Return the keywords of a task's explainer; a masked language model is still a name."""
    several = options["baseline"]
    if len(several) > 1 and "method" not in TASKS[task].options:
        terminal.fail(f"{task} has one baseline, got {len(several)}: pass one --baseline")
    chosen = {
        "baseline": several[0] if len(several) == 1 else list(several),
        "level": options["level"],
        "seed": options["seed"],
    }
    of_task = TASKS[task]
    if "n_draws" in of_task.options:
        chosen["n_draws"] = options["n_draws"]
    given = {name: options[option] for name, option in of_task.arguments.items()}
    return chosen | _without_none(given)


def paired(task: TaskName, inputs: Sequence[Input], options: Options) -> list[Any]:
    """Join texts with the second texts of their pairs, and check that the task reads these."""
    of_task = TASKS[task]
    seconds = options[of_task.second]
    seconds = [seconds] if isinstance(seconds, str) else list(seconds or ())
    option = terminal.option_name(of_task.second)
    if seconds and not all(isinstance(one, str) for one in inputs):
        what = (
            "a chat is one input"
            if any(isinstance(one, list) for one in inputs)
            else "stdin has pairs"
        )
        terminal.fail(f"{option} goes with single texts, and {what}: leave it out")
    if len(seconds) > 1 and task == "sentence-similarity":
        return [(one, seconds) for one in inputs]
    joined = [(one, second) for one in inputs for second in seconds] if seconds else list(inputs)
    for one in joined:
        if isinstance(one, list) and "messages" not in of_task.options:
            terminal.fail(f"{task} reads texts, got the messages of a chat: pass texts")
        if isinstance(one, tuple) and of_task.sides == "one":
            terminal.fail(f"{task} reads single texts, got a pair: pass texts")
        if not isinstance(one, tuple) and of_task.sides == "two":
            terminal.fail(
                f"{task} reads two texts: pass the second by {option}, or pairs on stdin by "
                "--stdin-format"
            )
    return joined


def _call(
    explainer: Any, inputs: list[Any], options: Options, *arguments: Any, **keywords: Any
) -> list[Any]:
    """Explain inputs with the options of all such tasks; a single one as such, for its target."""
    common = _without_none({name: options[name] for name in CALL})
    common |= {name: options[name] for name in ("contexts", "interactions")}
    single = len(inputs) == 1
    common |= _zoom(options, is_single=single)
    results = explainer(inputs[0] if single else inputs, *arguments, **common, **keywords)
    return [results] if single else results


def _zoom(options: Options, *, is_single: bool) -> dict[str, Any]:
    """Return the units of the inputs and the rows of each, where they were given."""
    units = options["units"]  # of each
    single_or_all = units[0] if units is not None and is_single else units
    return _without_none({"units": single_or_all, "budget": options["budget"]})


def _classify(explainer: Any, inputs: list[Any], options: Options) -> list[Any]:
    targets = tuple(options["target"] or ())
    return _call(explainer, inputs, options, targets[0] if len(targets) == 1 else targets or None)


def _zero_shot(explainer: Any, inputs: list[Any], options: Options) -> list[Any]:
    candidates = [name for value in options["candidates"] or () for name in split_names(value)]
    if not candidates:
        terminal.fail('there is no candidate label: pass --candidates "sports,politics"')
    more = {name: options[name] for name in ("hypothesis_template", "multi_label", "words")}
    more["target"] = list(options["target"] or ()) or None  # of the candidates
    return _call(explainer, inputs, options, candidates, **_without_none(more))


def _find_entities(explainer: Any, inputs: list[Any], options: Options) -> list[Any]:
    spans = [read_span(value, label=True) for value in options["span"] or ()]
    if spans and len(inputs) > 1:
        terminal.fail(f"--span is of one text, got {len(inputs)}: pass one, or leave --span out")
    return _call(explainer, inputs, options, spans or None)


def _answer(explainer: Any, inputs: list[Any], options: Options) -> list[Any]:
    target, spans = _single_target(options, "question-answering"), options["span"] or []
    if len(spans) + (target is not None) > 1:
        terminal.fail("there is one answer to explain: pass one --target, or one --span")
    return _call(explainer, inputs, options, read_span(spans[0]) if spans else target)


def _fill(explainer: Any, inputs: list[Any], options: Options) -> list[Any]:
    more = _without_none({"top_k": options["top_k"]})
    return _call(explainer, inputs, options, tuple(options["target"] or ()) or None, **more)


def _compare(explainer: Any, inputs: list[Any], options: Options) -> list[Any]:
    return _call(explainer, inputs, options)


def _generate(explainer: Any, inputs: list[Any], options: Options) -> list[Any]:
    limit = options["max_new_tokens"]
    results: list[Any] = explainer(
        inputs, _single_target(options, "text-generation"),
        {} if limit is None else {"max_new_tokens": limit},
        contrast=options["contrast"], attribute_target=options["attribute_target"],
        contexts=options["contexts"], interactions=options["interactions"],
        **_zoom(options, is_single=False),
    )  # fmt: skip
    return results


def read_span(value: str, *, label: bool = False) -> tuple[Any, ...]:
    """Read "start:end", or "start:end:LABEL" if a label may follow.

    >>> read_span("4:9"), read_span("4:9:PER", label=True)
    ((4, 9), (4, 9, 'PER'))
    """
    start, _, rest = value.partition(":")
    end, colon, name = rest.partition(":")
    numbers = [number[:20] for number in (start, end) if number.isascii() and number.isdigit()]
    if len(numbers) < 2 or (colon and not (label and name)):
        form = "START:END or START:END:LABEL" if label else "START:END"
        terminal.fail(f"--span {value!r} is not {form} with numbers of characters, such as 0:5")
    return (*map(int, numbers), *([name] if colon else []))


def _single_target(options: Options, task: TaskName) -> str | None:
    targets: Sequence[str] = options["target"] or ()
    if len(targets) > 1:
        terminal.fail(f"{task} has one target, got {len(targets)}: pass one --target")
    return targets[0] if targets else None


def _without_none(options: Options) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


TASKS: dict[TaskName, Task] = {
    "text-classification": Task(
        _classify,
        (*READER, *CHAT, "target", "pair", "stdin_format", "stride", "window_logits"),
        sides="one or two",
        arguments={"stride": "stride", "window_logits": "window_logits"},
    ),
    "zero-shot-classification": Task(
        _zero_shot,
        (
            *READER, "stdin_format", "target", "candidates", "hypothesis_template", "multi_label",
            "words",
        ),
    ),
    "token-classification": Task(
        _find_entities, (*READER, "stdin_format", "span", "aggregation"),
        arguments={"aggregation_strategy": "aggregation"},
    ),
    "question-answering": Task(
        _answer, (*READER, "stdin_format", "context", "target", "span"), sides="two",
        second="context",
    ),
    "fill-mask": Task(_fill, (*READER, "stdin_format", "target", "top_k")),
    "sentence-similarity": Task(
        _compare, (*READER, "stdin_format", "pair", "pooling", "similarity"), sides="two",
        arguments={"pooling": "pooling", "similarity": "similarity"},
    ),
    "text-generation": Task(
        _generate,
        (*CHAT, "stdin_format", "target", "contrast", "max_new_tokens", "attribute_target"),
    ),
}  # fmt: skip
_OF_SOME = {name for task in TASKS.values() for name in task.options}
