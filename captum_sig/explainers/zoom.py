"""Which units of a text to open, within a budget of rows: `level="auto"`.

    text        F(x) − F(x̄), x̄ the text with all its words at the baseline
    coarsest    the effect of each unit at the top of the outline
    opened      by halves: the parts of each unit that matters, and of each part that does;
                by slopes: paragraphs so, and then the words that slopes at the input rank highest
    unhidden    the parts of a unit that have less than `EXPLAINED` of its weight also move
                together: if their own effects sum to less than `HIDDEN` of that, they hide each
                other, and each also moves where the others are at the baseline; so do the parts
                of such a part
    audited     a few of the remaining words, drawn at random

The *weight* of effects on T values is Σ_t |effect_t|. A unit matters if its weight, hidden or not,
is at least `SHARE` of the text's. All effects are exact, see `unit_effects`;
only words that the slopes rank low, in units of which others are opened, have estimates.

Halves need no gradient, and their rows share what stands before a change: they serve language
models. Among a classifier's words, many matter a little, and those of a phrase often cancel: slopes
find more of the strongest in as many rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_sig.explainers.results import Audit
from captum_sig.explainers.unit_effects import UnitEffects
from captum_sig.words.outline import Part

SHARE = 0.05  # of the text's weight: what matters
EXPLAINED = 0.25  # of a unit's weight: parts that have less may hide each other,
HIDDEN = 0.5  # if their effects sum to less than this fraction of their effect together
FRACTION = 5  # the budget is the full sweep's rows divided by this, if the caller gives none,
LEAST_BUDGET = 64  # and at least so many rows
ROWS_PER_AUDITED = 20  # of the budget, for each word that is audited,
MAX_AUDITED = 9  # of which there are no more; the bound's confidence is then 0.9
UNITS_FRACTION = 3  # by slopes, one row in so many of the budget goes to units, at most
SLOPE_COST = 3  # rows that a row with a gradient counts
MIN_ESTIMATE = 0.01  # of the largest: weaker words are not opened
ROUNDS = 10  # in which words are opened by what is known of their neighbors
REACH = 2  # words on each side that are neighbors

Key = tuple[str, int, int]  # a part's level, and first and stop of its words
Weigh = Callable[[Tensor], Tensor]  # effects (N, T) → (N,)


def weight(effects: Tensor) -> Tensor:
    """Σ_t |effect_t|, (N, T) → (N,)."""
    return effects.abs().sum(-1)


def weight_of_tokens(effects: Tensor) -> Tensor:
    """Σ_t |effect_t| of T tokens, without that on all of them, (N, T + 1) → (N,)."""
    return weight(effects[..., :-1])


def key_of(part: Part) -> Key:
    """Return what tells a part from others of its text."""
    return part.level, part.first, part.stop


@dataclass
class Zoom:
    """What is measured of a text, within its budget.

    Args:
        outline: the text's parts.
        draws: its words with each draw of each baseline; baselines have the same weight.
        wanted: rows of all draws together; None chooses.
        weigh: the weight of effects.
        where: the text's name, for messages.

    Raises:
        ValueError: if the coarsest units take more rows than wanted.
    """

    outline: Part
    draws: Sequence[Sequence[UnitEffects]]
    wanted: int | None
    weigh: Weigh = weight
    where: str = "the text"
    effects: dict[Key, Tensor] = field(default_factory=dict)  # (T,) of each part that is measured
    alone: dict[Key, Tensor] = field(default_factory=dict)  # (T,): without what hides the part,
    held: dict[Key, Tensor] = field(default_factory=dict)  # which are these words, (W,)
    opened: set[Key] = field(default_factory=set)  # whose parts are measured, or some of the words
    estimates: Tensor | None = None  # (W, T), for words that are not measured
    audited: set[Key] = field(default_factory=set)  # words
    audit_bounds: Tensor | None = None  # (T,): the largest effects of audited words
    audit_bound: float | None = None  # their largest weight
    n_slope_rows: int = 0
    n_reserved: int = 0  # rows for the audit

    def __post_init__(self) -> None:
        needed = self.n_new([self.outline, *self.outline.parts])
        least = min(needed, self.n_rows_of_all_words)
        if self.wanted is not None and self.wanted < least:
            n, level = len(self.outline.parts), self.outline.parts[0].level
            raise ValueError(
                f"budget={self.wanted} is too small for {self.where}: its {n} "
                f"{level}{'' if n == 1 else 's'} and the whole take {needed} rows; pass at least "
                "that, or coarser units"
            )
        chosen = max(LEAST_BUDGET, self.n_rows_of_all_words // FRACTION, needed)
        if chosen >= self.n_rows_of_all_words:
            chosen = self.n_new([*self.words, *self.whole_units])
        self.budget = chosen if self.wanted is None else self.wanted

    @property
    def units(self) -> list[UnitEffects]:
        """All draws of all baselines."""
        return [draw for draws in self.draws for draw in draws]

    @property
    def n_rows(self) -> int:
        """The number of rows so far; a row with a gradient counts `SLOPE_COST`."""
        return self.n_slope_rows + sum(draw.n_rows for draw in self.units)

    @property
    def n_rows_of_all_words(self) -> int:
        """The rows of a full sweep, in which each word moves by itself."""
        return sum(draw.n_rows_of_all_words for draw in self.units)

    @property
    def n_left(self) -> int:
        """The number of rows that may still be evaluated."""
        return self.budget - self.n_reserved - self.n_rows

    @property
    def words(self) -> list[Part]:
        """All words."""
        return [part for part in self.outline if part.n_words == 1 and not part.parts]

    @property
    def whole_units(self) -> list[Part]:
        """The text and its units above phrases, the coarsest first."""
        found, level = [], [self.outline]
        while level:
            found += [part for part in level if part.parts]
            level = [one for part in level for one in part.parts if one.level != "phrase"]
        return found

    def n_new(self, parts: Sequence[Part]) -> int:
        """Return how many rows the parts' effects would take."""
        if not parts:
            return 0
        sets = self.sets(parts)
        return sum(draw.n_new(sets) for draw in self.units)

    def measure(self, parts: Sequence[Part]) -> None:
        """Compute the effects of parts."""
        if parts:
            sets = self.sets(parts)
            mean = self._mean(lambda draw: draw(sets).mean)
            self.effects.update(zip(map(key_of, parts), mean, strict=True))

    def measure_unhidden(self, parts: Sequence[Part], held: Tensor) -> None:
        """Compute the effects of parts where others are held at the baseline, if rows are left.

        Args:
            parts: N of them.
            held: the words that hide them, (N, W).
        """
        sets = self.sets(parts)
        if sum(draw.n_new_among_held(sets, held) for draw in self.units) <= self.n_left:
            mean = self._mean(lambda draw: draw.among_held(sets, held))
            for part, of_part, words in zip(parts, mean, held, strict=True):
                self.alone[key_of(part)], self.held[key_of(part)] = of_part, words

    def unhide(self, part: Part) -> None:
        """Measure the parts of a part without what hides them.

        That is each other, if their effects sum to too little, and what hides the part itself.
        """
        hidden = self.hidden_parts(part)
        parts = part.parts if key_of(part) in self.held else hidden
        if parts:
            sets, pool = self.sets(parts), self.sets(hidden).any(0)
            is_hidden = torch.tensor([one in hidden for one in parts])[:, None]
            held = self.held.get(key_of(part), torch.zeros_like(pool)) | (pool & is_hidden & ~sets)
            self.measure_unhidden(parts, held)

    def hidden_parts(self, part: Part) -> list[Part]:
        """Return the parts of a part that have little effect each, and much together.

        It takes a row, unless that are all parts.
        """
        of_part = self.effects[key_of(part)]
        least = EXPLAINED * float(self.weigh(of_part[None]))
        weak = [
            one for one in part.parts if float(self.weigh(self.effects[key_of(one)][None])) < least
        ]
        if len(weak) < 2:
            return []
        together = of_part
        if len(weak) < len(part.parts):
            pool = self.sets(weak).any(0, keepdim=True)
            if sum(draw.n_new(pool) for draw in self.units) > self.n_left:
                return []
            (together,) = self._mean(lambda draw: draw(pool).mean)
        if float(self.weigh(together[None])) < self.least_weight:
            return []
        total = torch.stack([self.effects[key_of(one)] for one in weak]).sum(0)
        return weak if (total * together).sum() < HIDDEN * together.square().sum() else []

    @property
    def least_weight(self) -> float:
        """The weight that matters."""
        return SHARE * max(map(self.weight_of, [self.outline, *self.outline.parts]))

    def weight_of(self, part: Part) -> float:
        """Return the larger weight of a measured part: as it is, and without what hides it."""
        sides = [self.effects[key_of(part)], self.alone.get(key_of(part))]
        return max(float(self.weigh(side[None])) for side in sides if side is not None)

    def sets(self, parts: Sequence[Part]) -> Tensor:  # (N, W)
        first, stop = (torch.tensor([getattr(p, of) for p in parts]) for of in ("first", "stop"))
        word = torch.arange(self.outline.stop)
        return (word >= first[:, None]) & (word < stop[:, None])

    def _mean(self, of_draw: Callable[[UnitEffects], Tensor]) -> Tensor:
        """Average over the draws of each baseline, and the baselines."""
        means = [torch.stack([of_draw(draw) for draw in draws]).mean(0) for draws in self.draws]
        return torch.stack(means).mean(0)


OpenUnits = Callable[[Zoom], None]


def zoom_in(zoom: Zoom, open_units: OpenUnits, generator: torch.Generator) -> None:
    """Measure a text: the whole, its coarsest units, and within the budget what is in them.

    Args:
        zoom: of which nothing is measured; it is changed in place.
        open_units: `by_halves`, or `by_slopes` of something.
        generator: draws the words that are audited.
    """
    if zoom.n_rows_of_all_words <= zoom.n_left:  # the budget covers the full sweep
        zoom.measure(zoom.words)
        for part in zoom.whole_units:
            if zoom.n_new([part]) <= zoom.n_left:
                zoom.measure([part])
        zoom.opened.update(key_of(part) for part in zoom.outline if part.parts)
        return
    zoom.measure([zoom.outline, *zoom.outline.parts])
    zoom.opened.add(key_of(zoom.outline))
    n_audited = _n_audited(zoom)
    zoom.unhide(zoom.outline)
    open_units(zoom)
    zoom.n_reserved = 0
    _audit(zoom, n_audited, generator)


def by_halves(zoom: Zoom) -> None:
    """Open what matters, the largest weight first."""
    _open_parts(zoom, lambda part: True)


def by_slopes(slopes: Callable[[], Tensor], n_slopes: int) -> OpenUnits:
    """Open paragraphs as `by_halves` does, and then the words of the largest slopes.

    Args:
        slopes: computes slopes of several kinds of each word, (n, W).
        n_slopes: the number of rows that they take at most, each with a gradient.
    """

    def open_units(zoom: Zoom) -> None:
        reserved = zoom.n_reserved
        zoom.n_reserved += zoom.budget - zoom.budget // UNITS_FRACTION
        _open_parts(zoom, lambda part: part.parts[0].level not in ("phrase", "word"))
        zoom.n_reserved = reserved
        if zoom.n_left > SLOPE_COST * n_slopes:
            zoom.n_slope_rows += SLOPE_COST * n_slopes
            _open_words(zoom, slopes())

    return open_units


def _open_parts(zoom: Zoom, may_open: Callable[[Part], bool]) -> None:
    """Open the parts of the text that matter, and theirs, the largest weight first."""
    least = zoom.least_weight
    queue: list[tuple[float, int, Part]] = []

    def add(parts: Sequence[Part]) -> None:
        for part in parts:
            of_part = zoom.weight_of(part)
            if part.parts and of_part >= least and of_part > 0 and may_open(part):
                heapq.heappush(queue, (-of_part, part.first, part))

    add(zoom.outline.parts)
    while queue:
        *_, part = heapq.heappop(queue)
        if zoom.n_new(part.parts) <= zoom.n_left:
            zoom.measure(part.parts)
            zoom.opened.add(key_of(part))
            zoom.unhide(part)
            add(part.parts)


def _open_words(zoom: Zoom, slopes: Tensor) -> None:  # (n, W)
    """Measure words of large slopes and with strong neighbors, and estimate the others.

    Half of the rows go by slopes alone. The others go in `ROUNDS` rounds, by slopes and by what is
    known of the words on both sides: strong words stand together.
    """
    words = zoom.words
    by_slopes = _scaled(slopes.abs()).mean(0)
    known: dict[int, Part] = {}
    n_first = zoom.n_left // 2
    n_round = max(1, (zoom.n_left - n_first) // ROUNDS)
    least = MIN_ESTIMATE * by_slopes.max()
    while True:
        rank = by_slopes + _of_neighbors(zoom, len(words))
        rank[list(known)] = -1.0
        n_rows = min(zoom.n_left, n_round if known else n_first)
        chosen: list[Part] = []
        for number in rank.argsort(descending=True, stable=True).tolist():
            part = words[number]
            if rank[number] <= least or zoom.n_new([*chosen, part]) > n_rows:
                break
            chosen.append(part)
        if not chosen:
            break
        zoom.measure(chosen)
        known.update((part.first, part) for part in chosen)
    if known:
        zoom.estimates = _fitted(zoom, slopes.T, list(known.values()))
    for part in zoom.outline:
        if part.parts and any(part.first <= number < part.stop for number in known):
            zoom.opened.add(key_of(part))


def _scaled(sizes: Tensor) -> Tensor:
    """Divide by the root mean square along the last dimension."""
    scale = sizes.square().mean(-1, keepdim=True).sqrt()
    return sizes / scale.where(scale > 0, 1)


def _of_neighbors(zoom: Zoom, n_words: int) -> Tensor:
    """Average the weights of known words around each, nearer ones more, shrunk to 0; (W,)."""
    known = [word for word in zoom.words if key_of(word) in zoom.effects]
    if not known:
        return torch.zeros(n_words)
    of_known = zoom.weigh(torch.stack([zoom.effects[key_of(word)] for word in known]))
    place = torch.tensor([word.first for word in known])
    distance = (torch.arange(n_words)[:, None] - place).abs()
    near = torch.where((distance > 0) & (distance <= REACH), 1 / distance, 0.0).to(of_known)
    return ((near @ _scaled(of_known)) / (near.sum(1) + 0.5)).float()


def _fitted(zoom: Zoom, slopes: Tensor, known: Sequence[Part]) -> Tensor:  # (W, n) → (W, T)
    """Estimate all words' effects by least squares through 0 on those that are known."""
    exact = torch.stack([zoom.effects[key_of(word)] for word in known])
    slopes = slopes.to(exact)
    of_known = slopes[[word.first for word in known]]
    return slopes @ torch.linalg.lstsq(of_known, exact, driver="gelsd").solution


def _n_audited(zoom: Zoom) -> int:
    """Choose the number of words to audit, and reserve their rows."""
    n_rows = sum(draw.n_backgrounds for draw in zoom.units)  # of a word
    n = min(MAX_AUDITED, max(1, zoom.budget // (ROWS_PER_AUDITED * n_rows)), zoom.n_left // n_rows)
    zoom.n_reserved = n * n_rows
    return n


def _audit(zoom: Zoom, n_audited: int, generator: torch.Generator) -> None:
    """Measure some of the remaining words, each as likely as another."""
    others = [word for word in zoom.words if key_of(word) not in zoom.effects]
    drawn = [others[n] for n in torch.randperm(len(others), generator=generator)[:n_audited]]
    while zoom.n_new(drawn) > zoom.n_left:
        drawn.pop()
    if drawn:
        zoom.measure(drawn)
        zoom.audited.update(map(key_of, drawn))
        effects = torch.stack([zoom.effects[key_of(word)] for word in drawn])
        zoom.audit_bounds = effects.abs().amax(0)
        zoom.audit_bound = float(zoom.weigh(effects).max())


def audits(zoom: Zoom) -> list[Audit | None]:
    """Return what a word without an exact score may be worth, for each value."""
    if zoom.audit_bounds is None:
        return [None] * len(next(iter(zoom.effects.values())))
    return [_audited(zoom, bound) for bound in zoom.audit_bounds.tolist()]


def audit(zoom: Zoom) -> Audit | None:
    """Return what a word without an exact score may be worth, by its weight."""
    return None if zoom.audit_bound is None else _audited(zoom, zoom.audit_bound)


def _audited(zoom: Zoom, bound: float) -> Audit:
    n = len(zoom.audited)
    n_known = sum(key_of(word) in zoom.effects for word in zoom.words)
    return Audit(
        n_exact=n_known - n,
        n_audited=n,
        n_estimated=len(zoom.words) - n_known,
        bound=bound,
        confidence=n / (n + 1),
    )
