"""Pick the explainer of a model: from a pipeline, a loaded model, a folder or hub name, or a task.

>>> from captum_sig.demo_model import PATH
>>> explainer(PATH)
TextClassificationExplainer(BertForSequenceClassification, task='text-classification', \
baseline='mask', level='word', labels=['NEGATIVE', 'POSITIVE'])
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import nn

from captum_sig._names import TaskName, unknown_name
from captum_sig.explainers.adapters import without_wrapper
from captum_sig.explainers.loading import (
    architectures,
    hub_options,
    is_saved_sentence_transformer,
)
from captum_sig.explainers.models import serving

# Of each task, where its explainer is defined, and the explainer's class.
EXPLAINERS: dict[TaskName, tuple[str, str]] = {
    "text-classification": ("classification", "TextClassificationExplainer"),
    "zero-shot-classification": ("zero_shot", "ZeroShotClassificationExplainer"),
    "token-classification": ("token_classification", "TokenClassificationExplainer"),
    "question-answering": ("question_answering", "QuestionAnsweringExplainer"),
    "fill-mask": ("fill_mask", "FillMaskExplainer"),
    "sentence-similarity": ("similarity", "SimilarityExplainer"),
    "text-generation": ("generation", "TextGenerationExplainer"),
}
TASK_OF_EXPLAINER = {class_name: task for task, (_, class_name) in EXPLAINERS.items()}

# Other names that transformers has or had for the tasks of its pipelines.
ALIASES: dict[str, TaskName] = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "feature-extraction": "sentence-similarity",
    "text2text-generation": "text-generation",
    "summarization": "text-generation",
    "translation": "text-generation",  # also translation_en_to_de
}
TASKS = ", ".join(get_args(TaskName))
PASS_TASK = f"pass task, one of {TASKS}"


def explainer(
    model_or_path_or_pipeline: Any,
    tokenizer: Any = None,
    *,
    task: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Return the explainer of a model, a folder or hub name, or a pipeline of transformers.

    Its class follows from `task`, or else from the pipeline's task, or else from the name of the
    model's class (of a folder or hub name, the one in its config). Its `repr` and its `task` say
    what was picked.

    - A sequence classifier is explained as such (text-classification), also if its labels are
      entailment and contradiction: such a model may judge pairs of texts as well as label texts in
      a zero-shot way. For the latter pass task="zero-shot-classification", or that pipeline.
    - An encoder without a head (`AutoModel`) and a `SentenceTransformer` embed texts, so what is
      explained is the similarity of two. A masked language model fills masks, unless
      task="sentence-similarity".
    - A `CrossEncoder` of sentence-transformers is the classifier inside it.

    Args:
        model_or_path_or_pipeline: a model of transformers, also one with a PEFT adapter; a
            `SentenceTransformer` or `CrossEncoder`; a folder or hub name; or a pipeline.
        tokenizer: the tokenizer of a loaded model; the others have their own.
        task: a name in `captum_sig._names.TaskName` or one of transformers' pipelines, such as
            "ner"; None picks it.
        model_kwargs: for the `from_pretrained` of a folder or hub name, such as `dtype`,
            `device_map` or `revision`.
        **options: keywords of the explainer's class, such as `baseline`.

    Returns:
        the explainer.

    Raises:
        TypeError: if the model is not one of text, or not one for the task.
        ValueError: for an unknown task, a model whose task cannot be told, or arguments that do not
            go together; and as `from_pretrained` of the explainer.
    """
    source = getattr(model_or_path_or_pipeline, "_orig_mod", model_or_path_or_pipeline)
    if task is None and "forward" in options:
        task = "text-classification"  # only there it is a keyword
    chosen = task_of(source, **hub_options(model_kwargs)) if task is None else task_named(task)
    if options.get("stride") is not None and chosen != "text-classification":
        raise TypeError(f"stride is for text classification, and this is {chosen}: leave it out")
    module, name = EXPLAINERS[chosen]
    explainer_class = getattr(importlib.import_module(f"captum_sig.explainers.{module}"), name)
    if isinstance(source, (str, Path)):
        if tokenizer is not None:
            raise ValueError(
                f"tokenizer is for a loaded model, and {source} has its own: leave it out, or load "
                "the model with transformers"
            )
        return explainer_class.from_pretrained(source, model_kwargs=model_kwargs, **options)
    if model_kwargs:
        raise ValueError(
            "model_kwargs are for loading a folder or hub name, and the model is loaded: leave "
            "them out"
        )
    if not _has_parts(source):
        return explainer_class(source, tokenizer, **options)
    if chosen == "token-classification":
        options = {**_aggregation(source), **options}
    own = source.tokenizer if tokenizer is None else tokenizer
    return explainer_class(source.model, own, **options)


def task_named(name: str) -> TaskName:
    """Return the task of this name, which may be an alias.

    Raises:
        ValueError: if there is none.

    >>> task_named("ner"), task_named("translation_en_to_de")
    ('token-classification', 'text-generation')
    """
    known: dict[str, TaskName] = {task: task for task in EXPLAINERS}
    known |= ALIASES
    task = known.get("translation" if str(name).startswith("translation_") else name)
    if task is None:
        raise ValueError(unknown_name("task", name, known))
    return task


def task_of(source: Any, **where: Any) -> TaskName:
    """Return the task of a model, a folder or hub name, or a pipeline; see `explainer`.

    Args:
        source: what has a task.
        **where: options of the hub, see `captum_sig.explainers.loading.hub_options`.

    Raises:
        TypeError: if it is not a model of text.
        ValueError: if its task cannot be told.
    """
    if isinstance(source, (str, Path)):
        return _task_of_files(source, where)
    if isinstance(getattr(source, "task", None), str):  # a pipeline
        try:
            return task_named(source.task)
        except ValueError:
            raise TypeError(
                f"the task of the {type(source).__name__} is {source.task}, which is not "
                f"explained here; wanted a pipeline for one of {TASKS}"
            ) from None
    model = without_wrapper(source.model if _has_parts(source) else source)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"got {type(source).__name__}; wanted a model of transformers, a folder or hub name, "
            "or a pipeline"
        )
    return task_of_class(type(model).__name__, type(model))


def _task_of_files(name_or_path: str | Path, where: Mapping[str, Any]) -> TaskName:
    import transformers

    if is_saved_sentence_transformer(name_or_path, **where):
        return "sentence-similarity"
    names = architectures(name_or_path, **where)
    if not names:
        raise ValueError(
            f"{name_or_path} has no config.json that names the model's class in architectures: "
            f"{PASS_TASK}"
        )
    return task_of_class(names[0], getattr(transformers, names[0], None))


def task_of_class(name: str, model_class: Any = None) -> TaskName:
    """Return the task of a model of transformers by its class.

    Args:
        name: the name of the class.
        model_class: the class itself, which says what it reads; None if it is not there.

    Raises:
        TypeError: if it reads something else than text, or its task has no explainer.
        ValueError: if its task cannot be told.

    >>> task_of_class("RobertaForTokenClassification"), task_of_class("BertModel")
    ('token-classification', 'sentence-similarity')
    """
    read = getattr(model_class, "main_input_name", "input_ids")
    if read != "input_ids":
        raise TypeError(f"{name} reads {read}, not text: wanted a model that reads text alone")
    serves = serving(name)
    if serves:
        return TASK_OF_EXPLAINER[serves[0]]
    if serves is not None:
        raise TypeError(f"{name} is of a task that is not explained here; wanted one of {TASKS}")
    config = getattr(model_class, "config_class", None)
    parts = set(getattr(config, "sub_configs", ()))  # of models that read images, sounds, too
    if name.endswith(("Model", "SentenceTransformer")) and not parts - {"text_config"}:
        return "sentence-similarity"
    raise ValueError(f"the task of a {name} cannot be told from its name: {PASS_TASK}")


def _has_parts(source: Any) -> bool:
    """Whether a pipeline or `CrossEncoder` comes with both its model and its tokenizer."""
    has_model = isinstance(getattr(source, "model", None), nn.Module)
    return has_model and getattr(source, "tokenizer", None) is not None


def _aggregation(pipeline: Any) -> dict[str, str]:
    """Return how a pipeline joins tokens into entities, if it was told so."""
    chosen = getattr(pipeline, "_postprocess_params", {}).get("aggregation_strategy")
    return {} if chosen is None else {"aggregation_strategy": getattr(chosen, "value", chosen)}
