"""A server that predicts in some threads while others explain the same model.

    python -m tests.benchmarks.threads --model ../shared/models/minilm-sst2 \
        --data ../shared/data/sst2/dev.tsv

Every number is compared with the one that a single thread gives; forked children explain while
threads do. `--locked` lets one thread at a time use the model, as a lock around every pass would.
"""

import argparse
import csv
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from captum_sig import TextClassificationExplainer
from tests.children import in_child

Call = Callable[[str], list[float]]


def read_texts(path: Path, count: int) -> list[str]:
    """The first texts of a TSV file with a column `sentence`."""
    with path.open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["sentence"] for _, row in zip(range(count), rows, strict=False)]


def serve(
    calls: dict[str, Call],
    texts: list[str],
    n_threads: int,
    n_calls: int,
    guard: Callable[[], AbstractContextManager[object]],
) -> tuple[dict[str, list[tuple[str, object]]], float]:
    """Make each call in several threads at once; what came of each text, and the seconds."""
    results: dict[str, list[tuple[str, object]]] = {name: [] for name in calls}
    start = threading.Barrier(n_threads * len(calls) + 1)

    def work(name: str, offset: int) -> None:
        start.wait()
        for number in range(n_calls):
            text = texts[(offset + number) % len(texts)]
            try:
                with guard():
                    result: object = calls[name](text)
            except Exception as error:
                result = error
            results[name].append((text, result))

    threads = [
        threading.Thread(target=work, args=(name, 7 * number))
        for name in calls
        for number in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return results, time.perf_counter() - begun


def forks(call: Call, texts: list[str], expected: dict[str, list[float]], n_forks: int) -> int:
    """The number of forked children that explain as the parent does, while a thread explains."""
    stop = threading.Event()

    def explain() -> None:
        while not stop.is_set():
            call(texts[0])

    thread = threading.Thread(target=explain)
    thread.start()
    good = 0
    for number in range(n_forks):
        text = texts[number % len(texts)]
        good += in_child(lambda text=text: call(text) == expected[text], 60)
    stop.set()
    thread.join()
    return good


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--threads", type=int, default=4, help="of each kind")
    options.add_argument("--calls", type=int, default=500, help="of each thread")
    options.add_argument("--texts", type=int, default=50)
    options.add_argument("--forks", type=int, default=50)
    options.add_argument("--locked", action="store_true")
    given = options.parse_args()
    torch.set_num_threads(1)  # forks have no OpenMP threads
    explain = TextClassificationExplainer.from_pretrained(given.model)
    texts = read_texts(given.data, given.texts)

    def predict(text: str) -> list[float]:
        with torch.no_grad():
            encoding = explain.tokenizer(text, return_tensors="pt")
            return explain.model(**encoding).logits[0].tolist()

    calls: dict[str, Call] = {"predict": predict, "explain": lambda text: explain(text).scores}
    expected = {name: {text: call(text) for text in texts} for name, call in calls.items()}
    lock = threading.Lock()
    results, seconds = serve(
        calls, texts, given.threads, given.calls, lambda: lock if given.locked else nullcontext()
    )
    for name, found in results.items():
        errors = [result for _, result in found if isinstance(result, Exception)]
        wrong = [text for text, result in found if result != expected[name][text]]
        print(f"{name}: {len(found)} calls, {len(wrong)} not equal, {len(errors)} errors")
        for error in errors[:1]:
            print(f"  {type(error).__name__}: {error}")
    n_calls = sum(len(found) for found in results.values())
    print(f"{n_calls} calls in {seconds:.1f} s: {n_calls / seconds:.1f} a second")
    if given.forks:
        good = forks(calls["explain"], texts, expected["explain"], given.forks)
        print(f"forks: {good} of {given.forks} explain as their parent does")


if __name__ == "__main__":
    main()
