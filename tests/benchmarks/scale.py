"""The cost model of SCALE.md against runs, and what else grows with a corpus.

    python -m tests.benchmarks.scale --data ../shared/data/sst2/train.tsv

Costs: 1,000 texts tell how many row-tokens (rows of a text's sweep times its tokens) a second the
machine does; larger runs are predicted by counting theirs. Real texts come first, then texts of as
many words drawn from theirs. The other parts run no model: cutting the input, Ray's scheduling, and
the report over copies of the shards.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus.engines import locally, on_ray
from captum_sig.corpus.folder import CorpusFolder
from captum_sig.corpus.manifest import Manifest
from captum_sig.corpus.shard_files import ShardWriter
from captum_sig.data.records import read_records
from captum_sig.demo_model import PATH
from captum_sig.words.inputs import TextInput
from tests.benchmarks.corpus import of_command
from tests.benchmarks.measure import machine
from tests.benchmarks.record import add_record_option, show_and_record
from tests.shards import multiply, scan_corpus

Row = dict[str, Any]


def texts(data: Path, n_texts: int) -> list[str]:
    """Real ones as far as there are, then words of theirs in other order and company."""
    real = [record.text for record in read_records(data)]
    rng = random.Random(0)
    words = [word for text in real for word in text.split()]
    lengths = [len(text.split()) for text in real]
    more = (" ".join(rng.choices(words, k=rng.choice(lengths))) for _ in range(n_texts - len(real)))
    return [*real, *more][:n_texts]


def saved(path: Path, given: list[str]) -> Path:
    """As JSON lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in given), encoding="utf-8")
    return path


def run(explain: CorpusExplainer, path: Path, output: Path) -> float:
    """Seconds of the local engine, from the first look at the input to the manifest."""
    start = time.perf_counter()
    settings = {
        "method": "sig",
        "contexts": None,
        "baseline": "mask",
        "model": "demo",
        "weights": "",
    }
    found = CorpusFolder(output, scan_corpus([str(path)]), settings)
    with found.entered():
        writer = ShardWriter(output, explain, found.manifest.run)
        found.explain_remaining(locally, writer, lambda n_texts, work: None)
    return time.perf_counter() - start


def row_tokens(explain: CorpusExplainer, given: list[str]) -> int:
    """Rows of each text's sweep (its words, the input) times its tokens."""
    encoder = explain.explainer.encoder
    inputs = list(map(TextInput, given))
    batches = encoder.batches(inputs, 1024, truncation=True, device=torch.device("cpu"))
    return sum(
        (len(spans) + 1) * int(length)
        for batch in batches
        for spans, length in zip(batch.spans, batch.others["attention_mask"].sum(1), strict=True)
    )


def costs(data: Path, sizes: list[int], root: Path) -> Iterator[Row]:
    """Predicted and measured seconds."""
    torch.set_num_threads(2)
    explain = CorpusExplainer(PATH)
    rate = 0.0
    for size in sizes:
        given = texts(data, size)
        work = row_tokens(explain, given)
        seconds = run(explain, saved(root / f"{size}.jsonl", given), root / f"out-{size}")
        rate = rate or work / seconds
        yield {
            "texts": size, "row_tokens_a_text": work / size, "predicted_s": work / rate,
            "measured_s": seconds, "error": work / rate / seconds - 1,
            "texts_per_s": size / seconds, "row_tokens_per_s": work / seconds,
        }  # fmt: skip


def cutting(megabytes: int, root: Path) -> Iterator[Row]:
    """How fast the input is looked through."""
    for ending, head, line in ((".jsonl", "", json.dumps({"text": "word " * 200})),
                               (".csv", "text\n", '"' + "word " * 200 + '"')):  # fmt: skip
        path = root / f"large{ending}"
        n_lines = megabytes * 2**20 // (len(line) + 1)
        with path.open("w") as file:
            file.write(head)
            file.writelines(line + "\n" for _ in range(n_lines))
        start = time.perf_counter()
        found = scan_corpus([str(path)])
        seconds = time.perf_counter() - start
        yield {"format": ending[1:], "rows": found.n_rows, "us_a_row": 1e6 * seconds / n_lines}
        path.unlink()


def scheduling(n_shards: int, root: Path) -> Row:
    """Shards that are there already, so that workers only verify them: what Ray and they take."""
    path = saved(root / "many.jsonl", ["word"] * n_shards)
    shards = scan_corpus([str(path)], shard_size=1).shards
    output = root / "done"
    output.mkdir()
    writer = ShardWriter(output, CorpusExplainer(PATH), "run")
    for shard in shards:
        writer.write(shard)
    outcomes = on_ray(writer, shards, lambda n_texts, work: None, num_workers=2)
    times = [time.perf_counter() for _ in outcomes]
    seconds = times[-1] - times[0]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"shards": n_shards, "seconds": seconds, "driver_mb": memory}


def reporting(output: Path, copies: int, root: Path) -> Row:
    """The report over copies of a run's shards."""
    target = root / "copied"
    multiply(output, target, copies)
    (root / "terms.txt").write_text("old\nnew york\n", encoding="utf-8")
    seconds, memory = of_command("report", target, "--terms", root / "terms.txt")
    n_rows = sum(outcome.rows for outcome in Manifest.read(target).shards.values())
    return {"rows": n_rows, "seconds": seconds, "mb": memory}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--data", type=Path, required=True)
    add("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    add("--megabytes", type=int, default=1024)
    add("--shards", type=int, default=5_000)
    add("--copies", type=int, default=100)
    add("--parts", nargs="+", default=["costs", "cutting", "scheduling", "reporting"])
    add_record_option(options)
    chosen = options.parse_args()
    tables: dict[str, list[Row]] = {}
    root = Path(tempfile.mkdtemp())
    print(machine(torch.device("cpu")))
    try:
        if "costs" in chosen.parts:
            tables["costs"] = list(costs(chosen.data, chosen.sizes, root))
        if "cutting" in chosen.parts:
            tables["cutting"] = list(cutting(chosen.megabytes, root))
        if "scheduling" in chosen.parts:
            tables["scheduling"] = [scheduling(chosen.shards, root)]
        if "reporting" in chosen.parts:
            output = root / f"out-{max(chosen.sizes)}"
            tables["reporting"] = []
            for copies in (1, chosen.copies // 10, chosen.copies):
                tables["reporting"].append(reporting(output, copies, root))
                shutil.rmtree(root / "copied")
    finally:
        shutil.rmtree(root)
    show_and_record(chosen, __spec__.name, tables)


if __name__ == "__main__":
    sys.exit(main())
