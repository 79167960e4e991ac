"""Shapley values of words: exact where that is cheap, else sampled for words whose sides disagree.

A text's W words play a game, v(S) = F with the words of S at the input and the others at the
baseline. A word's Shapley value is the mean over t = 0 … W − 1 of its mean effect among t other
words that are kept. A two-sided *screen* knows two of these W means, t = 0 and t = W − 1:

    φ_w = 1/W Σ_t E_T [v(T ∪ w) − v(T)],  T a random set of t other words
        = 2/W · two_sided_w + (1 − 2/W) · E[h_w]

    h_w = ½ [v(S ∪ w) − v(S ∖ w)] + ½ the same for the complement of S,
          S a random set of k words, k uniform over 1 … W − 1

The number of other words in S is then as likely to be any of 1 … W − 2; where it is 0 or W − 1,
which the screen knows, the pair is no draw for that word. One pair of backgrounds, S and its
complement, serves all words at two rows each. Antithetic pairs make the estimate exact where
effects are linear in the other words.

Words whose two effects are the same up to rounding are taken as *additive*: they do not change what
others do, and leave the game.

Sources: Shapley, "A value for n-person games" (1953); Castro, Gómez, Molina, Tejada, "Improving
polynomial estimation of the Shapley value by stratified random sampling with optimum allocation",
Computers & Operations Research 82 (2017); Mitchell, Cooper, Frank, Holmes, "Sampling permutations
for Shapley value estimation", JMLR 23 (2022), for antithetic pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig.contexts import Auto

MIN_PAIRS = 6  # of backgrounds, before a word's spread is believed
POOLED_PAIRS = 2  # how much the variance of all words counts in each word's own
MAX_ROWS = 32  # times W + 1, unless the caller sets `max_rows`
EXACT_ROWS = 16  # times W + 1: the most rows that listing every set of words may take
ROUNDINGS = 64  # what two equal values of F may differ by, in units of the dtype's precision
SMALLEST = torch.finfo(torch.float64).tiny  # tells a word whose differences cancel from additive
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, fill [0, 1) evenly, however many


@dataclass(frozen=True)
class Screen:
    """F of the rows of a two-sided sweep of words, (W, …) each; NaN if not evaluated."""

    at_input: Tensor  # all words at the input
    at_baseline: Tensor  # none
    without: Tensor  # all but the word
    alone: Tensor  # only the word

    def texts(self, n_words: Sequence[int]) -> list[Screen]:
        """Split words of several texts, (P, …), in float64 and with all values in one dim, T."""
        fields = (self.at_input, self.at_baseline, self.without, self.alone)
        by_text = (_in_float64(values).split(list(n_words)) for values in fields)
        return [Screen(*values) for values in zip(*by_text, strict=True)]

    @property
    def first(self) -> Tensor:
        """The effect of each word added to none."""
        return self.alone - self.at_baseline

    @property
    def last(self) -> Tensor:
        """The effect of each word left out of all."""
        return self.at_input - self.without

    def disagreement(self, rounding: float) -> Tensor:
        """How much each word's two effects differ, (W,), summed over T.

        0 stands for an additive word, NaN for one that was not evaluated. Where all effects agree,
        but do not add up, each differs by what is missing.
        """
        differences = self.first - self.last
        is_additive = (differences.abs() <= rounding).all(1)
        spread = differences.sum(1).abs().clamp(min=SMALLEST).where(~is_additive, 0.0)
        missing = (self.first.sum(0) - (self.at_input - self.at_baseline)[0]).abs()
        if not spread.any() and (missing > len(spread) * rounding).any():
            return torch.full_like(spread, float(missing.sum()))
        return spread

    def recall(self, keeps: Tensor) -> Tensor:
        """Look up F of rows that keep these words at the input, (R, W) → (R, T); NaN if unknown."""
        n_words = keeps.shape[1]
        n_kept = keeps.sum(1, keepdim=True)
        is_only, is_missing = keeps & (n_kept == 1), ~keeps & (n_kept == n_words - 1)
        values = torch.full((len(keeps), self.alone.shape[1]), torch.nan).double()
        for stands_for, known in (
            (is_only, self.alone),
            (is_missing, self.without),
            (~keeps & (n_kept == 0), self.at_baseline),
            (keeps & (n_kept == n_words), self.at_input),
        ):
            row, word = stands_for.nonzero(as_tuple=True)
            of_words = known[word]
            is_known = ~of_words.isnan().any(1)
            values[row[is_known]] = of_words[is_known]
        return values


def _in_float64(values: Tensor) -> Tensor:  # (N, …) → (N, T), on the CPU
    values = values.cpu().double()
    return values.flatten(1) if values.dim() > 1 else values[:, None]


@dataclass(frozen=True)
class Estimate:
    """A text's Shapley values; words that are not sampled keep their two-sided mean."""

    values: Tensor  # (W, T)
    standard_error: Tensor  # (W, T); 0 if exact, NaN if nothing tells


Evaluate = Callable[[Tensor, Tensor], Tensor]  # as `Problem.coalition_values`
Asking = Generator[Tensor, Tensor, Estimate]  # yields rows' keeps, (R, W); is sent F, (R, T)


def shapley_values(
    screen: Screen, n_words: Sequence[int], contexts: Sequence[Auto], evaluate: Evaluate
) -> tuple[Tensor, Tensor]:
    """Estimate the Shapley values of each text; one call of `evaluate` for what all ask at once.

    Args:
        screen: of all texts' words, (P, …).
        n_words: the number of words of each text; they add up to P.
        contexts: how exact a text's values shall be, what they may cost, and its random generator.
        evaluate: F of rows (example, keeps) of all texts.

    Returns:
        values and standard errors, (P, …) both. Words that are not sampled have their two-sided
        mean, and a standard error of NaN; one of 0 says that the value is exact.
    """
    like = screen.alone
    rounding = ROUNDINGS * torch.finfo(like.dtype).eps
    texts = [
        word_values(of_text, auto, rounding)
        for of_text, auto in zip(screen.texts(n_words), contexts, strict=True)
    ]
    found: dict[int, Estimate] = {}
    replies: dict[int, Tensor | None] = dict.fromkeys(range(len(texts)))
    while replies:
        asked: dict[int, Tensor] = {}
        for number, values in replies.items():
            try:
                asked[number] = texts[number].send(values)  # type: ignore[arg-type]
            except StopIteration as end:
                found[number] = end.value
        replies = _answers(asked, evaluate, like.device) if asked else {}
    estimates = [found[number] for number in range(len(texts))]
    return (
        torch.cat([estimate.values for estimate in estimates]).view(like.shape).to(like),
        torch.cat([estimate.standard_error for estimate in estimates]).view(like.shape).to(like),
    )


def _answers(
    asked: dict[int, Tensor], evaluate: Evaluate, device: torch.device
) -> dict[int, Tensor | None]:
    sizes = [len(keeps) for keeps in asked.values()]
    most_words = max(keeps.shape[1] for keeps in asked.values())
    padded = [
        torch.nn.functional.pad(keeps, (0, most_words - keeps.shape[1])) for keeps in asked.values()
    ]
    example = torch.tensor(list(asked)).repeat_interleave(torch.tensor(sizes))
    values = _in_float64(evaluate(example.to(device), torch.cat(padded).to(device)))
    return dict(zip(asked, values.split(sizes), strict=True))


class Rows:
    """The rows of a text: those of the screen are known, the others are asked for and counted."""

    def __init__(self, screen: Screen, left: int) -> None:
        self.screen = screen
        self.left = left

    def values(self, keeps: Tensor) -> Generator[Tensor, Tensor, Tensor]:
        """F of rows, (R, W) → (R, T)."""
        values = self.screen.recall(keeps)
        is_unknown = values.isnan().any(1)
        if is_unknown.any():
            self.left -= int(is_unknown.sum())
            values[is_unknown] = yield keeps[is_unknown]
        return values


def word_values(screen: Screen, auto: Auto, rounding: float) -> Asking:
    """Estimate a text's Shapley values, asking for the rows that this takes.

    Args:
        screen: of the text; words that it did not evaluate are not sampled, and NaN in the result.
        auto: the tolerance and so on; what is decided is decided on sums over T.
        rounding: what two equal values may differ by, as a fraction of the largest |F|.
    """
    two_sided = (screen.first + screen.last) / 2
    n_words = len(two_sided)
    if n_words == 0:
        return Estimate(two_sided, two_sided)
    most = MAX_ROWS * (n_words + 1) if auto.max_rows is None else auto.max_rows
    rows = Rows(screen, most - 2 * (n_words + 1))
    rounding *= float(torch.cat([screen.without, screen.alone]).abs().nan_to_num(0.0).amax())
    margin = float(auto.tolerance * two_sided.sum(1).abs().nan_to_num(0.0).amax())
    spread = screen.disagreement(rounding)
    exact = Estimate(two_sided, torch.zeros_like(two_sided).where(~two_sided.isnan(), torch.nan))
    if (spread == 0).all():
        return exact
    if not (spread > margin).any():
        return Estimate(two_sided, torch.full_like(two_sided, torch.nan))

    spread, by_set = yield from _interactions(rows, spread, rounding)
    players = spread != 0
    if by_set is not None:
        known = players[:, None] & ~two_sided.isnan()
        return Estimate(_of_all_sets(by_set, players).where(known, two_sided), exact.standard_error)

    words = _affordable(spread.where(spread > margin, 0.0), rows.left)
    generator = _own_generator(auto.generator)
    pairs = yield from _sampled(rows, players, words, margin, generator)
    weight = _weight(int(players.sum()))
    change = weight * (pairs - two_sided).nanmean(0)
    return Estimate(
        two_sided + change.where(words[:, None], 0.0),
        _standard_error(pairs, weight).where(words[:, None], torch.nan),
    )


def _interactions(
    rows: Rows, spread: Tensor, rounding: float
) -> Generator[Tensor, Tensor, tuple[Tensor, Tensor | None]]:
    """Find the words that interact, and evaluate all sets of them if that takes few rows.

    In the game a and (b or c) only a has two effects. So what the additive words add together is
    checked in every set of the others, or in none and all of them. Where it is not the sum of their
    effects, each moves alone; a word that moves otherwise there gets a spread, and so on.

    Returns:
        the spread of each word, (W,), still 0 for additive words, NaN for those that may be; and F
        of all 2ⁿ sets of the others, as `_sets` lists them, (2ⁿ, T), or None.
    """
    first = rows.screen.first
    while True:
        players = spread != 0
        is_listed = _can_list(players, rows.left)
        sets = _sets(players) if is_listed else torch.stack([players & False, players])
        if not is_listed and rows.left < 2:
            return spread.where(players, torch.nan), None
        sides = torch.stack([sets] if players.all() else [sets, sets | ~players])
        values = yield from rows.values(sides.flatten(0, 1))
        by_side = values.unflatten(0, sides.shape[:2])
        missing = (by_side[-1] - by_side[0] - first[~players].sum(0)).abs()
        if not (missing > len(players) * rounding).any():
            return spread, by_side.mean(0) if is_listed else None
        worst = sides[:, missing.sum(1).argmax()]
        change = yield from _changes(rows, worst, ~players)
        found = (change > 2 * rounding).any(1)
        more = change.sum(1).clamp(min=SMALLEST).where(found, 0.0 if found.any() else torch.nan)
        spread = spread.index_put((~players,), more)


def _changes(rows: Rows, sides: Tensor, words: Tensor) -> Generator[Tensor, Tensor, Tensor]:
    """Compare each word's effect in two backgrounds, one with none and one with all of these words.

    Returns:
        the larger distance from the effect that it has alone, (Z, T); NaN if the rows are spent.
    """
    toggled = sides[:, None] ^ torch.eye(len(words), dtype=torch.bool)[words]
    asked = torch.cat([sides[:, None], toggled], 1)  # (2, 1 + Z, W)
    first = rows.screen.first[words]
    if asked.shape[0] * asked.shape[1] > rows.left:
        return torch.full_like(first, torch.nan)
    values = (yield from rows.values(asked.flatten(0, 1))).unflatten(0, asked.shape[:2])
    added, left_out = values[0, 1:] - values[0, :1], values[1, :1] - values[1, 1:]
    return torch.maximum((added - first).abs(), (left_out - first).abs())


def _can_list(players: Tensor, rows_left: int) -> bool:
    """Whether F of all sets of players costs little, with the other words on either side."""
    n_words = len(players)
    n_sets = 2 ** int(players.sum()) * (1 if players.all() else 2)
    return n_sets - 2 * (n_words + 1) <= min(rows_left, EXACT_ROWS * (n_words + 1))


def _sets(players: Tensor) -> Tensor:
    """List all sets of n players, (2ⁿ, W)."""
    n = int(players.sum())
    sets = torch.zeros(2**n, len(players), dtype=torch.bool)
    sets[:, players] = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).bool()
    return sets


def _of_all_sets(by_set: Tensor, players: Tensor) -> Tensor:
    """Compute the players' Shapley values from F of all their sets, (2ⁿ, T) → (W, T)."""
    n = int(players.sum())
    sets = _sets(players)
    ways = torch.tensor([math.comb(n - 1, k) for k in range(n)] + [1], dtype=torch.float64)
    size = sets.sum(1)
    # a set of size s stands for w among s − 1 others if it holds w, else without w among s
    share = torch.where(sets, 1 / ways[(size - 1).clamp(min=0), None], -1 / ways[size, None]) / n
    return share.T @ by_set


def _affordable(spread: Tensor, rows_left: int) -> Tensor:
    """Take as many of the words that differ most as the rows give `MIN_PAIRS` of, (W,) bool."""
    n = max(0, min(int((spread > 0).sum()), rows_left // (2 * MIN_PAIRS) - 1))
    chosen = torch.zeros_like(spread, dtype=torch.bool)
    chosen[spread.argsort(descending=True, stable=True)[:n]] = True
    return chosen


def _sampled(
    rows: Rows, players: Tensor, words: Tensor, target: float, generator: torch.Generator
) -> Generator[Tensor, Tensor, Tensor]:
    """Evaluate pairs of backgrounds until each word's standard error is at most the target.

    Returns:
        h of each pair, (J, W, T); NaN for words that were not asked for, or not any more.
    """
    backgrounds = _backgrounds(players, generator)
    weight = _weight(int(players.sum()))
    n_words, n_values = rows.screen.alone.shape
    pairs = rows.screen.alone.new_zeros(0, n_words, n_values)
    wanted = MIN_PAIRS
    while words.any():
        n_pairs = min(wanted, rows.left // (2 * (1 + int(words.sum()))))
        if n_pairs == 0:
            break
        keeps = torch.stack([next(backgrounds) for _ in range(n_pairs)])
        more = yield from _pair_effects(rows, torch.stack([keeps, ~keeps], 1), words)
        others_kept = (keeps & players).sum(1, keepdim=True) - keeps.long()
        is_inner = (others_kept > 0) & (others_kept < players.sum() - 1)
        more = more.where(is_inner[:, :, None], torch.nan)
        pairs = torch.cat([pairs, more])
        errors = _standard_error(pairs.sum(2), weight)
        words = words & (errors > target)
        if words.any():  # as many as the largest error needs, but at most twice as many
            excess = float((errors[words] / target).amax() ** 2) - 1
            wanted = math.ceil(len(pairs) * min(1.0, excess))
    return pairs


def _pair_effects(
    rows: Rows,
    keeps: Tensor,  # (J, 2, W): backgrounds and their complements
    words: Tensor,  # (W,) bool
) -> Generator[Tensor, Tensor, Tensor]:
    """Evaluate h of these words in each pair, (J, W, T); NaN where it is not wanted or known."""
    toggled = keeps[:, :, None] ^ torch.eye(len(words), dtype=torch.bool)[words]
    asked = torch.cat([keeps[:, :, None], toggled], 2)  # (J, 2, 1 + A, W)
    values = (yield from rows.values(asked.flatten(0, 2))).unflatten(0, asked.shape[:3])
    gained = values[:, :, 1:] - values[:, :, :1]
    effects = torch.where(keeps[:, :, words, None], -gained, gained).mean(1)
    pairs = effects.new_full((len(keeps), *rows.screen.alone.shape), torch.nan)
    pairs[:, words] = effects
    return pairs


def _backgrounds(players: Tensor, generator: torch.Generator) -> Generator[Tensor, None, None]:
    """Draw the smaller background of each pair, (W,) bool, with sizes spread evenly.

    Any one of them has a size that is uniform over its range; other words are kept at random.
    """
    n = int(players.sum())
    place = float(torch.rand((), generator=generator, dtype=torch.float64))
    while True:
        size = 1 + int((n - 1) * place / 2)
        order = torch.randperm(n, generator=generator)
        keeps = torch.rand(len(players), generator=generator) < 0.5
        keeps[players] = order < size
        yield keeps
        place = (place + GOLDEN) % 1


def _weight(n_players: int) -> float:
    """The weight of the mean of h; the two-sided mean has the rest."""
    return 1 - 2 / n_players


def _standard_error(pairs: Tensor, weight: float) -> Tensor:
    """Estimate the standard error of weight · mean over pairs, (J, W, …) → (W, …); NaN ignored.

    A few pairs may agree by chance, and a word would stop for it: `POOLED_PAIRS` more stand in each
    word's variance, with the mean variance of the words.

    Source: Smyth, "Linear models and empirical Bayes methods for assessing differential expression
    in microarray experiments", Statistical Applications in Genetics and Molecular Biology 3 (2004).
    """
    n = (~pairs.isnan()).sum(0)
    squares = (pairs - pairs.nanmean(0)).square().nansum(0)
    of_words = (squares / (n - 1)).where(n > 1, torch.nan).nanmean(0)
    variance = (squares + POOLED_PAIRS * of_words) / (n - 1 + POOLED_PAIRS)
    return weight * (variance / n).where(n > 1, torch.nan).sqrt()


def _own_generator(generator: torch.Generator | None) -> torch.Generator:
    """Seed a generator by one draw: a text's draws do not depend on how many others take."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.Generator().manual_seed(seed)
