"""The strongest words exactly, the others by estimate: `top=m`.

Exact scores take rows for each word. In long texts a screen by slopes finds the words that are
worth them:

    estimate = (2 slope among baselines + screen) / 3      of each word, from a few passes
    exact    the m words of the largest |estimate|: rows in all contexts of the method
    audited  of the other words, a few drawn at random: exact too, they bound what was missed
    scores   of the remaining words: c · estimate, c by least squares through 0 on the exact words

`screens.screen` says what words do in the text. What they do among baselines, the other side of
contexts such as `two_sided`, is seen in `N_GROUPS` rows: in each, every `N_GROUPS`-th word by rank
is halfway to the input, all others are at the baseline, and the slope is taken along those words.
(The midpoint rule for F(x̄ + w) − F(x̄), with as few strong words as possible in a row.) It has
twice the screen's weight, as it is closer to its side. If words move in the input only, the screen
alone is the estimate.

Passes for the estimate do not depend on a text's length, so they pay for long ones only: a text is
explained in full if the rows would exceed `WORTHWHILE` of a full explanation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_sig.attr.held import Held
from captum_sig.attr.slopes import ranks, slopes
from captum_sig.explainers.method_input import MethodInput, Scores
from captum_sig.explainers.methods import mean_of_baselines, sig
from captum_sig.explainers.results import EVIDENCE, Audit
from captum_sig.explainers.screens import screen

N_GROUPS = 8  # rows that show words among baselines
MAX_AUDITED = 9  # words; the bound's confidence is then 0.9
AUDITED_FRACTION = 0.25  # of the words that are not among the m, at most
WORTHWHILE = 2 / 3  # of a full explanation's rows: what estimates and exact rows may take together
SCREEN_COST = 12  # rows without a gradient
GROUPS_COST = 3 * N_GROUPS
EXACT, ESTIMATED, AUDITED, _ = map(EVIDENCE.index, EVIDENCE)


@dataclass(frozen=True)
class Plan:
    """What the words of a text take, in rows without a gradient.

    >>> Plan(400, 50, n_backgrounds=2, both_sides=True).n_rows, Plan(400, 400, 2, True).n_rows
    (156, 802)
    """

    n_words: int  # W, that move
    m: int
    n_backgrounds: int  # K
    both_sides: bool  # whether words move among baselines too

    @property
    def n_audited(self) -> int:
        """The number of words that are drawn at random, at least 1."""
        return min(MAX_AUDITED, max(1, int(AUDITED_FRACTION * (self.n_words - self.m))))

    @property
    def is_in_full(self) -> bool:
        """Whether all words get exact rows."""
        return self.n_words <= self.m or self._n_rows_of_top > WORTHWHILE * self._exact_rows(
            self.n_words
        )

    @property
    def n_rows(self) -> int:
        """The number of rows; a row with a gradient counts three times."""
        return self._exact_rows(self.n_words) if self.is_in_full else self._n_rows_of_top

    @property
    def _n_rows_of_top(self) -> int:
        estimate = SCREEN_COST + GROUPS_COST * self.both_sides
        return estimate + self._exact_rows(self.m + self.n_audited)

    def _exact_rows(self, n_words: int) -> int:
        return self.n_backgrounds * (n_words + 1)


def top_scores(baselines: Sequence[Sequence[MethodInput]], m: int) -> Scores:
    """Score the m strongest words of each text exactly, and estimate the others.

    Args:
        baselines: the batch with each draw of each baseline; words are chosen by their mean
            estimate.
        m: number of words.

    Returns:
        the mean over the baselines, with `evidence` and `audits`.
    """
    draws = [draw for of_baseline in baselines for draw in of_baseline]
    plans = [_plan(draws, number, m) for number in range(len(draws[0].generators))]
    screened = torch.tensor([not plan.is_in_full for plan in plans])
    estimates = [[_estimate(draw, screened) for draw in of_one] for of_one in baselines]
    means = [torch.stack(of_one).mean(0) for of_one in estimates]
    mean = torch.stack(means).mean(0).cpu()  # (B, L)
    evidence = torch.full(mean.shape, EXACT)
    for number, plan in enumerate(plans):
        if not plan.is_in_full:
            evidence[number] = _evidence(draws, number, plan, mean[number])
    is_known = evidence != ESTIMATED
    exact = [[_exact(draw, is_known) for draw in of_one] for of_one in baselines]
    scores = mean_of_baselines(exact)
    scale = _scales(mean, scores.values, is_known)
    filled = [
        [
            replace(of_draw, values=torch.where(is_known, of_draw.values, scale * estimate.cpu()))
            for of_draw, estimate in zip(*of_one, strict=True)
        ]
        for of_one in zip(exact, estimates, strict=True)
    ]
    return replace(
        mean_of_baselines(filled),
        evidence=evidence,
        audits=[
            None if plan.is_in_full else _audit(plan, of_text[of_evidence == AUDITED])
            for plan, of_text, of_evidence in zip(plans, scores.values, evidence, strict=True)
        ],
    )


def _plan(draws: Sequence[MethodInput], number: int, m: int) -> Plan:
    paths = draws[0].problem.paths
    return Plan(
        n_words=len(_words(draws, number)),
        m=m,
        n_backgrounds=paths.n_backgrounds,
        both_sides=_has_both_sides(draws[0]),
    )


def _has_both_sides(batch: MethodInput) -> bool:
    """Whether words move in other backgrounds than the input."""
    return not bool(batch.problem.paths.keeps.all())


def _words(draws: Sequence[MethodInput], number: int) -> Tensor:
    """Return a text's words that move in any draw, by their numbers in the feature mask."""
    moves = [draw.problem.paths.path_of[0][number] >= 0 for draw in draws]
    return draws[0].feature_mask[number][torch.stack(moves).any(0)].unique().cpu()


def _estimate(batch: MethodInput, screened: Tensor) -> Tensor:
    """Estimate the effects of all words of the texts that are screened, (B, L); others are 0."""
    paths = batch.problem.paths
    example = paths.background[: paths.n_words]
    moving = paths.in_input(screened.to(paths.device)[example])
    if len(moving) == 0:
        return torch.zeros(batch.feature_mask.shape, dtype=paths.dtype, device=paths.device)
    in_input = replace(batch, problem=replace(batch.problem, paths=moving))
    in_text = screen(in_input).values
    if not _has_both_sides(batch):
        return in_text
    per_word = _among_baselines(in_input, moving.gather((in_text,)))
    return (2 * moving.scatter(per_word)[0] + in_text) / 3


def _among_baselines(batch: MethodInput, in_text: Tensor) -> Tensor:
    """Estimate what each word does where the others are at the baseline, (P,) → (P,)."""
    rank, _ = ranks(in_text.abs(), batch.problem.paths.background)
    group = rank % N_GROUPS
    in_group = group == torch.arange(N_GROUPS, device=group.device)[:, None]
    held = Held()
    values = slopes(batch.problem, 0.5 * in_group, held)
    if not held.applies:
        values = slopes(batch.problem, 0.5 * in_group)
    return values.gather(0, group[None])[0]


def choose(estimates: Tensor, plan: Plan, generator: torch.Generator) -> Tensor:
    """Choose the words that get exact rows: the evidence of each, (W,) → (W,).

    The m of the largest absolute estimate are exact; those that are audited are drawn at random
    from all others, each as likely as another.
    """
    order = estimates.abs().argsort(descending=True, stable=True)
    others = order[plan.m :]
    drawn = torch.randperm(len(others), generator=generator)[: plan.n_audited]
    evidence = torch.full(estimates.shape, EXACT)
    evidence[others] = ESTIMATED
    evidence[others[drawn]] = AUDITED
    return evidence


def _evidence(draws: Sequence[MethodInput], number: int, plan: Plan, estimate: Tensor) -> Tensor:
    """Choose a text's words that get exact rows: the evidence of its positions, (L,)."""
    mask, words = draws[0].feature_mask[number].cpu(), _words(draws, number)
    of_word = estimate.new_zeros(int(mask.max()) + 1)
    of_word[mask] = estimate
    evidence = torch.full(of_word.shape, EXACT)  # what never moves has an effect of 0
    evidence[words] = choose(of_word[words], plan, draws[0].generators[number])
    return evidence[mask]


def _exact(batch: MethodInput, is_known: Tensor) -> Scores:
    """Score some of the words; the others are NaN."""
    paths = batch.problem.paths
    selected = paths.gather((is_known.to(paths.device),))
    return sig(batch, None if bool(selected.all()) else selected).cpu()


def _scales(estimate: Tensor, exact: Tensor, is_known: Tensor) -> Tensor:
    """Return Σ estimate · exact / Σ estimate² over each text's exact words, (B, 1)."""
    estimate = torch.where(is_known, estimate, 0)
    exact = torch.where(is_known, exact, 0)
    squares = estimate.square().sum(1, keepdim=True)
    return (estimate * exact).sum(1, keepdim=True) / squares.where(squares > 0, 1)


def _audit(plan: Plan, audited: Tensor) -> Audit:
    return Audit(
        n_exact=plan.m,
        n_audited=plan.n_audited,
        n_estimated=plan.n_words - plan.m - plan.n_audited,
        bound=float(audited.abs().max()),
        confidence=plan.n_audited / (plan.n_audited + 1),
    )
