"""Load models and tokenizers of transformers: safetensors only, and no code of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captum_sig._files import check_model_path
from captum_sig.explainers import adapters
from captum_sig.explainers.models import OWN_MODULES, serving

SAFE = {"trust_remote_code": False, "use_safetensors": True}  # of models that are loaded here
MODULES_FILE = "modules.json"  # in the folder of a model of sentence-transformers
OF_ONE_REPOSITORY = ("revision", "subfolder")  # on the hub
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", *OF_ONE_REPOSITORY)


def pretrained(
    auto_class: Any,
    name_or_path: str | Path,
    purpose: str,
    *,
    unread: str | None = None,
    **options: Any,
) -> Any:
    """Load a model in eval mode, with all its weights from the checkpoint.

    Only safetensors are read, and no Python code that comes with the model is run. An adapter of
    PEFT is loaded with its base model, whose path passes the same checks; weights that the base
    lacks, such as those of a head, may come with the adapter.

    Args:
        auto_class: one of transformers' auto classes of models.
        name_or_path: as in transformers.
        purpose: what the model must have been trained for.
        unread: a module that the task does not read, whose weights may be missing.
        **options: as in transformers, such as `dtype`; for an adapter, those of the base model,
            except for where the adapter is found on the hub.

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
        adapter = _adapter_config(name_or_path, hub_options(options))
    if adapter:
        model, missing = _with_adapter(auto_class, name_or_path, adapter, options)
    else:
        model, missing = _loaded(auto_class, name_or_path, options)
    missing = {name for name in missing if name.split(".")[0] != unread}
    if missing:
        raise ValueError(
            f"{name_or_path} has no weights for {', '.join(sorted(missing))}; wanted a model that "
            f"was trained {purpose}"
        )
    return model.eval()


def _loaded(
    auto_class: Any, name_or_path: str | Path, options: Mapping[str, Any]
) -> tuple[Any, set[str]]:
    """Load a model, and return the names of the weights that it lacks, too."""
    with _no_code(name_or_path):
        model, info = auto_class.from_pretrained(
            name_or_path, **{**options, **SAFE}, output_loading_info=True
        )
    return model, set(info["missing_keys"])


def _with_adapter(
    auto_class: Any, name_or_path: str | Path, adapter: Mapping[str, Any], options: dict[str, Any]
) -> tuple[Any, set[str]]:
    """Load an adapter with its base model, as `_loaded` does a model."""
    where = hub_options(options)
    base, where_base = base_of(name_or_path, adapter)
    base_options = {name: options[name] for name in options if name not in OF_ONE_REPOSITORY}
    base_options |= where_base
    _check_weights(base, base_options)
    if _found(name_or_path, "config.json", where):  # names the labels
        base_options.setdefault("config", pretrained_config(name_or_path, **where))
    model, missing = _loaded(auto_class, base, base_options)
    file = _found(name_or_path, adapters.WEIGHTS, where)
    n_labels = None if file is None else adapters.n_labels(model, file)
    if n_labels is not None and not {"num_labels", "id2label", "config"} & set(base_options):
        model, missing = _loaded(auto_class, base, {**base_options, "num_labels": n_labels})
    model, trained = adapters.with_adapter(model, name_or_path, where)
    return model, missing - trained


def base_of(name_or_path: str | Path, adapter: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the base model of an adapter that can be read here, and where it is on the hub.

    Raises:
        ValueError: if it cannot be read, lies in the same folder as a whole model, or its base is
            an adapter too, or not there.
    """
    adapters.check_adapter(name_or_path, adapter)
    for whole in ("model.safetensors", "model.safetensors.index.json"):
        if Path(name_or_path, whole).exists():
            raise ValueError(
                f"{name_or_path} holds both a model, {whole}, and an adapter: move the files of "
                "the adapter (adapter_…) to a folder of their own"
            )
    base = adapter["base_model_name_or_path"]
    where = {"revision": adapter["revision"]} if adapter.get("revision") else {}
    check_model_path(base)
    if _adapter_config(base, where):
        raise ValueError(
            f"{name_or_path} is an adapter of {base}, which is an adapter too: {adapters.MERGE}"
        )
    return base, where


def hub_options(model_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return those options of a model that say where on the hub all its files are."""
    given = model_kwargs or {}
    return {name: given[name] for name in HUB_OPTIONS if given.get(name) is not None}


def pretrained_masked_lm(name_or_path: str | Path) -> Any:
    """Load a masked language model, such as baseline "blurred" needs; as `pretrained`."""
    from transformers import AutoModelForMaskedLM

    return pretrained(AutoModelForMaskedLM, name_or_path, "to fill in masked words")


def pretrained_language_model(name_or_path: str | Path, **options: Any) -> Any:
    """Load a model that generates text, with an encoder or without; as `pretrained`."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    has_encoder = pretrained_config(name_or_path, **hub_options(options)).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if has_encoder else AutoModelForCausalLM
    return pretrained(auto_class, name_or_path, "to generate text", **options)


def pretrained_encoder(name_or_path: str | Path, **options: Any) -> Any:
    """Load an encoder without a head, whose pooler is not read; as `pretrained`."""
    import transformers

    named = pretrained_config(name_or_path, **hub_options(options)).architectures or [""]
    name = named[0] if named[0].endswith("EncoderModel") else "AutoModel"  # T5's has no decoder
    purpose = "to encode text"
    return pretrained(
        getattr(transformers, name), name_or_path, purpose, unread="pooler", **options
    )


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


def pretrained_config(name_or_path: str | Path, **where: Any) -> Any:
    """Load the config of a model, or that of an adapter's base, without code of its own.

    Args:
        name_or_path: as in transformers.
        **where: as `hub_options` returns them.
    """
    from transformers import AutoConfig

    with _no_code(name_or_path):
        if not _found(name_or_path, "config.json", where) and (
            adapter := _adapter_config(name_or_path, where)
        ):
            base, where_base = base_of(name_or_path, adapter)
            return pretrained_config(base, **where_base)
        return AutoConfig.from_pretrained(name_or_path, **where, trust_remote_code=False)


def pretrained_tokenizer(name_or_path: str | Path, **where: Any) -> Any:
    """Load a tokenizer; transformers makes up an empty one where there are no files.

    That of an adapter may lie beside its base model.

    Args:
        name_or_path: as in transformers.
        **where: as `hub_options` returns them.

    Raises:
        ValueError: if it knows only special tokens, or comes with code of its own.
    """
    from transformers import AutoTokenizer

    adapter = _adapter_config(name_or_path, where)
    if adapter and not _found(name_or_path, "tokenizer_config.json", where):
        base, where_base = base_of(name_or_path, adapter)
        return pretrained_tokenizer(base, **where_base)
    with _no_code(name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **where, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{name_or_path} has no tokenizer: save it beside the model")
    return tokenizer


def architectures(name_or_path: str | Path, **where: Any) -> list[str]:
    """Return the names of the classes that a model's config, or that of an adapter's base, names.

    Args:
        name_or_path: as in transformers.
        **where: as `hub_options` returns them.
    """
    check_model_path(name_or_path)
    config = _json(name_or_path, "config.json", where)
    adapter = {} if config else _adapter_config(name_or_path, where)
    if adapter:
        base, where_base = base_of(name_or_path, adapter)
        return architectures(base, **where_base)
    return list(map(str, config.get("architectures") or ()))


def is_saved_sentence_transformer(name_or_path: str | Path, **where: Any) -> bool:
    """Whether a folder or hub name holds a model of sentence-transformers."""
    check_model_path(name_or_path)
    return _found(name_or_path, MODULES_FILE, where) is not None


def check_architecture(name_or_path: str | Path, explainer: str, **where: Any) -> None:
    """Check that a model was not trained for the task of another explainer.

    The heads of two tasks may have the same names, so that one would load the other's weights.

    Args:
        name_or_path: as in transformers.
        explainer: the name of the explainer's class.
        **where: as `hub_options` returns them.

    Raises:
        ValueError: if the config names a model that another explainer serves.
    """
    for name in architectures(name_or_path, **where):
        serves = serving(name)
        if serves is not None and explainer not in serves:
            raise ValueError(
                f"{name_or_path} holds a {name}, which {explainer} does not explain: use "
                f"{' or '.join(serves) or OWN_MODULES}"
            )


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
    where = hub_options(options)
    config = _json(name_or_path, "config.json", where)
    adapter = _adapter_config(name_or_path, where)
    variant = options.get("variant")
    default = (
        f"model.safetensors.index.{variant}.json" if variant else "model.safetensors.index.json"
    )
    named = str(config.get("transformers_weights") or default)
    weights = [named]
    if named.endswith(".json"):
        weights = list(_json(name_or_path, named, where).get("weight_map", {}).values())
    if adapter and _found(name_or_path, adapters.WEIGHTS, where) is None:
        weights.append("adapter_model.bin")
    for file_name in sorted(set(weights)):
        if not file_name.endswith(".safetensors"):
            raise ValueError(
                f"{name_or_path} has weights in {file_name}, which is not a safetensors file and "
                "may be a pickle: save the model anew with transformers (save_pretrained)"
            )


def _adapter_config(name_or_path: str | Path, where: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config of an adapter of PEFT; {} if there is none."""
    return _json(name_or_path, "adapter_config.json", where)


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
