"""What `gpu` measures, section by section: cells that say what they cost before they are run."""

from __future__ import annotations

import functools
import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from captum.attr import FeatureAblation, IntegratedGradients, LLMAttribution, TextTokenInput
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from captum_sig import (
    LayerSequentialIntegratedGradients,
    TextClassificationExplainer,
    TextGenerationExplainer,
)
from captum_sig.attr.chunks import default_chunk
from captum_sig.corpus import CorpusExplainer
from tests.benchmarks.gpu_models import (
    FILLER,
    MASK,
    UNKNOWN,
    Shape,
    as_text,
    draw,
    number_tokenizer,
)
from tests.benchmarks.gpu_record import Row
from tests.benchmarks.measure import MIB, matrix_product_rate, peak_mib, seconds

N_STEPS, TOLERANCE = 50, 1e-2  # of gradients; a word takes about 15 of them to the tolerance
TARGET = 32  # tokens that a language model gives
REPEATS = 3
SHORT = 1.5  # seconds
BOTH_WAYS = 2  # a backward pass without gradients of weights is as much as a forward one
NOT_CUDNN = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
# Words in a phrase of SST-2's training set, at 2.5, 7.5, … 97.5 % of them.
PHRASES = (1, 2, 2, 3, 3, 3, 4, 5, 5, 6, 7, 8, 9, 11, 12, 14, 16, 19, 23, 31)


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    name: str
    flops: float  # of all its passes
    dtype: torch.dtype  # in which the most of them are computed
    run: Callable[[], Iterator[Row]]  # gives rows as they are known


@dataclass
class Sizes:
    """How large the work is: for a GPU, or so that a CPU does it in seconds."""

    classifiers: Sequence[Shape]
    generators: Sequence[Shape]
    matrices: tuple[int, ...] = (4096, 8192)
    lengths: tuple[int, ...] = (32, 128, 512)
    texts: tuple[int, ...] = (1, 64)
    integral_texts: tuple[int, ...] = (1, 8)
    prompts: tuple[int, ...] = (256, 1024, 4096)
    target: int = TARGET
    corpus: int = 20_000
    # Operations in a call that is measured: words are left out beyond them, and time is scaled.
    most: dict[torch.dtype, float] = field(
        default_factory=lambda: {torch.float32: 1e13, torch.bfloat16: 1e14}
    )


class Bench:
    """The device, the sizes, and the one model that is in memory."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        """No model is built yet."""
        self.device, self.sizes = device, sizes
        self.rates: dict[str, float] = {}  # operations a second of a large product, by dtype
        self._built: tuple[Any, nn.Module] | None = None

    def model(self, shape: Shape, dtype: torch.dtype) -> nn.Module:
        """Built anew if it is another than the last one, which goes first."""
        key = shape.name, dtype
        if self._built is None or self._built[0] != key:
            self._built = None
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._built = key, shape.build(self.device, dtype)
        return self._built[1]

    def share(self, flops: float, took: float, dtype: torch.dtype) -> float:
        """Of the rate of a large product in this dtype."""
        return flops / took / self.rates.get(name_of(dtype), math.nan)

    def took(self, call: Callable[[], Any]) -> float:
        """Seconds of a call."""
        return seconds(call, self.device)[0]


def name_of(dtype: torch.dtype) -> str:
    """As the rates are named."""
    return str(dtype).removeprefix("torch.")


def limits(bench: Bench) -> Iterator[Cell]:
    """The most that matrix products reach."""
    flops = 5 * sum(2 * size**3 for size in bench.sizes.matrices)
    for name, dtype, precision in (
        ("bfloat16", torch.bfloat16, "highest"),
        ("float32", torch.float32, "highest"),
        ("float32 as TF32", torch.float32, "high"),
    ):

        def run(name: str = name, dtype: Any = dtype, precision: str = precision) -> Iterator[Row]:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(precision)
            try:
                rate = matrix_product_rate(bench.device, dtype, bench.sizes.matrices)
            finally:
                torch.set_float32_matmul_precision(before)
            bench.rates[name] = rate
            yield {"dtype": name, "TFLOP/s": rate / 1e12}

        yield Cell(name, flops, dtype, run)


def words(bench: Bench) -> Iterator[Cell]:
    """Exact words beside Captum's FeatureAblation: most texts in bfloat16, some in float32."""
    sizes = bench.sizes
    for shape in sizes.classifiers:
        few = shape is sizes.classifiers[0]
        for dtype in (torch.bfloat16, torch.float32) if few else (torch.bfloat16,):
            lengths = sizes.lengths if dtype == torch.bfloat16 else sizes.lengths[:2]
            for length in lengths:
                for n_texts in sizes.texts if dtype == torch.bfloat16 else sizes.texts[-1:]:
                    yield _words_cell(bench, shape, dtype, length, n_texts)


def _words_cell(bench: Bench, shape: Shape, dtype: torch.dtype, length: int, n_texts: int) -> Cell:
    per_row = shape.flops(1, length)
    most = max(1, min(length - 2, int(bench.sizes.most[dtype] / per_row / n_texts)))
    every = -(-(length - 2) // most)
    flops = per_row * n_texts * (1 + len(range(1, length - 1, every)))

    def run() -> Iterator[Row]:
        yield _words_row(bench, shape, dtype, length, n_texts, every)

    name = f"{shape.name}, {name_of(dtype)}, {length} tokens, {n_texts} texts"
    return Cell(name, flops * (14 + 8 + 3 * REPEATS), dtype, run)


def _words_row(
    bench: Bench, shape: Shape, dtype: torch.dtype, length: int, n_texts: int, every: int
) -> Row:
    """Every k-th word moves: swept over rows in a pass, then both ways in turn."""
    model = bench.model(shape, dtype)
    ids = draw(n_texts, length, below=shape.config.vocab_size).to(bench.device)
    base, groups = ids.clone(), torch.zeros(1, length, dtype=torch.long, device=bench.device)
    base[:, 1:-1:every] = MASK
    moving = len(range(1, length - 1, every))
    groups[0, 1:-1:every] = torch.arange(1, moving + 1, device=bench.device)

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids).logits

    sig = LayerSequentialIntegratedGradients(logits, model.get_input_embeddings())
    ablation = FeatureAblation(logits)

    def ours(rows: int) -> Tensor:
        return sig.attribute_words(ids, base, target=1, internal_batch_size=rows)

    def theirs(at_once: int) -> Tensor:
        return ablation.attribute(
            ids, base, target=1, feature_mask=groups, perturbations_per_eval=at_once
        )

    with torch.no_grad():
        today = default_chunk((model.get_input_embeddings()(ids),))
    swept = _swept(lambda rows: bench.took(lambda: ours(rows)), _around(today, n_texts * moving))
    at_once = sorted({max(1, rows // n_texts) for rows in swept})
    swept_theirs = _swept(lambda n: bench.took(lambda: theirs(n)), at_once[-4:])
    best, best_of_theirs = (min(times, key=times.__getitem__) for times in (swept, swept_theirs))
    took = _in_turn(
        bench,
        {"today": lambda: ours(today), "best": lambda: ours(best),
         "ablation": lambda: theirs(best_of_theirs)},
    )  # fmt: skip
    flops = shape.flops(n_texts * (moving + 1), length)
    return {
        "model": shape.name, "dtype": name_of(dtype), "tokens": length, "texts": n_texts,
        "words measured": moving,
        "texts/s": n_texts / took["best"] * (moving + 1) / (length - 1),  # of all words
        "share of limit": bench.share(flops, took["best"], dtype),
        "rows today": today, "rows best": best, "today takes": took["today"] / took["best"],
        "FeatureAblation takes": took["ablation"] / took["best"],
        "its perturbations_per_eval": best_of_theirs,
        "bytes a row": length * shape.config.hidden_size * dtype.itemsize,
        "seconds by rows": swept,
    }  # fmt: skip


def _in_turn(bench: Bench, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each, one after the other and again."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            times[name].append(bench.took(call))
    return {name: statistics.median(took) for name, took in times.items()}


def _around(today: int, most: int) -> list[int]:
    """Rows in a pass to try: those of today, and from 1/64 to 16 times as many."""
    today = min(today, most)
    exponent = round(math.log2(today))
    powers = range(max(0, exponent - 6), exponent + 5, 2)
    return sorted({today, *(min(most, 2**power) for power in powers)})


def _swept(measure: Callable[[int], float], candidates: Sequence[int]) -> dict[int, float]:
    """Seconds by rows in a pass, without those that do not fit.

    All are measured in turn, and what is short once more: first calls pay for kernels and plans.
    """
    found: dict[int, float] = {}
    for _ in range(2):
        for number in candidates:
            if found.get(number, 0) < SHORT:
                try:
                    found[number] = min(measure(number), found.get(number, math.inf))
                except torch.cuda.OutOfMemoryError:
                    torch.cuda.empty_cache()
    return found


def integrals(bench: Bench) -> Iterator[Cell]:
    """Gradients in float32: to a tolerance, at fixed steps, and as others compute them."""
    shape, length = bench.sizes.classifiers[0], bench.sizes.lengths[0]
    for n_texts in bench.sizes.integral_texts:
        gradients = n_texts * (length - 2) * (15 + N_STEPS) + n_texts * length * N_STEPS

        def run(n_texts: int = n_texts) -> Iterator[Row]:
            model = bench.model(shape, torch.float32)
            ids = draw(n_texts, length, below=shape.config.vocab_size).to(bench.device)
            base = ids.clone()
            base[:, 1:-1] = MASK
            embedding = model.get_input_embeddings()
            sig = LayerSequentialIntegratedGradients(lambda i: model(input_ids=i).logits, embedding)
            ways = {
                f"tolerance={TOLERANCE:g}": lambda: sig.integrate(
                    ids, base, target=1, tolerance=TOLERANCE
                ),
                f"n_steps={N_STEPS}": lambda: sig.integrate(ids, base, target=1, n_steps=N_STEPS),
                "plain loop": lambda: plain_loop(model, embedding(ids), embedding(base)),
            }
            for name, call in ways.items():
                if n_texts == bench.sizes.integral_texts[0]:
                    call()  # a first call pays for what later ones do not
                took, found = seconds(call, bench.device)
                n = n_texts * length * N_STEPS
                if name != "plain loop":
                    n = int(found.n_evaluations.sum())
                flops = BOTH_WAYS * shape.flops(n, length)
                yield {
                    "model": shape.name, "tokens": length, "texts": n_texts, "method": name,
                    "seconds a text": took / n_texts,
                    "gradients a word": n / n_texts / (length - 2),
                    "share of limit": bench.share(flops, took, torch.float32),
                }  # fmt: skip

        flops = BOTH_WAYS * shape.flops(gradients, length) * (2 if n_texts == 1 else 1)
        yield Cell(f"{shape.name}, {n_texts} texts", flops, torch.float32, run)


def plain_loop(model: nn.Module, x: Tensor, b: Tensor) -> Tensor:
    """SIG as the public implementations have it: Captum's IG from x̄ʷ to x, for every position."""
    ig = IntegratedGradients(lambda rows: model(inputs_embeds=rows).logits)
    found = torch.zeros_like(x)
    for position in range(x.shape[1]):
        x_bar = x.detach().clone()
        x_bar[:, position] = b[:, position]
        attributions = ig.attribute(x.detach(), x_bar, target=1, n_steps=N_STEPS)
        found[:, position] = attributions[:, position]
    return found


def generation(bench: Bench) -> Iterator[Cell]:
    """The whole matrix of prompt by target tokens, by rows in a pass, with the prefix cache."""
    for shape in bench.sizes.generators:
        for length in bench.sizes.prompts:
            yield _generation_cell(bench, shape, length)


def _generation_cell(bench: Bench, shape: Shape, length: int) -> Cell:
    n_target = bench.sizes.target
    per_row = shape.flops(1, length + n_target - 1, n_target)
    moving = max(4, min(length, int(bench.sizes.most[torch.bfloat16] / per_row)))
    every = -(-length // moving)
    rows = 1 + len(range(0, length, every))
    by_captum = length <= bench.sizes.prompts[1]

    def run() -> Iterator[Row]:
        yield _generation_row(bench, shape, length, every, by_captum)

    # 18 in the sweep, four more with the cache, one without; half of a row is shared on average
    flops = per_row * rows * (0.5 * 22 + 1 + (1 if by_captum else 0))
    return Cell(f"{shape.name}, prompt of {length}", flops, torch.bfloat16, run)


def _generation_row(bench: Bench, shape: Shape, length: int, every: int, by_captum: bool) -> Row:
    """Every k-th token of the prompt moves; the others are held as special tokens are."""
    model, n_target = bench.model(shape, torch.bfloat16), bench.sizes.target
    tokenizer = number_tokenizer(shape.config.vocab_size)
    numbers = draw(length + n_target, below=shape.config.vocab_size)
    prompt, target = torch.full((length,), FILLER), numbers[length:]
    prompt[::every] = numbers[:length:every]
    moving = len(range(0, length, every))
    explain = TextGenerationExplainer(model, tokenizer, baseline="unk", level="token")
    call = functools.partial(explain, as_text(prompt), target, skip_tokens=[FILLER])
    held = torch.cuda.memory_allocated() / MIB if bench.device.type == "cuda" else None
    today = min(_rows_today(model, call), moving)
    swept = _swept(
        lambda rows: bench.took(lambda: call(internal_batch_size=rows)),
        sorted({today, *(2**e for e in range(2, 9) if 2**e <= max(4, moving))},
               key=lambda rows: abs(math.log(rows / today))),
    )  # fmt: skip
    best = min(swept, key=swept.__getitem__)
    with_cache = functools.partial(call, internal_batch_size=best)
    took, on = seconds(with_cache, bench.device)
    without, off = seconds(functools.partial(with_cache, use_cache=False), bench.device)
    with sdpa_kernel(NOT_CUDNN):
        without_cudnn = min(bench.took(with_cache), bench.took(with_cache))
    of_row = shape.flops(1, length + n_target - 1, n_target)
    row = {
        "model": shape.name, "prompt": length, "target": n_target, "words measured": moving,
        "s for the matrix": took * (length + 1) / (moving + 1),
        "share of limit": bench.share(of_row * (moving + 1) / 2, took, torch.bfloat16),
        "without cache takes": without / took,
        "without cuDNN's attention takes": without_cudnn / took,
        "rows today": today, "rows best": best, "today takes": swept[today] / swept[best],
        "cache used": on.without_cache is None,
        "gap, nats": float((on.matrix - off.matrix).abs().max()),
        "peak MiB": peak_mib(call, bench.device), "model MiB": held,
        "logit bytes a row": n_target * shape.config.vocab_size * 4,
        "seconds by rows": swept,
    }  # fmt: skip
    if by_captum:
        captum = functools.partial(_by_captum, model, tokenizer, prompt, target.to(bench.device))
        row["FeatureAblation takes"] = bench.took(captum) / took
    return row


def _rows_today(model: nn.Module, call: Callable[..., Any]) -> int:
    """How many rows a call takes in a pass by itself: what the model is given, looked at once."""
    most = 0

    def look(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal most
        most = max(most, len(kwargs["input_ids"]))

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        call()
    finally:
        handle.remove()
    return most


def _by_captum(model: nn.Module, tokenizer: Any, prompt: Tensor, target: Tensor) -> Tensor:
    """Captum's matrix of the same words, the target in one pass."""
    inputs = TextTokenInput(as_text(prompt), tokenizer, baselines=UNKNOWN, skip_tokens=[FILLER])
    return LLMAttribution(FeatureAblation(model), tokenizer).attribute(
        inputs, target=target, use_cached_outputs=False, forward_in_tokens=False
    ).token_attr  # fmt: skip


def corpus(bench: Bench) -> Iterator[Cell]:
    """Short texts in bfloat16 through `CorpusExplainer`: by batch size, then many at the best."""
    classifiers, n_texts = bench.sizes.classifiers, bench.sizes.corpus
    for shape in (classifiers[0], *(other for other in classifiers[1:] if other.folder)):
        flops = _phrase_flops(shape, n_texts + 8 * (n_texts // 10))
        run = functools.partial(_corpus_rows, bench, shape, n_texts)
        yield Cell(f"{shape.name}, {n_texts} texts", flops, torch.bfloat16, run)


def _phrase_flops(shape: Shape, n_texts: int) -> float:
    return n_texts * statistics.mean(shape.flops(n + 1, n) for n in PHRASES)


def _corpus_rows(bench: Bench, shape: Shape, n_texts: int) -> Iterator[Row]:
    tokenizer = number_tokenizer(shape.config.vocab_size)
    explain = TextClassificationExplainer(bench.model(shape, torch.bfloat16), tokenizer)
    numbers = draw(n_texts, max(PHRASES), below=shape.config.vocab_size)
    lengths = [PHRASES[i % len(PHRASES)] for i in range(n_texts)]
    texts = [as_text(row[:length]) for row, length in zip(numbers, lengths, strict=True)]

    def took(batch_size: int, few: int) -> float:
        explainer = CorpusExplainer(explain, batch_size=batch_size)
        return bench.took(lambda: explainer.columns(texts[:few]))

    few = n_texts // 10
    by_size = _swept(lambda batch_size: took(batch_size, few), (8, 32, 128, 512))
    rates = {size: few / seconds for size, seconds in by_size.items()}
    best = max(rates, key=rates.__getitem__)
    yield {
        "model": shape.name, "texts": few, "batch size": best, "texts/s": rates[best],
        "texts/s by batch size": rates,
    }  # fmt: skip
    seconds_in_all = took(best, n_texts)
    yield {
        "model": shape.name, "texts": n_texts, "batch size": best,
        "texts/s": n_texts / seconds_in_all,
        "row-tokens/s": sum((n + 1) * n for n in lengths) / seconds_in_all,
        "share of limit": bench.share(_phrase_flops(shape, n_texts), seconds_in_all,
                                      torch.bfloat16),
    }  # fmt: skip
