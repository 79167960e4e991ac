"""Long inputs: what zoom finds, and what it costs beside all words and beside `context-cite`.

    python -m tests.benchmarks.long_inputs planted --model retriever
    python -m tests.benchmarks.long_inputs texts --model minilm-sst2 --data data --output sweeps
    python -m tests.benchmarks.long_inputs sources --model gpt2-movies --data data --peers peers
    python -m tests.benchmarks.long_inputs sources --model retriever --peers peers
    python -m tests.benchmarks.long_inputs tokens --tokens 10000

`python -m tests.benchmarks.train_retriever` makes the retriever. `texts` keeps the full sweeps in
`--output` and goes on where it was stopped. Seconds are this thread's: compare them as ratios.
"""

import argparse
import functools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from captum_sig import TextClassificationExplainer, TextGenerationExplainer
from tests.benchmarks import long_sources, long_texts, peers, retrieval_data
from tests.benchmarks.gpu_models import FILLER, number_tokenizer
from tests.benchmarks.measure import peak_mib, rows_through
from tests.benchmarks.record import add_record_option, show_and_record

Row = dict[str, Any]
CPU = torch.device("cpu")
PASSAGES = 20
LLAMA: dict[str, int] = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 8000,
}  # fmt: skip
EXTRA_ROWS = 4  # of the unchanged prompt, which every call asks for
PARAGRAPH = 100  # tokens
TARGET = 8  # tokens


def measured(model: Any, call: Callable[[], Any]) -> tuple[Any, int, float]:
    """What a call returns, its rows, and its seconds of this thread."""
    with rows_through(model) as rows:
        begun = time.thread_time()
        result = call()
    return result, rows.forward, time.thread_time() - begun


@dataclass
class Found:
    """What zoom found in the prompts with one passage, or two, that hold the fact."""

    firsts: list[bool] = field(default_factory=list)
    words: list[bool] = field(default_factory=list)  # name, thing and number in one of them
    rows: list[float] = field(default_factory=list)  # as a share of the full sweep's
    seconds: list[float] = field(default_factory=list)  # the same
    gaps: list[float] = field(default_factory=list)  # nats, the largest of a word's score

    def row(self) -> Row:
        """Means; the last two are of the prompts with a full sweep."""
        return {
            "prompts": len(self.firsts), "first": statistics.mean(self.firsts),
            "its_words": statistics.mean(self.words), "rows": statistics.mean(self.rows),
            "most_rows": max(self.rows), "full_sweeps": len(self.gaps),
            "seconds": statistics.mean(self.seconds) if self.seconds else None,
            "gap": max(self.gaps, default=None),
        }  # fmt: skip


def find_passages(
    model: Any, tokenizer: Any, n_prompts: int, seed: int, share: float, n_sweeps: int,
    *, with_units: bool = True, contexts: str | None = None,
) -> list[Row]:  # fmt: skip
    """Does zoom put the passages that hold the fact first, and at what cost?

    Units are the passages, and the question stays; or without units all paragraphs, of which the
    passages are ranked. Only prompts count whose code the model says.
    """
    explainer = TextGenerationExplainer(model, tokenizer, baseline="unk")
    rng = random.Random(seed)
    found = {1: Found(), 2: Found()}
    for number in range(n_prompts):
        n_holding = 1 + number % 2
        told, fact = retrieval_data.planted(rng, PASSAGES, n_holding)
        while not says(model, tokenizer, told.prompt(fact), fact.code):
            told, fact = retrieval_data.planted(rng, PASSAGES, n_holding)
        call = functools.partial(explainer, told.prompt(fact), f" {fact.code}")
        n_all = len(told.prompt(fact).split()) + told.prompt(fact).count(".")  # about all words
        budget = int(share * n_all) - EXTRA_ROWS
        zoom = functools.partial(
            call, level="auto", units=told.units if with_units else None, budget=budget,
            contexts=contexts,
        )  # fmt: skip
        zoomed, rows, seconds = measured(model, zoom)
        one = found[n_holding]
        passages = [unit for unit in zoomed.units if unit.text.startswith("Passage")]
        starts = {unit.start for unit in passages[:n_holding]}
        one.firsts.append(starts == {told.units[n][0] for n in told.holding(fact)})
        one.words.append(opened_all(zoomed, fact))
        if number < n_sweeps:
            full, all_rows, all_seconds = measured(model, call)
            one.seconds.append(seconds / all_seconds)
            one.gaps.append(largest_gap(zoomed, full))
        else:
            all_rows = zoomed.n_rows_of_all_words
        one.rows.append(rows / all_rows)
        if number % 10 == 9:
            print(f"{number + 1}: {[one.row() for one in found.values()]}", flush=True)
    return [{"passages_with_the_fact": n, **one.row()} for n, one in found.items()]


@torch.inference_mode()
def says(model: Any, tokenizer: Any, prompt: str, code: str) -> bool:
    """Whether the model goes on with the code."""
    ids, wanted = (tokenizer(text, return_tensors="pt")["input_ids"] for text in (prompt, code))
    logits = model(input_ids=torch.cat([ids, wanted], 1)).logits[0, ids.shape[1] - 1 : -1]
    return bool((logits.argmax(-1) == wanted[0]).all())


def scored(zoomed: Any) -> dict[int, Any]:
    """The words with exact scores, by their first characters."""
    exact = ("scored", "audited")
    return {node.start: node for node in zoomed.nodes if node.state in exact}


def opened_all(zoomed: Any, fact: retrieval_data.Fact) -> bool:
    """Whether name, thing and number have exact scores in a passage that holds the fact."""
    needed, words = {fact.name, *fact.code.split()}, scored(zoomed).values()
    return any(
        needed <= {word.text for word in words if unit.start <= word.start < unit.end}
        for unit in zoomed.units
    )


def largest_gap(zoomed: Any, full: Any) -> float:
    """How far exact scores of words are from the full sweep's."""
    starts = [word.start for word in full.words]
    scores = dict(zip(starts, full.sequence_scores.tolist(), strict=True))
    gaps = [abs(node.effects[-1] - scores[start]) for start, node in scored(zoomed).items()]
    return max(gaps, default=0.0)


def of_many_tokens(n_tokens: int, levels: Sequence[str], budget: int | None) -> Iterator[Row]:
    """Rows, seconds and memory of one long prompt of a small Llama with random weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**LLAMA, max_position_embeddings=n_tokens + TARGET)
    model = transformers.LlamaForCausalLM(config).eval()
    explainer = TextGenerationExplainer(model, number_tokenizer(LLAMA["vocab_size"]))
    numbers = torch.randint(FILLER, LLAMA["vocab_size"], (n_tokens + TARGET,)).tolist()
    prompt = "\n\n".join(
        " ".join(map(str, numbers[start : min(start + PARAGRAPH, n_tokens)]))
        for start in range(0, n_tokens, PARAGRAPH)
    )
    for level in levels:
        options = {"budget": budget} if level == "auto" and budget else {}

        def call(level: str = level, options: dict[str, int] = options) -> Any:
            return explainer(prompt, numbers[n_tokens:], level=level, **options)

        with rows_through(model) as rows:
            begun = time.perf_counter()
            memory = peak_mib(call, CPU)
            seconds = time.perf_counter() - begun
        yield {
            "tokens": n_tokens, "level": level, "rows": rows.forward,
            "of_all_words": rows.forward / (n_tokens + 1), "seconds": seconds, "mib": memory,
        }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one part, and print its table."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.long_inputs", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("part", choices=["planted", "texts", "sources", "tokens"])
    add("--model", type=Path, help="folder of the retriever, a classifier, or a language model")
    add("--data", type=Path, help="folder with rotten-tomatoes")
    add("--peers", type=Path, help="folder with context-cite, if it is not installed")
    add("--output", type=Path, default=Path("bench/sweeps"), help="folder for full sweeps")
    add("--prompts", type=int, help="prompts or texts of each kind")
    add("--ablations", type=int, default=64, help="of context-cite")
    add("--tokens", type=int, default=10_000)
    add("--levels", nargs="+", default=["paragraph", "auto"])
    add("--budget", type=int, help="rows of level auto, of tokens")
    add("--share", type=float, default=0.1, help="of planted: budget, of the full sweep's rows")
    add("--no-units", action="store_true", help="of planted: the question is a unit as well")
    add("--contexts", help="of planted, such as two_sided")
    add("--sweeps", type=int, default=200, help="of planted: prompts with a full sweep, the first")
    add("--only-sweeps", action="store_true", help="of texts: keep full sweeps for later")
    add("--threads", type=int, default=1)
    add("--seed", type=int, default=0)
    add_record_option(options)
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads)
    if given.part == "planted":
        model, tokenizer = language_model(given.model)
        n = given.prompts or 200
        rows = find_passages(
            model, tokenizer, n, given.seed, given.share, given.sweeps,
            with_units=not given.no_units, contexts=given.contexts,
        )  # fmt: skip
    elif given.part == "texts":
        explainer = TextClassificationExplainer.from_pretrained(given.model)
        rows = long_texts.report(
            explainer, given.data, given.output, given.prompts or 40, given.seed,
            only_sweeps=given.only_sweeps,
        )  # fmt: skip
    elif given.part == "sources":
        model, tokenizer = language_model(given.model)
        n = given.prompts or 20
        prompts = (
            long_sources.of_reviews(model, tokenizer, given.data, n, given.seed)
            if given.data
            else long_sources.of_passages(PASSAGES, n, given.seed)
        )
        citer = peers.context_citer(given.peers)
        rows = long_sources.compare(model, tokenizer, list(prompts), citer, given.ablations)
    else:
        rows = list(of_many_tokens(given.tokens, given.levels, given.budget))
    show_and_record(given, __spec__.name, {given.part: rows})


def language_model(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


if __name__ == "__main__":
    main()
