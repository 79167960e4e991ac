"""Nearest neighbours against brute force in float64, and what is kept of them."""

import functools
import itertools
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from captum_sig.attr import neighbors
from captum_sig.attr.neighbors import (
    as_embedding,
    is_vocabulary,
    nearest_neighbors,
    nearest_tokens,
    vocabulary,
)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Nothing is kept from test to test, and nothing in the real home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "captum_sig" / "neighbors"


def squared_distances(vectors, point):
    return ((vectors.double() - point.double()) ** 2).sum(1).tolist()


def brute_force(vectors, n):
    """Every distance in float64, sorted with the ids."""
    order = []
    for i, vector in enumerate(vectors):
        distances = squared_distances(vectors, vector)
        others = sorted((d, j) for j, d in enumerate(distances) if j != i)
        order.append([j for _, j in others[:n]])
    return torch.tensor(order)


def gaussian(n_vectors=150, n_features=9, dtype=torch.float32):
    return torch.randn(n_vectors, n_features, dtype=torch.float64).to(dtype)


VECTORS = {
    "float32": gaussian,
    "float64": lambda: gaussian(dtype=torch.float64),
    "float16": lambda: gaussian(dtype=torch.float16),
    "bfloat16": lambda: gaussian(dtype=torch.bfloat16),
    "one dimension": lambda: gaussian(n_features=1),
    "duplicates": lambda: gaussian()[torch.randint(40, (150,))],
    "mostly one vector": lambda: torch.cat([gaussian(20), gaussian(1).expand(130, -1)]),
    "lattice with many ties": lambda: torch.randint(-2, 3, (150, 4)).float(),
    "far from zero": lambda: 1e6 + gaussian(dtype=torch.float64),
    "far apart": lambda: gaussian() * 10 ** torch.linspace(-6, 6, 150)[:, None],
    "differences at float64's end": lambda: 1 + 1e-13 * gaussian(dtype=torch.float64),
    "not contiguous": lambda: gaussian(9, 150).T,
}


@pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("n", [1, 7, 149])
def test_neighbors_are_those_of_brute_force(make, n):
    vectors = make()
    found = nearest_neighbors(vectors, n)
    assert found.dtype == torch.long
    assert torch.equal(found, brute_force(vectors, n))


def test_neighbors_in_several_blocks():
    vectors = VECTORS["duplicates"]()
    size = 7 * len(vectors)
    assert torch.equal(nearest_neighbors(vectors, 20, block_size=size), brute_force(vectors, 20))


def test_more_neighbors_than_there_are():
    vectors = gaussian(6)
    assert torch.equal(nearest_neighbors(vectors, 500), brute_force(vectors, 5))


def test_rounding_is_within_the_bound():
    for make in VECTORS.values():
        vectors = make()
        squares, error = neighbors._Table(vectors).by_products(vectors)
        exact = torch.tensor([squared_distances(vectors, v) for v in vectors], dtype=torch.float64)
        assert ((squares - exact).abs() <= error).all()


def test_nearly_all_neighbors_need_no_second_look(monkeypatch):
    def refuse(self, points, ids):
        raise AssertionError("distances computed again")

    monkeypatch.setattr(neighbors._Table, "by_differences", refuse)
    assert nearest_neighbors(gaussian(), 20).shape == (150, 20)
    with pytest.raises(AssertionError):
        nearest_neighbors(VECTORS["duplicates"](), 20)


@pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
def test_nearest_tokens_are_those_of_brute_force(make):
    vectors = make()
    between = (vectors[:30].double() + vectors[30:60].double()) / 2
    points = torch.cat([vectors.double(), between, 1e3 * between]).reshape(3, 70, -1)
    ids, distances = nearest_tokens(vectors, points, block_size=7 * len(vectors))
    assert ids.shape == distances.shape == (3, 70)
    for point, token, distance in zip(
        points.flatten(0, 1), ids.flatten().tolist(), distances.flatten().tolist(), strict=True
    ):
        squares = squared_distances(vectors, point)
        assert token == squares.index(min(squares))
        assert distance == pytest.approx(min(squares) ** 0.5, rel=1e-14, abs=0)


def test_an_entry_is_nearest_to_itself():
    vectors = gaussian()
    ids, distances = nearest_tokens(vectors, vectors)
    assert ids.tolist() == list(range(150))
    assert distances.dtype == torch.float64
    assert not distances.any()


def test_one_point_or_none():
    vectors = gaussian()
    token, distance = nearest_tokens(vectors, vectors[5])
    assert (token.item(), distance.item()) == (5, 0)
    ids, distances = nearest_tokens(vectors, vectors[:0])
    assert ids.shape == distances.shape == (0,)


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 3


def test_vocabulary_is_what_the_layer_gives():
    layer = Scaled(10, 4)
    found = vocabulary(layer)
    assert torch.equal(found, 3 * layer.weight)
    assert not found.requires_grad
    assert layer.weight.requires_grad


def test_vocabulary_leaves_long_vectors_as_they_are():
    layer = nn.Embedding(10, 4, max_norm=0.5)
    before = layer.weight.clone()
    found = vocabulary(layer)
    assert torch.equal(layer.weight, before)
    assert found.norm(dim=1).max() <= 0.5 + 1e-5
    assert torch.equal(layer(torch.arange(10)), found)


def test_vocabulary_in_inference_mode_can_be_used_outside():
    with torch.inference_mode():
        found = vocabulary(Scaled(10, 4))
    assert not found.is_inference()


def test_a_change_of_the_vocabulary_is_seen():
    layer = Scaled(10, 4)
    vectors = vocabulary(layer)
    assert is_vocabulary(vectors, layer)
    assert is_vocabulary(vectors, layer, n_compared=4)
    assert not is_vocabulary(vectors[:9], layer)
    assert not is_vocabulary(vectors[:, :3], layer)
    assert not is_vocabulary(vectors.double(), layer)
    assert is_vocabulary(vocabulary(layer.half()).float(), layer)
    vectors = vocabulary(layer.double())
    assert is_vocabulary(vectors, layer)
    assert not is_vocabulary(vectors.float(), layer)
    layer.weight.data[9, 3] += 1
    assert not is_vocabulary(vectors, layer)
    assert not is_vocabulary(vectors, layer, n_compared=4)


def test_only_embeddings_have_a_vocabulary():
    for function in (as_embedding, vocabulary, functools.partial(is_vocabulary, torch.ones(3, 3))):
        with pytest.raises(ValueError, match=r"a Linear; wanted .*get_input_embeddings\(\)"):
            function(nn.Linear(3, 3))


@pytest.mark.parametrize(
    "vectors",
    [torch.ones(3), torch.ones(3, 0), torch.ones(3, 3, dtype=torch.long),
     torch.tensor([[1.0], [torch.nan]]), torch.tensor([[1.0], [torch.inf]])],
)  # fmt: skip
def test_vectors_that_have_no_neighbors(vectors):
    with pytest.raises(ValueError, match="vectors .*; wanted"):
        nearest_neighbors(vectors, 1)
    with pytest.raises(ValueError, match="vectors .*; wanted"):
        nearest_tokens(vectors, vectors)


def test_at_least_one_neighbor():
    for n_vectors, n in ((3, 0), (3, -1), (1, 5)):
        with pytest.raises(ValueError, match=rf"n_neighbors {n} for {n_vectors} vectors; wanted"):
            nearest_neighbors(torch.ones(n_vectors, 2), n)


@pytest.mark.parametrize(
    "points", [torch.ones(()), torch.ones(2, 3), torch.tensor([torch.nan, 0.0])]
)
def test_points_that_are_nowhere(points):
    with pytest.raises(ValueError, match="points .*; wanted"):
        nearest_tokens(torch.ones(3, 2), points)


# What is kept


@pytest.fixture
def computed(monkeypatch):
    """The shapes for which neighbours were computed."""
    shapes = []
    compute = neighbors._compute

    def counted(vectors, n, block_size):
        shapes.append((len(vectors), n))
        return compute(vectors, n, block_size)

    monkeypatch.setattr(neighbors, "_compute", counted)
    return shapes


def test_computed_once_for_each_matrix(kept, computed):
    vectors = gaussian()
    expected = brute_force(vectors, 5)
    assert torch.equal(nearest_neighbors(vectors, 5), expected)
    nearest_neighbors(vectors, 5).zero_()  # what is kept is not the caller's
    assert torch.equal(nearest_neighbors(vectors.clone(), 5), expected)
    assert computed == [(150, 5)]
    assert len(list(kept.iterdir())) == 1


def test_other_numbers_weights_and_dtypes_are_computed(kept, computed):
    vectors = gaussian()
    for matrix, n in itertools.product((vectors, vectors + 1, vectors.double()), (5, 6)):
        nearest_neighbors(matrix, n)
    assert len(computed) == len(list(kept.iterdir())) == 6


def test_a_folder_of_ones_own(tmp_path, kept):
    nearest_neighbors(gaussian(), 5, cache_dir=tmp_path / "my" / "own")
    assert len(list((tmp_path / "my" / "own").iterdir())) == 1
    assert not kept.exists()


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTUM_SIG_CACHE", str(tmp_path / "cache"))
    nearest_neighbors(gaussian(), 5)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert len(list((tmp_path / "cache" / "neighbors").iterdir())) == 1


def test_the_cache_is_bounded_and_what_was_used_longest_ago_goes_first(tmp_path, computed):
    vectors = gaussian()
    (tmp_path / "mine.npz").write_bytes(b"x" * 10_000)
    for n in (1, 2, 3):
        nearest_neighbors(vectors, n, tmp_path)
    files = {n: next(tmp_path.glob(f"*-{n}.npz")) for n in (1, 2, 3)}
    for age, n in enumerate((3, 2, 1)):  # 1 is the oldest
        os.utime(files[n], (1e9 - age, 1e9 - age))
    nearest_neighbors(vectors, 1, tmp_path)  # now 2 is
    assert len(computed) == 3
    size = sum(files[n].stat().st_size for n in (1, 3))
    nearest_neighbors(vectors, 4, tmp_path, cache_bytes=2 * size)
    assert sorted(path.name[-5] for path in tmp_path.glob("*-*.npz")) == ["1", "3", "4"]
    (tmp_path / f".{files[3].name}.host.1.tmp").touch()  # by a process that was killed
    nearest_neighbors(vectors, 5, tmp_path, cache_bytes=0)  # the last one stays
    assert sorted(path.name for path in tmp_path.iterdir())[1:] == ["mine.npz"]
    nearest_neighbors(vectors, 5, tmp_path)
    assert len(computed) == 5


def test_the_folder_in_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    nearest_neighbors(gaussian(), 5)
    assert len(list((tmp_path / "home" / ".cache" / "captum_sig" / "neighbors").iterdir())) == 1


def truncated(file):
    os.truncate(file, file.stat().st_size // 2)


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def of_other_weights(file):
    nearest_neighbors(gaussian(), 5, cache_dir=file.parent / "other")
    (other,) = (file.parent / "other").iterdir()
    shutil.move(other, file)


def of_other_shape(file):
    with np.load(file) as found:
        arrays = dict(found)
    np.savez(file, weights=arrays["weights"], neighbors=arrays["neighbors"][:, :3])


DAMAGE = {
    "truncated": truncated,
    "flipped": flipped,
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("no neighbours here"),
    "pickle": lambda file: file.write_bytes(pickle.dumps([1, 2])),
    "objects": lambda file: np.savez(file, neighbors=np.array([{}]), weights=np.array([{}])),
    "array": lambda file: np.save(file.open("wb"), np.ones(3)),
    "other names": lambda file: np.savez(file, ids=np.ones(3)),
    "other weights": of_other_weights,
    "other shape": of_other_shape,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of `np.save` above
def test_a_file_that_is_not_what_was_written_is_replaced(kept, computed, damage):
    vectors = gaussian()
    expected = nearest_neighbors(vectors, 5)
    (file,) = kept.iterdir()
    damage(file)
    computed.clear()
    for _ in range(2):
        assert torch.equal(nearest_neighbors(vectors, 5), expected)
    assert computed == [(150, 5)]


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, computed):
    (tmp_path / "file").write_text("")
    vectors = gaussian()
    with pytest.warns(UserWarning, match="not stored .*pass a cache_dir") as caught:
        found = nearest_neighbors(vectors, 5, cache_dir=tmp_path / "file")
    assert caught[0].filename == __file__
    assert torch.equal(found, brute_force(vectors, 5))
    assert len(computed) == 1


def test_what_could_not_be_written_leaves_nothing(kept, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(neighbors.np, "savez", full)
    with pytest.warns(UserWarning, match="no space left"):
        nearest_neighbors(gaussian(), 5)
    assert list(kept.iterdir()) == []
