"""Rules: invariants, exactness, measured order of convergence."""

import math

import numpy as np
import pytest
import torch
from captum.attr._utils.approximation_methods import approximation_parameters

from captum_sig.quadrature import RULES, Rule, rule

ORDERS = {
    "riemann_left": 1,
    "riemann_right": 1,
    "riemann_middle": 2,
    "riemann_trapezoid": 2,
}


def error(method: str, n: int) -> float:
    """Error on ∫₀¹ e^x dx."""
    chosen = rule(method, n)
    return abs(float(chosen.weights @ np.exp(chosen.nodes)) - (math.e - 1))


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("n", [2, 3, 8, 17, 50, 129])
def test_a_constant_is_integrated_exactly_by_nodes_within_the_interval(method, n):
    chosen = rule(method, n)
    assert chosen.nodes.dtype == chosen.weights.dtype == np.float64
    assert len(chosen.nodes) == n
    assert chosen.weights.sum() == pytest.approx(1, abs=1e-14)
    assert chosen.nodes.min() >= 0
    assert chosen.nodes.max() <= 1


@pytest.mark.parametrize(("method", "order"), ORDERS.items())
def test_riemann_rules_converge_at_their_order(method, order):
    measured = math.log2(error(method, 101) / error(method, 201)) / math.log2(200 / 100)
    assert measured == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("n", [2, 3, 5, 9, 12])
def test_gauss_legendre_and_clenshaw_curtis_are_exact_for_polynomials(n):
    for method, degree in [("gausslegendre", 2 * n - 1), ("clenshawcurtis", n - 1)]:
        chosen = rule(method, n)
        for power in range(degree + 1):
            assert chosen.weights @ chosen.nodes**power == pytest.approx(1 / (power + 1), abs=1e-13)


@pytest.mark.parametrize(("coarse", "fine"), [(3, 5), (5, 9), (9, 17), (65, 129)])
def test_clenshaw_curtis_nodes_are_nested_and_hold_both_ends(coarse, fine):
    np.testing.assert_allclose(
        rule("clenshawcurtis", fine).nodes[::2], rule("clenshawcurtis", coarse).nodes, atol=1e-15
    )
    assert rule("clenshawcurtis", fine).nodes[[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize(
    "method", ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle"]
)
def test_rules_are_those_of_captum(method):
    weights, nodes = (f(20) for f in approximation_parameters(method))
    np.testing.assert_allclose(rule(method, 20).weights, weights, atol=1e-7)
    np.testing.assert_allclose(rule(method, 20).nodes, nodes, atol=1e-7)


def test_trapezoid_weights_sum_to_one_where_those_of_captum_do_not():
    weights = approximation_parameters("riemann_trapezoid")[0](20)
    assert sum(weights) == pytest.approx(19 / 20)
    assert rule("riemann_trapezoid", 20).weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([0.0, 1.1], [0.5, 0.5], "ascend within"),
        ([0.5, 0.2], [0.5, 0.5], "ascend within"),
        ([0.0, 1.0], [0.5, 0.4], "sum to 1"),
        ([0.0, 1.0], [1.0], "must both be"),
        ([0.0, math.nan], [0.5, 0.5], "ascend within"),
        ([math.nan], [1.0], "ascend within"),
        ([0.0, 1.0], [0.5, math.nan], "must be finite"),
        ([0.0, 0.5, 1.0], [math.inf, 1.0, -math.inf], "must be finite"),
        ([], [], "ascend within"),
    ],
)
def test_what_is_no_rule_is_refused(nodes, weights, message):
    with pytest.raises(ValueError, match=message):
        Rule(np.array(nodes), np.array(weights))


def test_a_rule_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        rule("gausslegendre", 4).weights[0] = 1


def test_a_rule_leaves_the_arrays_to_their_owner():
    nodes, weights = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    chosen = Rule(nodes, weights)
    nodes[0] = weights[0] = 7  # still writable
    assert (chosen.nodes.tolist(), chosen.weights.tolist()) == ([0, 1], [0.5, 0.5])
    assert Rule([0, 1], [0.5, 0.5]).nodes.dtype == np.float64


@pytest.mark.parametrize("n", [0, -3, 2.5, True, "4", None, 2_001, 100_000, 10**400])
@pytest.mark.parametrize("method", RULES)
def test_steps_must_be_an_integer_within_the_limit(method, n):
    with pytest.raises(ValueError, match="n_steps must be an integer from 1 to 2,000, got"):
        rule(method, n)


@pytest.mark.parametrize("n", [np.int64(4), np.uint8(4), torch.tensor(4)])
def test_steps_may_be_integers_of_numpy_and_pytorch(n):
    assert rule("gausslegendre", n) is rule("gausslegendre", 4)


@pytest.mark.parametrize("method", ["clenshawcurtis", "riemann_trapezoid"])
def test_rules_with_both_ends_need_two_nodes(method):
    with pytest.raises(ValueError, match="n_steps >= 2"):
        rule(method, 1)


def test_a_close_name_is_suggested():
    with pytest.raises(ValueError, match=r"unknown \(did you mean 'riemann_middle'\?\)"):
        rule("riemann_mid", 4)


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="'simpson' is unknown.*gausslegendre.*clenshawcurtis"):
        rule("simpson", 4)
