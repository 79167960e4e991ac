"""The parts of integration to a tolerance: interpolants, their errors, where to look next."""

import math

import numpy as np
import pytest

from captum_sig.attr.adaptive import (
    DEGREE,
    FEW_NODES_MARGIN,
    REFINED,
    STARTS,
    first_nodes,
    more_nodes,
    panel_weights,
    path_error,
    running_error,
)
from captum_sig.quadrature import clenshaw_curtis

UNEVEN = np.array([[0, 0.05, 0.1, 0.15, 0.4, 0.5, 0.75, 1], [0, 0.2, 0.3, 0.5, 0.8, 0.9, 0.95, 1]])


@pytest.mark.parametrize("below", [0, 1])
def test_each_panel_is_exact_for_polynomials_up_to_the_degree(below):
    weights = panel_weights(UNEVEN, below)
    assert weights.shape == (2, 7, 8)
    for power in range(DEGREE - below + 1):
        found = np.einsum("mpn,mn->mp", weights, UNEVEN**power)
        exact = np.diff(UNEVEN ** (power + 1)) / (power + 1)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-13)
    assert np.abs(np.einsum("mpn,mn->mp", weights, UNEVEN**9) - np.diff(UNEVEN**10) / 10).max() > 0


def test_few_nodes_give_the_highest_degree_that_they_allow():
    nodes = np.array([[0, 0.5, 1]])
    simpson = panel_weights(nodes)[0].sum(0)
    np.testing.assert_allclose(simpson, [1 / 6, 2 / 3, 1 / 6], rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        panel_weights(nodes, below=1)[0], [[0.25, 0.25, 0], [0, 0.25, 0.25]], rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("below", [0, 1])
def test_the_order_of_convergence(below):
    errors = []
    for n in (17, 33):
        nodes = np.linspace(0, 1, n)[None]
        found = panel_weights(nodes, below)[0].sum(0) @ np.exp(3 * nodes[0])
        errors.append(abs(found - (math.exp(3) - 1) / 3))
    assert math.log2(errors[0] / errors[1]) > DEGREE + 0.8 - below


def test_weights_stay_tame_where_nodes_crowd_around_a_turn():
    nodes = clenshaw_curtis(9).nodes
    for _ in range(20):
        panel = np.searchsorted(nodes, 0.3) - 1
        errors = np.eye(len(nodes) - 1)[panel]  # nothing but the turn is in doubt
        nodes = np.sort([*nodes, *more_nodes(nodes, errors, 100)])
    assert np.diff(nodes).min() < 1e-5
    assert np.abs(panel_weights(nodes[None])[0].sum(0)).sum() < 2


def test_weights_are_those_of_each_path_whatever_its_neighbours():
    rng = np.random.default_rng(0)
    nodes = np.sort(np.c_[np.zeros(50), rng.random((50, 12)), np.ones(50)], axis=1)
    weights = panel_weights(nodes)
    for path in range(50):
        np.testing.assert_array_equal(weights[path], panel_weights(nodes[path : path + 1])[0])


def test_the_running_error_is_where_the_slope_turns_between_nodes():
    nodes = clenshaw_curtis(9).nodes[None]
    width, turn = 0.05, 0.4
    values = np.tanh((nodes - turn) / width) * width
    slopes = 1 / np.cosh((nodes - turn) / width) ** 2
    panels, rms, whole = running_error(panel_weights(nodes), slopes, values)
    worst = int(panels[0].argmax())
    assert nodes[0, worst] < turn < nodes[0, worst + 1]
    assert whole[0] <= panels[0].sum()
    assert rms[0] > 0
    exact = running_error(panel_weights(nodes), 2 * nodes, nodes**2)
    assert max(np.abs(part).max() for part in exact) < 1e-14


def test_the_whole_error_is_the_largest_of_three_and_stricter_for_few_nodes():
    none = np.zeros((1, 8))
    one = np.array([1.0])
    assert path_error(one, 0 * one, none) == [1]
    assert path_error(0 * one, one, none) == [2]
    assert path_error(0 * one, 0 * one, none + 1) == pytest.approx([1.5 * 8**0.5])
    assert path_error(one, 0 * one, np.zeros((1, STARTS[0] - 1))) == [FEW_NODES_MARGIN]


def test_the_next_nodes():
    first = first_nodes()
    assert len(first) == STARTS[0]
    assert first[[0, -1]].tolist() == [0, 1]
    second = more_nodes(first, np.zeros(4), 100)
    np.testing.assert_allclose(
        np.sort([*first, *second]), clenshaw_curtis(STARTS[1]).nodes, atol=1e-15
    )
    nodes = clenshaw_curtis(9).nodes
    errors = np.array([0, 4, 10, 0, 6, 0, 0, 0.1])
    halves = (nodes[:-1] + nodes[1:]) / 2
    assert errors[4] > REFINED * errors[2] > errors[1]
    assert more_nodes(nodes, errors, 100).tolist() == halves[[2, 4]].tolist()
    assert more_nodes(nodes, errors, 1).tolist() == halves[[2]].tolist()
    assert more_nodes(nodes, errors, 0).tolist() == []
