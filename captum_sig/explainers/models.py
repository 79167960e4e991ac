"""Models and tokenizers of transformers: how they are loaded, and what their modules reveal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._files import check_model_path
from captum_sig.attr.function import with_shared_weights

SAFE = {"trust_remote_code": False, "use_safetensors": True}  # of models that are loaded here
CLASSIFICATION, GENERATION = "TextClassificationExplainer", "TextGenerationExplainer"
ZERO_SHOT, TOKENS = "ZeroShotClassificationExplainer", "TokenClassificationExplainer"
ANSWERS, FILL_MASK = "QuestionAnsweringExplainer", "FillMaskExplainer"
SIMILARITY = "SimilarityExplainer"
OWN_MODULES = "LayerSequentialIntegratedGradients, with a function that returns (B,) or (B, C)"
SERVED: dict[str, tuple[str, ...]] = {  # by the ends of transformers' class names
    "ForSequenceClassification": (CLASSIFICATION, ZERO_SHOT),
    "ForCausalLM": (GENERATION,),
    "LMHeadModel": (GENERATION,),
    "ForConditionalGeneration": (GENERATION,),
    "ForMaskedLM": (FILL_MASK,),
    "ForTokenClassification": (TOKENS,),
    "ForQuestionAnswering": (ANSWERS,),
    "ForMultipleChoice": (),
    "SentenceTransformer": (SIMILARITY,),
}
MODULES_FILE = "modules.json"  # in the folder of a model of sentence-transformers
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def pretrained(
    auto_class: Any,
    name_or_path: str | Path,
    purpose: str,
    *,
    unread: str | None = None,
    **options: Any,
) -> Any:
    """Load a model in eval mode, with all its weights from the checkpoint.

    Only safetensors are read, and no Python code that comes with the model is run.

    Args:
        auto_class: one of transformers' auto classes of models.
        name_or_path: as in transformers.
        purpose: what the model must have been trained for.
        unread: a module that the task does not read, whose weights may be missing.
        **options: as in transformers, such as `dtype`.

    Raises:
        ValueError: if weights are missing, such as those of an untrained head, are pickled, or if
            the model comes with code of its own.
    """
    for option, value in SAFE.items():
        if options.get(option, value) is not value:
            raise ValueError(
                f"{option}={options[option]!r} is not for models that are loaded here; wanted "
                f"{value}: load the model with transformers, and pass it with its tokenizer"
            )
    with _no_code(name_or_path):
        _check_weights(name_or_path, options)
        model, info = auto_class.from_pretrained(
            name_or_path, **{**options, **SAFE}, output_loading_info=True
        )
    missing = sorted(key for key in info["missing_keys"] if key.split(".")[0] != unread)
    if missing:
        raise ValueError(
            f"{name_or_path} has no weights for {', '.join(missing)}; "
            f"wanted a model that was trained {purpose}"
        )
    return model.eval()


def pretrained_masked_lm(name_or_path: str | Path) -> Any:
    """Load a masked language model, such as baseline "blurred" needs; as `pretrained`."""
    from transformers import AutoModelForMaskedLM

    return pretrained(AutoModelForMaskedLM, name_or_path, "to fill in masked words")


def pretrained_language_model(name_or_path: str | Path, **options: Any) -> Any:
    """Load a model that generates text, with an encoder or without; as `pretrained`."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    has_encoder = pretrained_config(name_or_path).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if has_encoder else AutoModelForCausalLM
    return pretrained(auto_class, name_or_path, "to generate text", **options)


def pretrained_encoder(name_or_path: str | Path, **options: Any) -> Any:
    """Load an encoder without a head, whose pooler is not read; as `pretrained`."""
    from transformers import AutoModel

    purpose = "to encode text"
    return pretrained(AutoModel, name_or_path, purpose, unread="pooler", **options)


def is_saved_sentence_transformer(name_or_path: str | Path) -> bool:
    """Whether a folder or hub name holds a model of sentence-transformers."""
    check_model_path(name_or_path)
    return _found(name_or_path, MODULES_FILE, {}) is not None


def pretrained_sentence_transformer(name_or_path: str | Path, **model_kwargs: Any) -> Any:
    """Load a model of sentence-transformers; safetensors only, no code of its own.

    Args:
        name_or_path: a folder or hub name.
        **model_kwargs: as in transformers, such as `dtype`.

    Raises:
        ImportError: if sentence-transformers is not installed.
        ValueError: if weights are pickled, or a module is of another library.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            f"{name_or_path} is a model of sentence-transformers, which is not installed: "
            "pip install sentence-transformers"
        ) from error
    for module in _modules_of(name_or_path):
        if not module["type"].startswith("sentence_transformers."):
            raise ValueError(
                f"{name_or_path} has a module {module['type']}, which is not one of "
                "sentence-transformers and is not run here: if you trust it, load the model with "
                "SentenceTransformer, and pass it"
            )
        _check_module(name_or_path, module.get("path", ""))
    with _no_code(name_or_path):
        return SentenceTransformer(
            str(name_or_path),
            trust_remote_code=SAFE["trust_remote_code"],
            model_kwargs={**model_kwargs, "use_safetensors": SAFE["use_safetensors"]},
        ).eval()


def _modules_of(name_or_path: str | Path) -> list[dict[str, str]]:
    path = _found(name_or_path, MODULES_FILE, {})
    modules = json.loads(Path(path or "").read_text("utf-8"))
    if not isinstance(modules, list) or not all("type" in module for module in modules):
        raise ValueError(f"{MODULES_FILE} of {name_or_path} does not list modules: save it anew")
    return modules


def _check_module(name_or_path: str | Path, folder: str) -> None:
    """Refuse a module's weights that sentence-transformers would unpickle."""
    where = {"subfolder": folder} if folder else {}
    _check_weights(name_or_path, where)
    pickled = _found(name_or_path, "pytorch_model.bin", where)
    if pickled is not None and _found(name_or_path, "model.safetensors", where) is None:
        raise ValueError(
            f"{name_or_path} has weights in {folder or '.'}/pytorch_model.bin, which is a pickle: "
            "save the model anew with sentence-transformers (save_pretrained)"
        )


def pretrained_config(name_or_path: str | Path) -> Any:
    """Load a model's config, without code of its own."""
    from transformers import AutoConfig

    with _no_code(name_or_path):
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)


def pretrained_tokenizer(name_or_path: str | Path) -> Any:
    """Load a tokenizer; transformers makes up an empty one where there are no files.

    Raises:
        ValueError: if it knows only special tokens, or comes with code of its own.
    """
    from transformers import AutoTokenizer

    with _no_code(name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{name_or_path} has no tokenizer: save it beside the model")
    return tokenizer


@contextmanager
def _no_code(name_or_path: str | Path) -> Iterator[None]:
    """Refuse a path to nothing, and say what to do about a model with code, which does not run."""
    check_model_path(name_or_path)
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{name_or_path} comes with Python code of its own, which is not run here: if you "
            "trust it, load the model with transformers, and pass it with its tokenizer"
        ) from error


def _check_weights(name_or_path: str | Path, options: Mapping[str, Any]) -> None:
    """Refuse weights that transformers would unpickle in spite of `use_safetensors`.

    An index or the config may name them, and an adapter may have no others.
    """
    where = {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}
    config = _json(name_or_path, "config.json", where)
    adapter = _json(name_or_path, "adapter_config.json", where)
    variant = options.get("variant")
    default = (
        f"model.safetensors.index.{variant}.json" if variant else "model.safetensors.index.json"
    )
    named = str(config.get("transformers_weights") or default)
    weights = [named]
    if named.endswith(".json"):
        weights = list(_json(name_or_path, named, where).get("weight_map", {}).values())
    if adapter and _found(name_or_path, "adapter_model.safetensors", where) is None:
        weights.append("adapter_model.bin")
    for file_name in sorted(set(weights)):
        if not file_name.endswith(".safetensors"):
            raise ValueError(
                f"{name_or_path} has weights in {file_name}, which is not a safetensors file and "
                "may be a pickle: save the model anew with transformers (save_pretrained)"
            )
    if adapter and not config:
        _check_weights(adapter.get("base_model_name_or_path", ""), {})


def _json(name_or_path: str | Path, file_name: str, where: Mapping[str, Any]) -> dict[str, Any]:
    """Read a file of a model; {} if there is none.

    Raises:
        OSError: if it does not hold an object of JSON.
    """
    path = _found(name_or_path, file_name, where)
    if path is None:
        return {}
    try:
        return dict(json.loads(Path(path).read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise OSError(f"{path} is not a valid JSON file: {error}") from error


def _found(name_or_path: str | Path, file_name: str, where: Mapping[str, Any]) -> str | None:
    from transformers.utils import cached_file

    try:
        return cached_file(name_or_path, file_name, **where)
    except OSError:
        return None


def check_model(model: Any, tokenizer: Any, explainer: str, wanted: str) -> None:
    """Check that a model and a tokenizer are what an explainer takes.

    Args:
        model: what was passed as the model.
        tokenizer: what was passed as its tokenizer.
        explainer: the name of the explainer's class.
        wanted: the models that it explains.

    Raises:
        TypeError: if they are not; it says what serves.
    """
    advice = _advice(model, explainer)
    if advice is not None:
        raise TypeError(f"{explainer} explains {wanted}, got {type(model).__name__}: {advice}")
    if not callable(tokenizer) or not hasattr(tokenizer, "model_max_length"):
        raise TypeError(
            f"tokenizer is {type(tokenizer).__name__}; wanted the model's tokenizer: load it with "
            "transformers.AutoTokenizer"
        )


def check_own_module(model: Any, explainer: str) -> None:
    """Check that what comes with a function of the user's is a module; raise TypeError if not."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is {type(model).__name__}; with forward, {explainer} wants the module that it "
            "runs"
        )


def _advice(model: Any, explainer: str) -> str | None:
    """Say what to do with a model that an explainer does not take; None for one that it takes."""
    name = type(model).__name__
    if isinstance(model, (str, Path)):
        return f"use {explainer}.from_pretrained({str(model)!r})"
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "pass the model inside, model.module"
    if isinstance(getattr(model, "model", None), nn.Module) and hasattr(model, "tokenizer"):
        return "pass its parts, pipeline.model and pipeline.tokenizer"
    if not isinstance(model, nn.Module):
        return "pass a model that transformers loaded"
    if not hasattr(model, "config"):
        own = "pass forward, a function that returns its logits, and labels, or "
        own = own if explainer == CLASSIFICATION else ""
        return f"for a module of your own {own}use {OWN_MODULES}"
    if getattr(model.config, "model_type", None) == "xlnet":
        return "it puts positions before texts, (L, B, D), where words are moved in (B, L, D)"
    for head, serves in SERVED.items():
        if name.endswith(head):
            return None if explainer in serves else f"use {' or '.join(serves) or OWN_MODULES}"
    if name.endswith("Model") and explainer not in (GENERATION, SIMILARITY):
        return (
            "it has no head for the task: load it with the task's AutoModel class, such as "
            f"AutoModelForSequenceClassification, or use {SIMILARITY}"
        )
    return None


def classifier_logits(model: nn.Module, output: Any) -> Tensor:
    """Return a classifier's logits from its output, (B, C).

    Raises:
        TypeError: if it has none, or others.
    """
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor) and logits.dim() == 2:
        return logits
    got = "no logits" if logits is None else f"logits of shape {tuple(logits.shape)}"
    raise TypeError(
        f"{type(model).__name__} returns {got}; {CLASSIFICATION} wants (texts, labels): use "
        f"{OWN_MODULES}"
    )


def uncompiled(model: Any, layer: nn.Module | None) -> tuple[Any, nn.Module | None]:
    """Undo torch.compile and model.compile(), after which a model does not see hooks.

    Args:
        model: a model; its weights stay its own.
        layer: a layer of it, if one is chosen.

    Returns:
        the model and the layer, or those of a copy that shares their weights.
    """
    model = getattr(model, "_orig_mod", model)
    if all(module._compiled_call_impl is None for module in model.modules()):
        return model, layer
    names = {module: name for name, module in model.named_modules()}
    model = with_shared_weights(model)
    return model, None if layer is None else model.get_submodule(names[layer])


def weights_digest(model: nn.Module) -> str:
    """Hash all parameters and buffers with their names: 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def word_embedding(model: nn.Module) -> nn.Module:
    """Find the module that turns the input's token ids into vectors in the forward pass.

    It is `model.get_input_embeddings()`. Where several modules are tied to one weight (T5, BART),
    that one may never run; then it is the encoder's.

    Raises:
        ValueError: if the model does not name its word embedding.
    """
    try:
        named = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"{type(model).__name__} does not name its word embedding: pass layer"
        ) from error
    tied = [
        module
        for name, module in model.named_modules()
        if isinstance(module, type(named))
        and module.weight is named.weight
        and "decoder" not in name.split(".")
    ]
    return tied[-1] if tied else named  # the encoder's own follows the one that all share


def is_bidirectional(model: nn.Module) -> bool:
    """Whether a language model without an encoder attends to later tokens, such as the target's."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return any(getattr(module, "is_causal", True) is False for module in decoder.modules())
