"""A language model's target tokens by prompt tokens: seconds beside the other implementations.

    python -m tests.benchmarks.generation --model gpt2-movies --peers peers --output results

One prompt and one target for all, in one process, in turn; every method gives the matrix of target
tokens by prompt tokens. `--parts cache` compares passes over whole rows with passes from the first
change on, at several lengths, on Llamas with random weights; `--parts contexts` counts the tokens
of passes in several contexts; `--parts position` asks how far scores follow the words' positions.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import random
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from captum.attr import FeatureAblation, LLMAttribution, LLMGradientAttribution, TextTokenInput
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from captum_sig import LayerSequentialIntegratedGradients, TextGenerationExplainer
from captum_sig.explainers import prefix_attention
from captum_sig.explainers.prefix_cache import NoPrefixError
from tests.benchmarks.gpu_models import FILLER, number_tokenizer
from tests.benchmarks.measure import machine, peak_mib, seconds
from tests.benchmarks.peers import sequential_integrated_gradients
from tests.benchmarks.record import add_record_option, flattened, show_and_record

CPU = torch.device("cpu")
PROMPT = (
    "The film begins as a quiet story about two brothers who return to the village of their "
    "childhood, and for an hour it is a tender and funny portrait of people who cannot say what "
    "they feel. Then the plot takes over, and the second half of it is a long chase with"
)
SHAPES: dict[str, dict[str, Any]] = {
    "tinyllama/4": {  # a quarter of TinyLlama-1.1B's width, four of its blocks
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 32000,
    },
    "stories15M": {  # of llama2.c
        "hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6,
        "num_attention_heads": 6, "num_key_value_heads": 6, "vocab_size": 32000,
    },
    "gpt2-movies": {"n_embd": 192, "n_layer": 4, "n_head": 4, "vocab_size": 6000,
                    "bos_token_id": None, "eos_token_id": None},
}  # fmt: skip


class MethodInput:
    """One prompt and target of a model."""

    def __init__(self, folder: Path, n_prompt: int, n_target: int) -> None:
        """Take the prompt's first tokens, and generate the target."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = self.tokenizer(PROMPT)["input_ids"][:n_prompt]
        self.prompt = self.tokenizer.decode(ids)
        self.ids = self.tokenizer(self.prompt, return_tensors="pt")["input_ids"]
        self.explainer = TextGenerationExplainer(self.model, self.tokenizer, level="token",
                                                 baseline="unk")  # fmt: skip
        length = {"min_new_tokens": n_target, "max_new_tokens": n_target}
        drawn = self.explainer(self.prompt, generation_kwargs=length | {"repetition_penalty": 1.3})
        self.target = torch.tensor([token.id for token in drawn.target_tokens])

    @property
    def as_captum(self) -> TextTokenInput:
        """The prompt as Captum takes it."""
        return TextTokenInput(self.prompt, self.tokenizer, baselines=self.tokenizer.unk_token_id)

    def log_probability(self, step: int) -> Callable[[Tensor], Tensor]:
        """Of one target token, as a function of the embeddings before it, (R, P + step, D)."""

        def forward(embeddings: Tensor) -> Tensor:
            logits = self.model(inputs_embeds=embeddings, use_cache=False).logits[:, -1]
            return logits.log_softmax(-1)[:, self.target[step]]

        return forward

    def embedded(self, step: int) -> tuple[Tensor, Tensor]:
        """Prompt and earlier target tokens, and the same with the prompt's at the baseline."""
        before = self.target[None, :step]
        base = torch.full_like(self.ids, self.tokenizer.unk_token_id)
        embedding = self.model.get_input_embeddings()
        return tuple(embedding(torch.cat([ids, before], 1)).detach() for ids in (self.ids, base))  # type: ignore[return-value]


def methods(
    question: MethodInput, peers: Path | None, steps: int
) -> dict[str, Callable[[int], Any]]:
    """Each method by name; called with how many target tokens a slow one explains."""
    q, embedding = question, question.model.get_input_embeddings()
    ablation = LLMAttribution(FeatureAblation(q.model), q.tokenizer)
    layer = LLMGradientAttribution(
        LayerSequentialIntegratedGradients(q.model, embedding), q.tokenizer
    )

    def ablated(in_tokens: bool) -> Any:
        # outputs cached by Captum 0.9 run past the model's positions with transformers 5.23
        return ablation.attribute(q.as_captum, target=q.target, use_cached_outputs=False,
                                  forward_in_tokens=in_tokens).token_attr  # fmt: skip

    found: dict[str, Callable[[int], Any]] = {
        "exact, prefix cache": lambda few: q.explainer(q.prompt, q.target).matrix,
        "exact, no cache": lambda few: q.explainer(q.prompt, q.target, use_cache=False).matrix,
        "Captum FeatureAblation": lambda few: ablated(True),
        "Captum FeatureAblation, target in one pass": lambda few: ablated(False),
        "Captum over our layer class": lambda few: (
            layer.attribute(q.as_captum, target=q.target[:few], n_steps=steps).token_attr
        ),
    }
    if importlib.util.find_spec("inseq"):
        found["inseq sequential_integrated_gradients"] = _inseq(q, steps)
    for peer in ("tint", "inseq"):
        theirs = sequential_integrated_gradients(peers, peer)
        if theirs is not None:
            found[f"{peer} SIG, token by token"] = lambda few, theirs=theirs: torch.stack(
                [_peer(theirs, q, step, steps) for step in range(few)]
            )
    return found


def _inseq(question: MethodInput, steps: int) -> Callable[[int], Tensor]:
    """The package's own way, where it is installed; it explains the target's tokens as well."""
    import inseq

    model = inseq.load_model(
        question.model, "sequential_integrated_gradients", tokenizer=question.tokenizer
    )
    n_prompt = question.ids.shape[1]

    def attribute(few: int) -> Tensor:
        target = question.tokenizer.decode(question.target[:few])
        found = model.attribute(question.prompt, question.prompt + target, n_steps=steps,
                                attributed_fn="crossentropy", show_progress=False)  # fmt: skip
        scores = found.sequence_attributions[0].target_attributions  # (positions, T, D)
        return -scores[-few - n_prompt : -few].sum(-1).T

    return attribute


def _peer(theirs: Any, question: MethodInput, step: int, steps: int) -> Tensor:
    x, base = question.embedded(step)
    sig = theirs(question.log_probability(step))
    found = sig.attribute(x, base, n_steps=steps)
    return found.sum(-1)[0, : question.ids.shape[1]].detach()


EXACT = "exact, prefix cache"


def is_slow(name: str) -> bool:
    """Whether a method takes gradients for every word, step and target token."""
    return not name.startswith("exact") and "Ablation" not in name


def compare(question: MethodInput, peers: Path | None, few: int, steps: int, repeats: int) -> dict:
    """Seconds of each, the median of repeats; the slow ones once, for `few` target tokens."""
    calls = methods(question, peers, steps)
    exact = calls[EXACT](0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    errors: dict[str, float] = {}
    for turn in range(repeats):
        for name, call in calls.items():
            if is_slow(name) and turn > 0:
                continue
            took, found = seconds(lambda call=call: call(few), CPU)
            times[name].append(took)
            rows = found.double()
            errors[name] = float((rows - exact[: len(rows)]).abs().max() / exact.abs().max())
            print(f"{name}: {took:.3f} s", flush=True)
    n_target = len(question.target)
    summary: dict[str, Any] = {}
    for name, measured in times.items():
        asked = few if is_slow(name) else n_target
        whole = statistics.median(measured) * n_target / asked
        summary[name] = {"seconds": whole, "target_tokens": asked, "error": errors[name]}
    fastest = summary[EXACT]["seconds"]
    for one in summary.values():
        one["takes"] = one["seconds"] / fastest
    return {"prompt_tokens": question.ids.shape[1], "target_tokens": n_target, "steps": steps,
            "methods": summary}  # fmt: skip


WAYS = ("shared", "copies", "no cache")  # attention to the prefix


@contextlib.contextmanager
def attention(way: str) -> Iterator[bool]:
    """Whether to use the cache; while open, its prefix is shared by rows, or copied for each."""

    def refuse(*_: Any, **__: Any) -> None:
        raise NoPrefixError("copies, to compare")

    with contextlib.ExitStack() as stack:
        if way == "copies":
            stack.enter_context(mock.patch.object(prefix_attention, "layers_that_attend", refuse))
        yield way != "no cache"


def random_model(shape: str, length: int) -> torch.nn.Module:
    """A model of the shape with random weights, for so many positions."""
    torch.manual_seed(0)
    options = SHAPES[shape] | {"initializer_range": 0.06}  # with 0.02 no word matters
    config: Any
    if "n_embd" in options:
        config = transformers.GPT2Config(**options, n_positions=length)
    else:
        config = transformers.LlamaConfig(**options, max_position_embeddings=length)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def cache(
    shape: str, lengths: Sequence[int], n_target: int, repeats: int, most_words: int
) -> dict[int, dict[str, Any]]:
    """Seconds with the prefix cache and without, in turn; memory of a pass, and differences.

    Of long prompts the words of four runs move, which stand evenly. Ratios are of a sweep over all
    words: what a sweep over few words does not share among many is measured, and taken out.
    """
    n_ids = SHAPES[shape]["vocab_size"]
    tokenizer = number_tokenizer(n_ids)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found: dict[int, dict[str, Any]] = {}
    for length in lengths:
        model = random_model(shape, length + n_target)
        explainer = TextGenerationExplainer(model, tokenizer, baseline="unk")
        numbers = torch.randint(FILLER, n_ids, (length + n_target,)).tolist()
        prompt, target = " ".join(map(str, numbers[:length])), numbers[length:]
        spans = [(m.start(), m.end()) for m in re.finditer(r"\S+", prompt)]
        run = min(most_words, length) // 4
        begins = [(2 * quarter + 1) * length // 8 - run // 2 for quarter in range(4)]
        runs = [span for begin in begins for span in spans[begin : begin + run]]
        sweeps = {"words": runs, "one word": spans[-1:]}
        times: dict[tuple[str, str], list[float]] = {}
        matrix: dict[str, Tensor] = {}
        for _ in range(repeats + 1):  # a first call pays for what later ones do not
            for way in WAYS:
                with attention(way) as use_cache:
                    for name, units in sweeps.items():
                        begun = clock()
                        result = explainer(prompt, target, units=units, use_cache=use_cache)
                        times.setdefault((way, name), []).append(clock() - begun)
                        if name == "words":
                            matrix[way] = result.matrix
        summary: dict[str, Any] = {"words": len(sweeps["words"])}
        for way in WAYS:
            words, one = (statistics.median(times[way, name][1:]) for name in sweeps)
            a_row = (words - one) / max(1, len(sweeps["words"]) - 1)
            with attention(way) as use_cache:
                late = functools.partial(
                    explainer, prompt, target, units=spans[-8:], internal_batch_size=8,
                    use_cache=use_cache,
                )  # fmt: skip
                summary[way] = {
                    "seconds": words, "a row": a_row, "MiB": peak_mib(late, CPU),
                    "gap": float((matrix[way] - matrix["no cache"]).abs().max()),
                }  # fmt: skip
        for way in WAYS[:2]:
            summary[way]["ratio"] = summary["no cache"]["a row"] / summary[way]["a row"]
        found[length] = summary
        print(shape, length, json.dumps(summary), flush=True)
    return found


def in_contexts(
    question: MethodInput, names: Sequence[str], repeats: int
) -> dict[str, dict[str, float]]:
    """Passes, tokens (rows by positions) and seconds in contexts, with the prefix cache and not."""
    q, found = question, {}
    for name in names:
        for use_cache in (True, False):
            call = functools.partial(
                q.explainer, q.prompt, q.target, contexts=name, use_cache=use_cache
            )
            shapes: list[tuple[int, int]] = []
            handle = q.model.register_forward_pre_hook(
                lambda _, args, kwargs, shapes=shapes: shapes.append(kwargs["input_ids"].shape),
                with_kwargs=True,
            )
            call()
            handle.remove()
            took = statistics.median(seconds(call, CPU)[0] for _ in range(repeats))
            label = f"{name}, {'prefix' if use_cache else 'no'} cache"
            found[label] = {
                "passes": len(shapes),
                "tokens": sum(rows * positions for rows, positions in shapes),
                "seconds": took,
            }
            print(label, found[label], flush=True)
    return found


def position(folder: Path, data: Path, count: int = 100) -> dict[str, float]:
    """How far |scores| follow the words' positions: mean rank correlation over sentences.

    Sentences of 15 words at least, the last three of which are the target.
    """
    lines = data.read_text(encoding="utf-8").splitlines()[1:]
    texts = [words for line in lines if len(words := line.split("\t")[0].split()) >= 15]
    chosen = random.Random(0).sample(texts, count)
    found = {}
    for baseline in ("unk", "mean", "zero"):
        explainer = TextGenerationExplainer.from_pretrained(folder, baseline=baseline)
        correlations = []
        for words in chosen:
            result = explainer(" ".join(words[:-3]), " " + " ".join(words[-3:]))
            ranks = result.sequence_scores.abs().argsort().argsort().double()
            pair = torch.stack([ranks, torch.arange(len(ranks)).double()])
            correlations.append(torch.corrcoef(pair)[0, 1].item())
        found[baseline] = statistics.mean(correlations)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.generation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--model", type=Path, help="folder of a causal language model, for the comparison")
    add("--peers", type=Path, help="folder with the peers' unpacked wheels")
    add("--prompt-tokens", type=int, default=64)
    add("--target-tokens", type=int, default=16)
    add("--few", type=int, default=16, help="target tokens of the slow ones; time is scaled")
    add("--steps", type=int, default=50)
    add("--repeats", type=int, default=5)
    add("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4096])
    add("--words", type=int, default=64, help="words that move, at most, of a prompt for `cache`")
    add("--threads", type=int, default=2)
    add("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    add("--data", type=Path, help="TSV file with a column `sentence`, for position")
    add("--contexts", nargs="+", default=["input", "two_sided", "sampled4"])
    parts = ["compare", "cache", "contexts", "position"]
    add("--parts", nargs="+", choices=parts, default=parts[:2])
    add("--output", type=Path, default=Path("bench"), help="folder for generation.json")
    add_record_option(options)
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {"machine": machine(CPU)}
    if "compare" in given.parts:
        question = MethodInput(given.model, given.prompt_tokens, given.target_tokens)
        few = min(given.few, len(question.target))
        results["compare"] = compare(question, given.peers, few, given.steps, given.repeats)
    if "contexts" in given.parts:
        question = MethodInput(given.model, given.prompt_tokens, given.target_tokens)
        results["contexts"] = in_contexts(question, given.contexts, given.repeats)
    if "cache" in given.parts:
        results["cache"] = {
            shape: cache(shape, given.lengths, given.target_tokens, given.repeats, given.words)
            for shape in given.shapes
        }
    if "position" in given.parts:
        results["position"] = position(given.model, given.data)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "generation.json").write_text(json.dumps(results, indent=1) + "\n")
    show_and_record(given, __spec__.name, tables_of(results))


def tables_of(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Tables of the parts that were measured."""
    columns = {"contexts": ["contexts"], "cache": ["shape", "prompt_tokens"]}
    tables = {part: flattened(results[part], *columns[part]) for part in columns if part in results}
    if "compare" in results:
        tables["compare"] = flattened(results["compare"]["methods"], "method")
    if "position" in results:
        tables["position"] = [
            {"baseline": name, "rank_correlation": value}
            for name, value in results["position"].items()
        ]
    return tables


if __name__ == "__main__":
    main()
