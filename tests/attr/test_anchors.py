"""Discretized paths against the rules as plain loops over words and dimensions."""

import functools
import threading

import numpy as np
import pytest
import torch
from torch import nn

from captum_sig.attr import dig
from captum_sig.attr.dig import STRATEGIES, DiscretizedPath


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path, monkeypatch):
    """Nothing is kept from test to test, and nothing in the real home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dig, "_searches", [])


# The rules; vectors are lists of numbers, the baseline is None among the anchors


def is_between(number, a, b):
    return min(a, b) <= number <= max(a, b)


def made_monotone(vector, last, baseline, n_anchors):
    return [
        v if is_between(v, p, b) else p - (1 / n_anchors) * (p - b)
        for v, p, b in zip(vector, last, baseline, strict=True)
    ]


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


@functools.cache
def nearest_first(vectors, word):
    others = [j for j in range(len(vectors)) if j != word]
    return sorted(others, key=lambda j: (distance(vectors[j], vectors[word]), j))


def how_far(vector, last, baseline, n_anchors):
    return distance(vector, made_monotone(vector, last, baseline, n_anchors))


def how_many(vector, last, baseline, n_anchors):
    return sum(not is_between(*three) for three in zip(vector, last, baseline, strict=True))


COSTS = {"greedy": how_far, "maxcount": how_many}


def reference(vectors, word, baseline, path):
    """The points (K, D) of one path, the baseline first, and its anchors."""
    vectors, baseline = vectors.tolist(), baseline.tolist()
    anchors, on_path, last = [], {word}, word
    for _ in range(path.n_anchors):
        best = None
        if last is not None and vectors[word] != baseline:
            for j in nearest_first(tuple(map(tuple, vectors)), last)[: path.n_neighbors]:
                if j in on_path or vectors[j] == baseline:
                    continue
                cost = COSTS[path.strategy](vectors[j], vectors[last], baseline, path.n_anchors)
                if best is None or cost < best[0]:
                    best = (cost, j)
        last = None if best is None else best[1]
        anchors.append(last)
        on_path.add(last)

    points = [vectors[word]]
    for anchor in anchors:
        vector = baseline if anchor is None else vectors[anchor]
        points.insert(0, made_monotone(vector, points[0], baseline, path.n_anchors))
    points.insert(0, baseline)
    for _ in range(path.factor):
        denser = [points[0]]
        for point in points[1:]:
            middle = [0.5 * (a + b) for a, b in zip(denser[-1], point, strict=True)]
            denser += [middle, point]
        points = denser
    return torch.tensor(points, dtype=torch.float64), anchors


def embedding(vectors):
    return nn.Embedding.from_pretrained(vectors.clone())


def gaussian(n_vectors=40, n_features=5):
    return torch.randn(n_vectors, n_features, dtype=torch.float64)


VOCABULARIES = {
    "plain": gaussian,
    "duplicates": lambda: gaussian(15)[torch.randint(15, (40,))],
    "lattice": lambda: torch.randint(-2, 3, (40, 3)).double(),
    "one dimension": lambda: gaussian(n_features=1),
    "many dimensions": lambda: gaussian(n_features=60),
    "tiny": lambda: gaussian(3),
}
BASELINES = {
    "a word": lambda vectors: vectors[7 % len(vectors)],
    "zero": lambda vectors: torch.zeros_like(vectors[0]),
    "the mean": lambda vectors: vectors.mean(0),
    "far away": lambda vectors: vectors[0] + 10,
}


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("make", VOCABULARIES.values(), ids=VOCABULARIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("n_anchors", "factor", "n_neighbors"), [(1, 0, 5), (4, 2, 5), (6, 1, 2), (8, 0, 500)]
)
def test_points_are_those_of_the_rules(
    strategy, make, baseline, n_anchors, factor, n_neighbors
):  # fmt: skip
    vectors = make()
    path = DiscretizedPath(strategy, n_anchors, factor, n_neighbors)
    ids = torch.arange(len(vectors))[None]
    knots = path(embedding(vectors), ids, baseline(vectors).expand(1, len(vectors), -1))
    assert knots.points.dtype == torch.float64
    for word in range(len(vectors)):
        expected, _ = reference(vectors, word, baseline(vectors), path)
        found = knots.points[knots.path_of[0, word]]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
        assert torch.equal(found[0], baseline(vectors))
        assert torch.equal(found[-1], vectors[word])
        low, high = found[:-1].minimum(found[-1]), found[:-1].maximum(found[-1])
        assert ((low <= found[1:]) & (found[1:] <= high)).all()


def test_the_reference_meets_every_case():
    path = DiscretizedPath("greedy", 6, 0, 2)
    vectors = VOCABULARIES["plain"]()
    anchors = [reference(vectors, word, vectors[7], path)[1] for word in range(40)]
    assert any(None not in found for found in anchors)
    assert any(None in found[1:] and found[0] is not None for found in anchors)  # run out
    both = {
        name: reference(vectors, 3, vectors[7], DiscretizedPath(name, 6, 0, 20))[1]
        for name in STRATEGIES
    }
    assert both["greedy"] != both["maxcount"]


def test_float32_stays_monotone_and_ends_exactly():
    vectors = torch.randn(200, 30) * 10 ** torch.linspace(-20, 20, 30)
    layer = embedding(vectors)
    ids = torch.arange(200)[None]
    for n_anchors in (1, 2, 3, 7):
        knots = DiscretizedPath("greedy", n_anchors, 3, 20)(
            layer, ids, vectors[9].expand(1, 200, -1)
        )
        points = knots.points[knots.path_of[0]]
        assert points.dtype == torch.float32
        assert points.shape[1] == 8 * (n_anchors + 1) + 1
        assert torch.equal(points[:, -1], vectors)
        assert torch.equal(points[:, 0], vectors[9].expand(200, -1))
        assert not ((points[:, 1:] - points[:, :-1]) * (vectors - vectors[9])[:, None] < 0).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_equals_its_positions_alone(strategy, monkeypatch):
    monkeypatch.setitem(dig.BLOCK, "cpu", 3 * 40 * 5)
    layer = embedding(gaussian())
    ids = torch.randint(0, 40, (3, 9))
    baselines = layer(torch.randint(0, 3, (3, 9)))
    path = DiscretizedPath(strategy, 5, 1, 10)
    batch = path(layer, ids, baselines)
    for b in range(3):
        for i in range(9):
            dig._searches.clear()
            alone = path(layer, ids[b : b + 1, i : i + 1], baselines[b : b + 1, i : i + 1])
            assert torch.equal(batch.points[batch.path_of[b, i]], alone.points[0])


def test_a_path_for_each_pair_of_word_and_baseline():
    layer = embedding(gaussian())
    ids = torch.tensor([[3, 4, 3], [4, 3, 3]])
    zeros = torch.zeros(5, dtype=torch.float64)
    baselines = torch.stack([zeros, zeros + 1])[torch.tensor([[0, 0, 0], [0, 1, 0]])]
    knots = DiscretizedPath(n_anchors=4)(layer, ids, baselines)
    assert knots.path_of.tolist() == [[0, 1, 0], [1, 2, 0]]
    assert knots.points.shape == (3, 6, 5)


def test_a_word_that_is_its_baseline_stays():
    vectors = gaussian()
    vectors[8] = vectors[7]
    knots = DiscretizedPath(n_anchors=4, factor=1)(
        embedding(vectors), torch.tensor([[7, 8, 9]]), vectors[7].expand(1, 3, -1)
    )
    paths = knots.points[knots.path_of[0]]
    assert torch.equal(paths[:2], vectors[7].expand(2, 11, -1))
    assert (paths[2] != vectors[7]).any()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_nothing_to_do(shape):
    knots = DiscretizedPath(n_anchors=4)(
        embedding(gaussian()), torch.zeros(shape, dtype=torch.long), torch.zeros(*shape, 5)
    )
    assert knots.points.shape == (0, 6, 5)
    assert knots.path_of.shape == shape


def test_half_precision_is_computed_in_float32():
    vectors = gaussian().half()
    ids, baselines = torch.arange(40)[None], vectors[:1].expand(1, 40, -1)
    half = DiscretizedPath(n_anchors=4)(embedding(vectors), ids, baselines)
    single = DiscretizedPath(n_anchors=4)(embedding(vectors.float()), ids, baselines.float())
    assert half.points.dtype == torch.float32
    assert torch.equal(half.points, single.points)


def test_points_have_the_dtype_of_the_weights():
    layer = embedding(gaussian().half())  # the same numbers in every dtype
    path, ids, zeros = DiscretizedPath(n_anchors=4), torch.tensor([[3]]), torch.zeros(1, 1, 5)
    for dtype in (torch.float32, torch.float64, torch.float32):
        assert path(layer.to(dtype), ids, zeros).points.dtype == dtype


def test_paths_are_made_of_what_the_layer_gives():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 2

    vectors = gaussian()
    ids, baselines = torch.arange(40)[None], torch.zeros(1, 40, 5)
    scaled = Scaled.from_pretrained(vectors)
    found = DiscretizedPath(n_anchors=4)(scaled, ids, baselines)
    expected = DiscretizedPath(n_anchors=4)(embedding(2 * vectors), ids, baselines)
    assert torch.equal(found.points, expected.points)


# What is remembered


@pytest.fixture
def searched(monkeypatch):
    """How many words' anchors were searched, step by step."""
    words = []

    def counted(candidates, last, baseline, n_anchors):
        words.append(len(candidates))
        return dig.greedy(candidates, last, baseline, n_anchors)

    monkeypatch.setitem(STRATEGIES, "greedy", counted)
    return words


def test_anchors_are_searched_once(searched):
    layer = embedding(gaussian())
    path = DiscretizedPath(n_anchors=4)
    zeros = torch.zeros(1, 3, 5)
    first = path(layer, torch.tensor([[3, 4, 3]]), zeros)
    assert searched == [2] * 4
    again = path(embedding(layer.weight), torch.tensor([[4, 3, 5]]), zeros)
    assert searched == [2] * 4 + [1] * 4
    assert torch.equal(again.points[:2], first.points[[1, 0]])
    DiscretizedPath(n_anchors=4, factor=2)(layer, torch.tensor([[5, 4, 3]]), zeros)
    assert len(searched) == 8


def test_other_weights_baselines_and_settings_are_other_paths(searched):
    vectors, ids, zeros = gaussian(), torch.tensor([[3]]), torch.zeros(1, 1, 5)
    layer = embedding(vectors)
    DiscretizedPath(n_anchors=4)(layer, ids, zeros)
    for path, baselines in (
        (DiscretizedPath(n_anchors=4), zeros + 1),
        (DiscretizedPath(n_anchors=3), zeros),
        (DiscretizedPath(n_anchors=4, n_neighbors=5), zeros),
    ):
        before = len(searched)
        points = path(layer, ids, baselines).points[0]
        assert len(searched) == before + path.n_anchors
        expected, _ = reference(vectors, 3, baselines[0, 0].double(), path)
        torch.testing.assert_close(points, expected, rtol=0, atol=1e-14)
    layer.weight.data[5:] += 0.1
    points = DiscretizedPath(n_anchors=4)(layer, ids, zeros).points[0]
    expected, _ = reference(layer.weight, 3, zeros[0, 0].double(), DiscretizedPath(n_anchors=4))
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-14)
    assert len(dig._searches) == dig.MAX_SEARCHES


def test_memory_is_bounded_and_keeps_the_latest(monkeypatch, searched):
    layer = embedding(gaussian())
    ids, zeros = torch.arange(20)[None], torch.zeros(1, 20, 5)
    path = DiscretizedPath(n_anchors=4)
    expected = path(layer, ids, zeros)
    monkeypatch.setattr(dig, "CACHE_SIZE", 4 * 10)
    dig._searches.clear()
    assert torch.equal(path(layer, ids, zeros).points, expected.points)
    assert {word for word, _ in dig._searches[0].cache} == set(range(10, 20))
    path(layer, ids[:, 10:12], zeros[:, :2])
    path(layer, ids[:, :1], zeros[:, :1])
    assert {word for word, _ in dig._searches[0].cache} == {0, 10, 11, *range(13, 20)}


def test_threads_share_what_is_found(searched):
    layer = embedding(gaussian())
    ids, zeros = torch.arange(40)[None], torch.zeros(1, 40, 5)
    path = DiscretizedPath(n_anchors=4)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(path(layer, ids, zeros))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert searched == [40] * 4
    assert all(torch.equal(knots.points, found[0].points) for knots in found)


def test_a_warning_points_at_the_caller(tmp_path):
    (tmp_path / "file").write_text("")
    path = DiscretizedPath(n_anchors=4, cache_dir=tmp_path / "file")
    with pytest.warns(UserWarning, match="not stored") as caught:
        path(embedding(gaussian()), torch.tensor([[3]]), torch.zeros(1, 1, 5))
    assert caught[0].filename == __file__


# The door


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "nearest"}, "'nearest' is unknown: use one of greedy, maxcount"),
        ({"n_anchors": 0}, "n_anchors must be an integer of at least 1, got 0"),
        ({"n_anchors": 2.0}, "n_anchors must be an integer of at least 1, got 2.0"),
        ({"factor": -1}, "factor must be an integer from 0 to 10, got -1"),
        ({"factor": 10**9}, "factor must be an integer from 0 to 10, got 1,000,000,000"),
        ({"n_anchors": 500, "factor": 2}, "make 2,004 steps; wanted at most 2,000"),
        ({"n_neighbors": 0}, "n_neighbors must be an integer of at least 1, got 0"),
    ],
)
def test_settings_that_make_no_path(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiscretizedPath(**arguments)


def test_settings_may_be_integers_of_numpy_and_pytorch():
    path = DiscretizedPath(n_anchors=np.int64(4), factor=torch.tensor(1))
    assert path == DiscretizedPath(n_anchors=4, factor=1)
    assert type(path.n_anchors) is type(path.factor) is int


ID = torch.zeros(1, 1, dtype=torch.long)


@pytest.mark.parametrize(
    ("layer", "ids", "baselines", "message"),
    [
        (nn.Linear(2, 5), ID, torch.zeros(1, 1, 5), "a Linear; wanted the word embedding"),
        (None, ID[0], torch.zeros(1, 5), r"ids have shape \(1,\) .*; wanted .* \(B, L\)"),
        (None, ID.float(), torch.zeros(1, 1, 5), "torch.float32; wanted integers"),
        (None, ID.bool(), torch.zeros(1, 1, 5), "torch.bool; wanted integers"),
        (None, ID, torch.zeros(1, 1, 4), r"\(1, 1, 4\) .*; wanted floats \(1, 1, 5\)"),
        (None, ID, ID, r"\(1, 1\) and torch.int64; wanted floats \(1, 1, 5\)"),
        (None, ID, torch.zeros(1, 1, 5).long(), "torch.int64; wanted floats"),
        (None, ID, torch.full((1, 1, 5), torch.nan), "NaN; wanted finite vectors"),
        (None, ID + 40, torch.zeros(1, 1, 5), "ids range from 40 to 40; wanted 0 to 39"),
        (None, ID - 1, torch.zeros(1, 1, 5), "ids range from -1 to -1; wanted 0 to 39"),
    ],
)
def test_tensors_that_do_not_fit(layer, ids, baselines, message, monkeypatch):
    monkeypatch.setattr(dig, "nearest_neighbors", None)  # found before any work
    with pytest.raises(ValueError, match=message):
        DiscretizedPath()(layer or embedding(gaussian()), ids, baselines)


def test_a_path_that_is_not_monotone_is_refused(monkeypatch):
    monkeypatch.setattr(dig, "monotonized", lambda x, *others: x)
    layer = embedding(gaussian())
    with pytest.raises(RuntimeError, match="not monotone"):
        DiscretizedPath()(layer, torch.arange(40)[None], torch.zeros(1, 40, 5))


def test_inference_mode_and_gradients_stay_outside():
    layer = nn.Embedding(40, 5)
    ids = torch.arange(40)[None]
    baselines = torch.zeros(1, 40, 5, requires_grad=True)
    with torch.inference_mode():
        inside = DiscretizedPath(n_anchors=4)(layer, ids, baselines)
    outside = DiscretizedPath(n_anchors=4)(layer, ids, baselines)
    for knots in (inside, outside):
        assert not knots.points.is_inference()
        assert not knots.points.requires_grad
    assert layer.weight.requires_grad
    assert layer.weight.grad is None
