"""How many gradients a word needs: ways to integrate to a tolerance, on measured integrands.

    python -m tests.benchmarks.schemes --model FOLDER --data dev.tsv --integrands FILE

The integrands of all words are measured once, at 129 Chebyshev points, and kept in FILE; every
scheme then reads them off there (between the points by their polynomial of degree 128).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from captum_sig.attr import adaptive
from captum_sig.quadrature import clenshaw_curtis, gauss_legendre
from tests.benchmarks import subjects
from tests.benchmarks.record import add_record_option, show_and_record

Floats = np.ndarray
POINTS = 129
LEVELS = [2**k + 1 for k in range(1, 8)]  # 3, 5, 9, …, 129


@dataclass(frozen=True)
class WordPath:
    """One word: integrand (129, D), F (129,), its integral and the norm of the largest word's."""

    integrand: Floats
    values: Floats
    integral: Floats
    scale: float

    def at(self, nodes: Floats) -> tuple[Floats, Floats]:
        """Integrand (n, D) and F (n,) at any nodes."""
        matrix = _interpolation(nodes)
        return matrix @ self.integrand, matrix @ self.values


Scheme = Callable[[WordPath, float], tuple[int, Floats]]  # → nodes, and the integral it gives


def doubling(use_values: bool) -> Scheme:
    """Clenshaw-Curtis with 3, 5, 9, … nodes until residual ≤ tol and change ≤ 3 tol.

    Or, using F at the nodes, until the running error's margins hold in place of the change.
    """

    def scheme(path: WordPath, tolerance: float) -> tuple[int, Floats]:
        previous = None
        for n in LEVELS:
            rule = clenshaw_curtis(n)
            integrand, values = path.at(rule.nodes)
            found = rule.weights @ integrand
            residual = abs(found.sum() - values[-1] + values[0])
            if use_values:
                running = _polynomial_running_error(rule.nodes, integrand.sum(1), values)
                small = n >= 9 and adaptive.RUNNING_MARGIN * running <= tolerance * path.scale
            else:
                small = previous is not None and (
                    np.linalg.norm(found - previous) <= 3 * tolerance * path.scale
                )
            if small and residual <= tolerance * path.scale:
                break
            previous = found
        return n, found

    return scheme


def leja(path: WordPath, tolerance: float) -> tuple[int, Floats]:
    """Leja points, two at a time, until residual ≤ tol and two changes ≤ tol."""
    previous, quiet = None, 0
    for n in range(3, POINTS, 2):
        nodes = np.sort(_leja_points()[:n])
        integrand, values = path.at(nodes)
        found = _interpolatory_weights(nodes) @ integrand
        residual = abs(found.sum() - values[-1] + values[0])
        if previous is not None:
            calm = np.linalg.norm(found - previous) <= tolerance * path.scale
            quiet = quiet + 1 if calm else 0
        if quiet >= 2 and residual <= tolerance * path.scale:
            break
        previous = found
    return n, found


def refining(path: WordPath, tolerance: float) -> tuple[int, Floats]:
    """This package's: panels are halved where F and the running integral part."""
    nodes = adaptive.first_nodes()
    while True:
        integrand, values = path.at(nodes)
        weights = adaptive.panel_weights(nodes[None])
        panels, running, residual = adaptive.running_error(
            weights, integrand.sum(1)[None], values[None]
        )
        change = (weights - adaptive.panel_weights(nodes[None], below=1))[0] @ integrand
        doubts = np.linalg.norm(change, axis=1)[None]
        error = adaptive.path_error(residual, running, doubts)[0]
        if error <= tolerance * path.scale or len(nodes) >= POINTS:
            return len(nodes), weights[0].sum(0) @ integrand
        worst = np.maximum(panels, doubts)[0]
        more = adaptive.more_nodes(nodes, worst, POINTS - len(nodes))
        nodes = np.sort(np.concatenate([nodes, more]))


def best_fixed(rule: Callable[[int], object]) -> Scheme:
    """The fewest nodes of a rule that keep the promise, known only in hindsight."""

    def scheme(path: WordPath, tolerance: float) -> tuple[int, Floats]:
        for n in range(3, 66):
            chosen = rule(n)
            found = chosen.weights @ path.at(chosen.nodes)[0]
            if np.linalg.norm(found - path.integral) <= tolerance * path.scale:
                break
        return n, found

    return scheme


SCHEMES: dict[str, Scheme] = {
    "Clenshaw-Curtis doubled, residual and change": doubling(use_values=False),
    "Clenshaw-Curtis doubled, running error by F": doubling(use_values=True),
    "Leja points, residual and two changes": leja,
    "panels halved, running error by F (ours)": refining,
    "Clenshaw-Curtis, best n in hindsight": best_fixed(clenshaw_curtis),
    "Gauss-Legendre, best n in hindsight": best_fixed(gauss_legendre),
}


def measure(subject: subjects.Subject) -> list[tuple[int, Floats, Floats]]:
    """Of every word the sentence's number, integrand (129, D), F (129,)."""
    alpha = torch.tensor(clenshaw_curtis(POINTS).nodes)
    found = []
    for number, ids in enumerate(tqdm(subject.sentences, desc="sentences")):
        x, b = (subject.embedding(of)[0].detach() for of in (ids, subject.base(ids)))
        target = subject.target(ids)
        for word in (x != b).any(1).nonzero()[:, 0].tolist():
            step = x[word] - b[word]
            gradients, values = [], []
            for some in alpha.to(x.dtype).split(43):
                rows = x.repeat(len(some), 1, 1)
                rows[:, word] = b[word] + some[:, None] * step
                rows.requires_grad_()
                output = subject.logits_of_embeddings(rows)[:, target]
                (gradient,) = torch.autograd.grad(output.sum(), rows)
                gradients.append(gradient[:, word] * step)
                values.append(output.detach())
            found.append((number, torch.cat(gradients).numpy(), torch.cat(values).numpy()))
    return found


def paths(measured: list[tuple[int, Floats, Floats]]) -> list[WordPath]:
    """With each word's integral, and its sentence's largest."""
    weights = clenshaw_curtis(POINTS).weights
    integrals = [weights @ integrand.astype(float) for _, integrand, _ in measured]
    scales: dict[int, float] = {}
    for (number, _, _), integral in zip(measured, integrals, strict=True):
        scales[number] = max(scales.get(number, 0.0), float(np.linalg.norm(integral)))
    return [
        WordPath(integrand.astype(float), values.astype(float), integral, scales[number])
        for (number, integrand, values), integral in zip(measured, integrals, strict=True)
    ]


def _interpolation(nodes: Floats) -> Floats:
    """(n, 129): from values at the 129 points to values at the nodes."""
    points = clenshaw_curtis(POINTS).nodes
    weights = (-1.0) ** np.arange(POINTS)
    weights[[0, -1]] /= 2
    gaps = nodes[:, None] - points
    at_point = np.abs(gaps) < 1e-14
    terms = weights / np.where(at_point, 1, gaps)
    matrix = terms / terms.sum(1, keepdims=True)
    rows = at_point.any(1)
    matrix[rows] = at_point[rows]
    return matrix


def _interpolatory_weights(nodes: Floats) -> Floats:
    """Weights of the polynomial through all nodes."""
    basis = np.polynomial.legendre.legvander(2 * nodes - 1, len(nodes) - 1)
    return np.linalg.solve(basis.T, np.eye(len(nodes))[0])


def _polynomial_running_error(nodes: Floats, slopes: Floats, values: Floats) -> float:
    legendre = np.polynomial.legendre
    coefficients = legendre.legfit(2 * nodes - 1, slopes, len(nodes) - 1)
    integral = legendre.legval(2 * nodes - 1, legendre.legint(coefficients, lbnd=-1)) / 2
    return float(np.sqrt(((integral - values + values[0])[1:] ** 2).mean()))


def _leja_points(known: list[Floats] = []) -> Floats:  # noqa: B006, computed once
    if not known:
        points = clenshaw_curtis(POINTS).nodes
        order = [POINTS - 1, 0, POINTS // 2]
        while len(order) < POINTS:
            with np.errstate(divide="ignore"):
                order.append(int(np.log(np.abs(points[:, None] - points[order])).sum(1).argmax()))
        known.append(points[order])
    return known[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "data", "integrands"):
        parser.add_argument(f"--{name}", type=Path, required=name == "integrands")
    parser.add_argument("--sentences", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    add_record_option(parser)
    options = parser.parse_args()
    if options.integrands.exists():
        measured = torch.load(options.integrands, weights_only=True)
        measured = [(number, g.numpy(), v.numpy()) for number, g, v in measured]
    else:
        subject = subjects.from_folder(
            options.model, options.data, options.sentences, options.seed, "cpu", torch.float32,
            compiled=False,
        )  # fmt: skip
        measured = measure(subject)
        torch.save(
            [(k, torch.from_numpy(g), torch.from_numpy(v)) for k, g, v in measured],
            options.integrands,
        )
    words = paths(measured)
    rows = []
    for name, scheme in SCHEMES.items():
        for tolerance in (1e-2, 1e-3):
            results = [(path, *scheme(path, tolerance)) for path in words]
            nodes = np.mean([n for _, n, _ in results])
            off = np.array([np.linalg.norm(f - p.integral) / p.scale for p, _, f in results])
            rows.append({
                "scheme": name, "tolerance": tolerance, "gradients_a_word": nodes,
                "broken": (off > tolerance).mean(), "worst_of_tolerance": off.max() / tolerance,
            })  # fmt: skip
    show_and_record(options, __spec__.name, {"schemes": rows}, {"words": len(words)})


if __name__ == "__main__":
    main()
