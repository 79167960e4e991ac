"""Ray Data writes the same shards as one process, also when workers die; the callable alone."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from captum_sig.cli.main import app
from captum_sig.corpus.engines import Workers
from captum_sig.corpus.shard_files import ShardWriter
from tests.shards import content, scan_corpus
from tests.tiny_tasks import multi_label, pair_tokenizer

ROOT = Path(__file__).parents[2]
TEXTS = [f"The {thing} is {how}, number {i}." for i in range(20)
         for thing, how in (("film", "superb"), ("old joke", "dull"))]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}


def corpus(*arguments: object) -> None:
    """Run the command in this process."""
    given = ["corpus", *map(str, arguments), "--shard-size", "2"]
    assert CliRunner().invoke(app, given).exit_code == 0


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "captum_sig", "corpus", *map(str, arguments)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
    path.write_text("\n".join([*lines, '{"text": null}']), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """The shards that one process writes."""
    out = tmp_path_factory.mktemp("local") / "out"
    corpus(data, "--output", out)
    return content(out)


@pytest.fixture(scope="module")
def pairs_with_labels(tmp_path_factory) -> Path:
    """A folder with pairs, a model whose labels exclude no others, and what one process writes."""
    root = tmp_path_factory.mktemp("pairs")
    multi_label(5).float().save_pretrained(root / "model")
    pair_tokenizer().save_pretrained(root / "model")
    pairs = [("the movie is good", "not bad"), ("a mess", "bad , bad !"), ("good", None)]
    rows = [json.dumps({"text": first, "text_pair": second}) for first, second in pairs]
    (root / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    corpus(root / "pairs.jsonl", "--output", root / "local", "--model", root / "model",
           "--target", "all")  # fmt: skip
    return root


def assert_same(found: dict[str, dict], wanted: dict[str, dict]) -> None:
    """Compare row by row; scores up to the rounding of another number of threads."""
    assert list(found) == list(wanted)
    for name, columns in wanted.items():
        assert list(found[name]) == list(columns)
        for column, values in columns.items():
            if column in ("scores", "target_scores", "target_values", "target_probabilities"):
                for some, others in zip(found[name][column], values, strict=True):
                    np.testing.assert_allclose(some, others, atol=1e-5)
            elif column in ("probability", "max_abs_word_delta"):
                known = [value or 0.0 for value in values]
                assert [value or 0.0 for value in found[name][column]] == pytest.approx(
                    known, abs=1e-5
                )
            else:
                assert found[name][column] == values


def test_two_workers_on_two_cpus_one_of_them_killed(data, reference, tmp_path):
    """The naive two one-CPU actors would starve the readers; and a worker that dies is replaced."""
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("ray")
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(data, "--output", out, "--shard-size", 2, "--engine", "ray", "--num-workers", 2),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob("part-*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    own = psutil.Process(process.pid).children(recursive=True)
    workers = [one for one in own if "ShardWriter" in " ".join(one.cmdline())]
    workers[0].kill()
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert "Texts: 41; 40 explained, 1 failed." in stdout
    assert_same(content(out), reference)
    assert not list(out.glob(".*.tmp"))


PROGRAM = '''
import sys
from pathlib import Path

import ray.data
from ray.cluster_utils import Cluster

from captum_sig.cli.main import app
from captum_sig.corpus import CorpusExplainer
from captum_sig.demo_model import PATH
from captum_sig.corpus.engines import on_ray

data, out, pairs = sys.argv[1:]


def corpus(*arguments):
    try:
        app(["corpus", *arguments, "--shard-size", "2", "--engine", "ray"])
    except SystemExit as end:
        assert end.code in (0, None), end.code


def main():
    noticed_soon = {  # that a node is lost
        "health_check_initial_delay_ms": 0, "health_check_period_ms": 500,
        "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": noticed_soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

    texts = ["Good.", None, "Bad."]
    found = ray.data.from_items([{"id": i, "text": t} for i, t in enumerate(texts)]).map_batches(
        CorpusExplainer, fn_constructor_kwargs={"model": str(PATH)},
        compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5,
    )
    rows = sorted(found.take_all(), key=lambda row: row["id"])
    assert [row["label"] for row in rows] == ["POSITIVE", None, "NEGATIVE"], rows
    assert [list(row["words"]) for row in rows] == [["Good", "."], [], ["Bad", "."]], rows
    assert [bool(row["error"]) for row in rows] == [False, True, False], rows

    corpus(f"{pairs}/pairs.jsonl", "--output", f"{pairs}/ray", "--model", f"{pairs}/model",
           "--target", "all", "--num-workers", "1")

    removed = []
    real = Path.exists

    def exists(path):
        """Remove a node once the run has some shards."""
        if path.name == "part-000003.parquet" and real(path) and not removed:
            removed.append(path)
            cluster.remove_node(node, allow_graceful=False)
        return real(path)

    Path.exists = exists
    corpus(data, "--output", out)
    assert removed
    assert ray.is_initialized()  # a cluster that was there before stays
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
'''


def test_the_callable_alone_all_labels_of_pairs_and_a_node_that_is_lost(
    data, reference, pairs_with_labels, tmp_path
):
    """In one cluster, which takes long to start."""
    pytest.importorskip("ray")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program, data, tmp_path / "out", pairs_with_labels],
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(content(tmp_path / "out"), reference)
    assert_same(content(pairs_with_labels / "ray"), content(pairs_with_labels / "local"))


def test_a_worker_that_cannot_start_returns_the_error(data, tmp_path):
    from captum_sig.corpus import CorpusExplainer
    from captum_sig.demo_model import PATH

    shard = scan_corpus([str(data)], limit=1).shards[0]
    writer = pickle.loads(
        pickle.dumps(ShardWriter(tmp_path, CorpusExplainer(PATH), "run", weights="0" * 16))
    )
    found = writer({"shard": [shard.to_json()]})
    assert "has other weights than where the run began" in found["error"][0]
    assert not list(tmp_path.iterdir())


def nodes(*found: tuple[float, float]) -> list[dict[str, float]]:
    return [{"CPU": cpus, **({"GPU": gpus} if gpus else {})} for cpus, gpus in found]


@pytest.mark.parametrize(
    ("there", "number", "gpus", "wanted"),
    [
        (nodes((2, 0)), None, None, Workers(2, 1, 0)),
        (nodes((2, 0)), 1, None, Workers(1, 2, 0)),
        (nodes((2, 0)), 5, None, Workers(5, 1, 0)),
        (nodes((8, 0), (8, 0)), 3, None, Workers(3, 5, 0)),
        (nodes((4, 0), (4, 0)), 1, None, Workers(1, 4, 0)),
        (nodes((16, 4), (8, 0)), None, None, Workers(4, 1, 1)),
        (nodes((16, 1), (16, 1)), None, 0.25, Workers(8, 1, 0.25)),
        (nodes((16, 4)), 2, 2, Workers(2, 1, 2)),
        (nodes((16, 4)), 3, 0, Workers(3, 5, 0)),
    ],
)
def test_workers_fit_the_cluster(there, number, gpus, wanted):
    assert Workers.fitting(there, number, gpus) == wanted


@pytest.mark.parametrize(
    ("number", "gpus", "why"),
    [
        (None, 1, "a worker wants 1 GPUs, but no node has more than 0.5: lower gpus_per_worker"),
        (0, None, "num_workers must be at least 1, got 0"),
        (None, -1, "gpus_per_worker must be at least 0, got -1"),
    ],
)
def test_workers_that_fit_nowhere(number, gpus, why):
    with pytest.raises(ValueError, match=why):
        Workers.fitting(nodes((2, 0.5)), number, gpus)


def test_a_cluster_that_is_not_there(data, tmp_path):
    pytest.importorskip("ray")
    done = subprocess.run(
        command(data, "--output", tmp_path / "out", "--engine", "ray", "--address",
                "127.0.0.1:1"),
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "captum-sig: there is no Ray cluster at 127.0.0.1:1" in done.stderr
