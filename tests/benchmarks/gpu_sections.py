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

from captum_sig import (
    LayerSequentialIntegratedGradients,
    TextClassificationExplainer,
    TextGenerationExplainer,
)
from captum_sig.chunks import default_chunk
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
        default_factory=lambda: {torch.float32: 1e13, torch.bfloat16: 1.5e14}
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


def _words_cell(
    bench: Bench, shape: Shape, dtype: torch.dtype, length: int, n_texts: int
) -> Cell:
    per_row = shape.flops(1, length)
    moving = int(bench.sizes.most[dtype] / per_row / n_texts)
    moving = max(1, min(length - 2, moving))
    every = -(-(length - 2) // moving)
    moving = len(range(1, length - 1, every))
    flops = per_row * n_texts * (moving + 1)

    def run() -> Iterator[Row]:
        model = bench.model(shape, dtype)
        ids = draw(n_texts, length, below=shape.config.vocab_size).to(bench.device)
        base = ids.clone()
        base[:, 1:-1:every] = MASK
        groups = torch.zeros(1, length, dtype=torch.long, device=bench.device)
        groups[0, 1:-1:every] = torch.arange(1, moving + 1, device=bench.device)

        def logits(ids: Tensor) -> Tensor:
            return model(input_ids=ids).logits

        sig = LayerSequentialIntegratedGradients(logits, model.get_input_embeddings())
        ours = functools.partial(sig.attribute_words, ids, base, target=1)
        theirs = functools.partial(
            FeatureAblation(logits).attribute, ids, base, target=1, feature_mask=groups
        )
        with torch.no_grad():
            today = default_chunk((model.get_input_embeddings()(ids),))
        swept = _swept(
            lambda rows: bench.took(lambda: ours(internal_batch_size=rows)), today,
            n_texts * moving,
        )  # fmt: skip
        at_once = sorted({max(1, rows // n_texts) for rows in swept if swept[rows] < math.inf})
        ablation = _swept_over(
            lambda n: bench.took(lambda: theirs(perturbations_per_eval=n)), at_once[-4:]
        )
        best, best_of_theirs = (min(s, key=s.__getitem__) for s in (swept, ablation))
        calls = {
            "today": lambda: ours(internal_batch_size=today),
            "best": lambda: ours(internal_batch_size=best),
            "ablation": lambda: theirs(perturbations_per_eval=best_of_theirs),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(REPEATS):
            for name, call in calls.items():
                times[name].append(bench.took(call))
        median = {name: statistics.median(took) for name, took in times.items()}
        whole = (length - 1) / (moving + 1)  # all words, and the input itself
        yield {
            "model": shape.name, "dtype": name_of(dtype), "tokens": length, "texts": n_texts,
            "words measured": moving,
            "texts/s": n_texts / whole / median["best"],
            "share of limit": bench.share(flops, median["best"], dtype),
            "rows today": today, "rows best": best,
            "today takes": median["today"] / median["best"],
            "FeatureAblation takes": median["ablation"] / median["best"],
            "its perturbations_per_eval": best_of_theirs,
            "bytes a row": length * shape.config.hidden_size * dtype.itemsize,
            "seconds by rows": swept,
        }  # fmt: skip

    name = f"{shape.name}, {name_of(dtype)}, {length} tokens, {n_texts} texts"
    return Cell(name, flops * (7 + 5 + 3 * REPEATS), dtype, run)


def _swept(measure: Callable[[int], float], today: int, most: int) -> dict[int, float]:
    """Seconds by rows in a pass, around what is taken today; what does not fit is left out."""
    exponent = round(math.log2(min(today, most)))
    candidates = {min(most, 2**e) for e in range(max(0, exponent - 6), exponent + 5, 2)}
    return _swept_over(measure, sorted({*candidates, min(today, most)}))


def _swept_over(measure: Callable[[int], float], candidates: Sequence[int]) -> dict[int, float]:
    """The first is measured twice, as a first call pays for what later ones do not."""
    found: dict[int, float] = {}
    measure(candidates[0])
    for number in candidates:
        try:
            found[number] = measure(number)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return found


def integrals(bench: Bench) -> Iterator[Cell]:
    """Gradients in float32: to a tolerance, at fixed steps, and the public implementations' loop."""
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
                flops = 3 * shape.flops(n, length)  # a backward pass is twice a forward one
                yield {
                    "model": shape.name, "tokens": length, "texts": n_texts, "method": name,
                    "seconds a text": took / n_texts,
                    "gradients a word": n / n_texts / (length - 2),
                    "share of limit": bench.share(flops, took, torch.float32),
                }  # fmt: skip

        flops = 3 * shape.flops(gradients, length) * (2 if n_texts == 1 else 1)
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
    dtype, n_target = torch.bfloat16, bench.sizes.target
    per_row = shape.flops(1, length + n_target - 1, n_target)
    moving = max(4, min(length, int(bench.sizes.most[dtype] / per_row)))
    every = -(-length // moving)
    positions = range(0, length, every)
    rows = len(positions) + 1
    by_captum = length <= bench.sizes.prompts[1]

    def run() -> Iterator[Row]:
        model = bench.model(shape, dtype)
        tokenizer = number_tokenizer(shape.config.vocab_size)
        numbers = draw(length + n_target, below=shape.config.vocab_size)
        prompt = torch.full((length,), FILLER)
        prompt[::every] = numbers[:length:every]
        explain = TextGenerationExplainer(model, tokenizer, baseline="unk", level="token")
        call = functools.partial(
            explain, as_text(prompt), numbers[length:], skip_tokens=[FILLER], use_cache=True
        )
        held = _held(bench.device)
        today = _rows_today(explain, call)
        wanted = [2**e for e in range(2, 9) if 2**e <= max(4, len(positions))]
        swept = _swept_over(
            lambda rows: bench.took(lambda: call(internal_batch_size=rows)),
            sorted({*wanted, min(today, len(positions))}, key=lambda rows: abs(rows - today)),
        )
        best = min(swept, key=swept.__getitem__)
        found: dict[str, Any] = {}
        took = bench.took(lambda: found.update(on=call(internal_batch_size=best)))
        peak = peak_mib(lambda: call(), bench.device)
        without = bench.took(
            lambda: found.update(off=call(internal_batch_size=best, use_cache=False))
        )
        row = {
            "model": shape.name, "prompt": length, "target": n_target,
            "words measured": len(positions),
            "s for the matrix": took * (length + 1) / rows,
            "share of limit": bench.share(per_row * rows / 2, took, dtype),
            "without cache takes": without / took,
            "rows today": today, "rows best": best,
            "today takes": swept[min(today, len(positions))] / swept[best],
            "cache used": found["on"].without_cache is None,
            "gap, nats": float((found["on"].matrix - found["off"].matrix).abs().max()),
            "peak MiB": peak, "model MiB": held,
            "logit bytes a row": n_target * shape.config.vocab_size * 4,
            "seconds by rows": swept,
        }  # fmt: skip
        if by_captum:
            target = numbers[length:].to(bench.device)
            captum = functools.partial(_by_captum, model, tokenizer, prompt, target)
            row["FeatureAblation takes"] = bench.took(captum) / took
        yield row

    flops = per_row * rows * (0.5 * 11 + 1 + (1 if by_captum else 0))
    return Cell(f"{shape.name}, prompt of {length}", flops, dtype, run)


def _rows_today(explain: TextGenerationExplainer, call: Callable[..., Any]) -> int:
    """How many rows a call takes in a pass by itself: what the model is given, looked at once."""
    most = 0

    def look(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal most
        most = max(most, len(kwargs["input_ids"]))

    handle = explain.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        call()
    finally:
        handle.remove()
    return most


def _by_captum(model: nn.Module, tokenizer: Any, prompt: Tensor, target: Tensor) -> Tensor:
    """Captum's matrix of the same words, the target in one pass."""
    inputs = TextTokenInput(
        as_text(prompt), tokenizer, baselines=UNKNOWN, skip_tokens=[FILLER]
    )  # fmt: skip
    return LLMAttribution(FeatureAblation(model), tokenizer).attribute(
        inputs, target=target, use_cached_outputs=False, forward_in_tokens=False
    ).token_attr  # fmt: skip


def _held(device: torch.device) -> float | None:
    return torch.cuda.memory_allocated() / MIB if device.type == "cuda" else None


def corpus(bench: Bench) -> Iterator[Cell]:
    """Short texts in bfloat16 through `CorpusExplainer`: by batch size, then many at the best."""
    sizes = bench.sizes
    for shape in (sizes.classifiers[0], *(s for s in sizes.classifiers if s.folder)):
        row_tokens = statistics.mean((n + 1) * n for n in PHRASES)
        few = sizes.corpus // 10
        n_texts = sizes.corpus + 5 * few  # the first batch size twice

        def run(shape: Shape = shape, few: int = few) -> Iterator[Row]:
            model = bench.model(shape, torch.bfloat16)
            tokenizer = number_tokenizer(shape.config.vocab_size)
            explain = TextClassificationExplainer(model, tokenizer)
            numbers = draw(sizes.corpus * max(PHRASES), below=shape.config.vocab_size).tolist()
            texts = [as_text(numbers[i * 31 : i * 31 + PHRASES[i % 20]])
                     for i in range(sizes.corpus)]  # fmt: skip
            rates: dict[int, float] = {}
            for batch_size in (8, 8, 32, 128, 512):
                took = bench.took(
                    lambda b=batch_size: CorpusExplainer(explain, batch_size=b).columns(texts[:few])
                )
                rates[batch_size] = few / took
            best = max(rates, key=rates.__getitem__)
            yield {"model": shape.name, "texts": few, "batch size": best,
                   "texts/s": rates[best], "texts/s by batch size": rates}  # fmt: skip
            took = bench.took(lambda: CorpusExplainer(explain, batch_size=best).columns(texts))
            flops = shape.flops(sizes.corpus * row_tokens / 10, 10)
            yield {
                "model": shape.name, "texts": sizes.corpus, "texts/s": sizes.corpus / took,
                "row-tokens/s": sizes.corpus * row_tokens / took,
                "share of limit": bench.share(flops, took, torch.bfloat16),
                "batch size": best,
            }  # fmt: skip

        flops = shape.flops(n_texts * row_tokens / 10, 10)
        yield Cell(f"{shape.name}, {sizes.corpus} texts", flops, torch.bfloat16, run)
