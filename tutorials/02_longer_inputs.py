"""Tutorial 2: the LSTM question. Why does IG's convergence delta grow with the input's length?

Users of recurrent models report it, and ask for other ways to integrate. Here is an LSTM that has
the trouble; its paths show where it comes from, and integrals to a tolerance end it: for SIG, and
for IG itself.

Runs as a script or cell by cell, on one core. The LSTM's weights are included. `SEED=4 python
02_longer_inputs.py` trains another first, in half a minute, and draws other texts: the numbers
change, and what is asserted stays true.
"""

# %% The sizes are the least that shows it; raise EXAMPLES and WORDS for steadier numbers.
import os
import warnings
from pathlib import Path

import torch
from captum.attr import LayerIntegratedGradients
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from captum_sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients

LENGTHS = (8, 16, 32, 64, 128)
EXAMPLES = 12  # of each length
WORDS = 3  # explained by SIG in each: as many at every length, so that the worst can be compared
N_STEPS = (10, 50, 200)
TOLERANCES = (1e-2, 1e-3)
ROWS = 512  # in a pass
WEIGHTS = Path(__file__).with_name("02_longer_inputs.safetensors")  # those of seed 3
SEED = int(os.environ.get("SEED", 3))

# %% A task with order in it: are there more good words than bad ones? After a NOT each word counts
# the other way, until a BUT; neutral words stand between.
MASK, NOT, BUT = range(3)
GOOD, BAD, NEUTRAL, END = 3, 7, 11, 16  # where each group of words begins
FEATURES, HIDDEN = 8, 16
generator = torch.Generator().manual_seed(SEED)


def sequences(n: int, length: int) -> Tensor:
    """Token ids, (n, length)."""
    ids = torch.randint(GOOD, END, (n, length), generator=generator)
    turn = torch.rand(n, length, generator=generator)
    return ids.masked_fill(turn < 0.08, NOT).masked_fill(turn < 0.04, BUT)


def labels(ids: Tensor) -> Tensor:
    """1 where the good words are more, (n,)."""
    turns = torch.where((ids == NOT) | (ids == BUT), torch.arange(ids.shape[1]), -1)
    latest = turns.cummax(1).values
    negated = (latest >= 0) & (ids.gather(1, latest.clamp(min=0)) == NOT)
    votes = ((ids >= GOOD) & (ids < BAD)).long() - ((ids >= BAD) & (ids < NEUTRAL)).long()
    return (torch.where(negated, -votes, votes).sum(1) > 0).long()


class Classifier(nn.Module):
    """Embedding, LSTM, and a head on the last state."""

    def __init__(self) -> None:
        """Random weights, of one seed always the same."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.embedding = nn.Embedding(END, FEATURES)
            self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
            self.head = nn.Linear(HIDDEN, 2)

    def read(self, embedded: Tensor) -> Tensor:
        """Embeddings (B, L, D) to logits (B, 2)."""
        return self.head(self.lstm(embedded)[0][:, -1])

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to logits (B, 2)."""
        return self.read(self.embedding(ids))


def train(model: Classifier) -> None:
    """On 3000 batches of 4 to 131 words."""
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=3000)
    for _ in range(schedule.total_steps):
        ids = sequences(64, int(4 * 33 ** torch.rand(1, generator=generator)))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids), labels(ids)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


model = Classifier()
if "SEED" not in os.environ and WEIGHTS.exists():
    load_model(model, WEIGHTS)
else:
    train(model)
    if not WEIGHTS.exists():
        save_model(model, WEIGHTS)
model = model.double().eval()  # so that errors are the integral's, not rounding

print("Right answers")
for length in LENGTHS:
    accuracy = (model(ids := sequences(1000, length)).argmax(1) == labels(ids)).double().mean()
    print(f"{length:6} words: {accuracy.item():.1%}")
    assert accuracy > 0.85

# %% What is explained: the logit of the label. IG moves the whole text out of MASK. SIG's baseline
# has MASK at the sampled words alone: a word that equals its baseline costs nothing.
texts = {length: sequences(EXAMPLES, length) for length in LENGTHS}
masks = {length: torch.full_like(ids, MASK) for length, ids in texts.items()}
sampled = {
    length: torch.rand(ids.shape, generator=generator).argsort(1) < WORDS
    for length, ids in texts.items()
}
some_masked = {length: ids.masked_fill(sampled[length], MASK) for length, ids in texts.items()}
targets = {length: model(ids).argmax(1) for length, ids in texts.items()}
sig = LayerSequentialIntegratedGradients(model, model.embedding)


def ig_deltas(model: Classifier, length: int, n_steps: int) -> Tensor:
    """Captum's |delta| of Captum's IG, (EXAMPLES,)."""
    _, delta = LayerIntegratedGradients(model, model.embedding).attribute(
        texts[length], masks[length], target=targets[length], n_steps=n_steps,
        internal_batch_size=ROWS, return_convergence_delta=True,
    )  # fmt: skip
    return delta.abs()


def word_deltas(length: int, n_steps: int) -> Tensor:
    """SIG's |delta| of each sampled word, (EXAMPLES * WORDS,)."""
    integral = sig.integrate(texts[length], some_masked[length], target=targets[length],
                             n_steps=n_steps, internal_batch_size=ROWS)  # fmt: skip
    return integral.word_delta[sampled[length]].abs()


# %% The same n_steps for all. IG's typical delta grows from nothing to the size of the logits. That
# of SIG's typical word does not grow. Its worst word is another matter: at any length there are
# words that tip the model over, and a number of nodes that suits most words fails them.
# (n_steps buys IG a whole text and SIG one word: compare lengths here, not methods.)
print("\n|delta| in logits at n_steps, median and worst")
print("    words", *(f"{n:>18}" for n in N_STEPS))
deltas = {}
for method in ("IG", "SIG"):
    for length in LENGTHS:
        found = [
            ig_deltas(model, length, n) if method == "IG" else word_deltas(length, n)
            for n in N_STEPS
        ]
        deltas[method, length] = found[1].median()
        print(f"{method:3} {length:5}", *(f"{d.median():11.0e} {d.max():6.0e}" for d in found))
assert deltas["IG", LENGTHS[-1]] > 10 * deltas["IG", LENGTHS[0]]
assert max(deltas["SIG", length] for length in LENGTHS) < 1e-4

# %% Length alone does no harm: before its training the LSTM is all but linear along the path.
untrained = Classifier().double().eval()
worst = max(ig_deltas(untrained, length, 10).max() for length in LENGTHS)
print(f"\nbefore training IG's worst |delta| at any length is {worst:.0e}, with 10 nodes")
assert worst < 1e-6


# %% The reason: what is integrated. F along each path, at 501 points: IG's path brings the whole
# text out of MASK, SIG's one word, while the others stand. Medians over the paths of
# - turns: how often F turns from rising to falling or back;
# - way: the logits that F covers on its way up and down;
# - width: the smallest share of the path in which F covers 90 % of its way;
# - peak: the steepest slope over the mean one; 500 is the most that so many points can show;
# - first: how strongly F depends on the *first* word where the path is steepest, over the same in
#   the text itself (norms of the gradients).
def paths(length: int, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Where each path starts and ends (P, L, D), and its target (P,)."""
    with torch.no_grad():
        end = model.embedding(texts[length])
        mask = model.embedding(masks[length])
    if whole:
        return mask, end, targets[length]
    example, position = sampled[length].nonzero(as_tuple=True)
    start = end[example]
    start[torch.arange(len(start)), position] = mask[0, 0]
    return start, end[example], targets[length][example]


def first_word(at: Tensor, target: Tensor) -> Tensor:
    """‖∂F/∂(the first word)‖ at one text's embeddings (L, D)."""
    at = at.clone().requires_grad_()
    return torch.autograd.grad(model.read(at[None])[0, target], at)[0][0].norm()


def shape(start: Tensor, end: Tensor, target: Tensor) -> list[Tensor]:
    """The measures above for one path."""
    alpha = torch.linspace(0, 1, 501, dtype=torch.float64)[:, None, None]
    with torch.no_grad():
        steps = model.read(start + alpha * (end - start))[:, target].diff()
    size = steps.abs()
    covered = size.sort(descending=True).values.cumsum(0) < 0.9 * size.sum()
    signs = steps[size > 1e-3 * size.max()].sign()  # what is less may be rounding
    steepest = start + alpha[size.argmax()] * (end - start)
    return [
        (signs.diff() != 0).sum(),
        size.sum(),
        covered.double().mean(),
        size.max() / size.mean(),
        first_word(steepest, target) / first_word(end, target),
    ]


print("\n    words  turns    way  width   peak  first  largest peak")
peaks, firsts = {}, {}
for method in ("IG", "SIG"):
    for length in LENGTHS:
        per_path = zip(*paths(length, whole=method == "IG"), strict=True)
        found = torch.tensor([shape(*path) for path in per_path])
        medians = found.median(0).values
        peaks[method, length], firsts[method, length] = medians[3:]
        print(f"{method:3} {length:5}", *(f"{value:6.2f}" for value in medians),
              f"{found[:, 3].max():13.1f}")  # fmt: skip
# The longer the text, the more often IG's path turns and the sharper its peaks. Nodes that miss a
# peak, or meet one, give a sum far too small or large. `first` says where the peaks are: where F
# hangs on the first word many times more than it does in the text. The likely reason is that
# halfway out of MASK no word is one that the LSTM was trained on, so that it passes on what it was
# taught to forget, and the effect multiplies from word to word.
# With SIG the words that stand keep the model where it was trained: the typical path is as smooth
# at any length. Not every path is: see the largest peaks.
assert peaks["IG", LENGTHS[-1]] > peaks["SIG", LENGTHS[-1]]
assert peaks["SIG", LENGTHS[-1]] < 2 * peaks["SIG", LENGTHS[0]]
assert firsts["IG", LENGTHS[-1]] > firsts["SIG", LENGTHS[-1]]


# %% The truth, to judge what follows: each path is cut into pieces until 20 Gauss-Legendre nodes in
# each give the difference of F between the piece's ends to 1e-8. Paths that would need pieces
# narrower than 1e-5 are not judged.
def truth(start: Tensor, end: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The attributions of each path (P, L, D), and whether they are known (P,)."""
    by_input = SequentialIntegratedGradients(model.read)
    total = torch.zeros_like(end)
    path = torch.arange(len(end)).repeat(4)
    low = torch.arange(4, dtype=end.dtype).repeat_interleave(len(end)) / 4
    width = 0.25
    while len(path) and width > 1e-5:
        step = (end - start)[path]
        ends = [start[path] + alpha[:, None, None] * step for alpha in (low, low + width)]
        pieces = by_input.integrate(
            ends[1], ends[0], target=target[path], n_steps=20, internal_batch_size=ROWS,
            feature_mask=torch.zeros(1, end.shape[1], dtype=torch.long),  # all that moves is one
        )  # fmt: skip
        coarse = pieces.word_delta.abs().amax(1) > 1e-8
        total.index_add_(0, path[~coarse], pieces.attributions[~coarse])
        width /= 2
        path, low = path[coarse].repeat(2), torch.cat([low[coarse], low[coarse] + width])
    return total, ~torch.isin(torch.arange(len(end)), path)


# %% SIG to a tolerance: nodes go where the path turns, and stop where the error is at most that
# fraction of the largest word that moves in the example. `n_steps` is now the most nodes of a word.
print("\nSIG to a tolerance: mean and most nodes of a word, worst error / tolerance")
errors = []  # over the tolerance
for length in LENGTHS:
    where = sampled[length]
    paths_truth, known = truth(*paths(length, whole=False))
    exact = torch.zeros(*where.shape, FEATURES, dtype=torch.float64)
    exact[where] = paths_truth.sum(1)  # one position of a path moves
    largest = exact.norm(dim=-1).amax(1, keepdim=True)
    print(f"{length:9}", end="")
    for tolerance in TOLERANCES:
        integral = sig.integrate(texts[length], some_masked[length], target=targets[length],
                                 tolerance=tolerance, n_steps=1025,
                                 internal_batch_size=ROWS)  # fmt: skip
        error = (integral.attributions - exact).norm(dim=-1) / largest / tolerance
        errors.append(error[where][known])
        nodes = integral.n_evaluations[where].double()
        print(f"   {tolerance:.0e}: {nodes.mean():5.1f} {nodes.max():4.0f} {errors[-1].max():5.2f}",
              end="")  # fmt: skip
    print()
errors = torch.cat(errors)
print(f"{len(errors)} integrals are known, {(errors <= 1).double().mean():.1%} as promised")
assert len(errors) >= 0.95 * len(TOLERANCES) * len(LENGTHS) * EXAMPLES * WORDS
assert (errors <= 1).double().mean() >= 0.995
assert errors.max() < 5

# %% IG to a tolerance: equal numbers of a `feature_mask` move together, and where the whole text is
# one word, SIG is IG. Captum's rule gets as many nodes as the hungriest text of that length.
# (A path can be so steep that no float64 lies between its two sides: `converged` tells.)
print("\nIG to a tolerance of 1e-3: texts that converged, mean and most nodes, worst error /")
print("tolerance, |delta| median and worst; and Captum's with the most nodes, median and worst")
errors, shares = [], {}
for length in LENGTHS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that do not converge
        integral = sig.integrate(
            texts[length], masks[length], target=targets[length], tolerance=1e-3, n_steps=385,
            feature_mask=torch.zeros_like(texts[length]), internal_batch_size=ROWS,
        )  # fmt: skip
    exact, known = truth(*paths(length, whole=True))
    converged = integral.converged[:, 0]
    shares[length] = converged.double().mean()
    error = (integral.attributions - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    if not (converged & known).any():
        print(f"{length:9} no path that can be followed")
        continue
    errors.append(error[converged & known] / 1e-3)
    nodes = integral.n_evaluations[converged, 0].double()
    delta = integral.word_delta[converged, 0].abs()
    captum = ig_deltas(model, length, int(nodes.max()))
    print(f"{length:9} {converged.sum():6} of {EXAMPLES} {nodes.mean():6.0f} {nodes.max():4.0f}",
          f"{errors[-1].max():5.2f}   {delta.median():6.0e} {delta.max():6.0e}  ",
          f"{captum.median():6.0e} {captum.max():6.0e}")  # fmt: skip
errors = torch.cat(errors)
# Short texts converge with every LSTM; how many of the long ones do depends on its weights.
assert min(shares[length] for length in LENGTHS[:2]) >= 0.9
assert (errors <= 1).double().mean() >= 0.95
assert errors.max() < 5
assert delta.median() < captum.median() / 10
# So IG's integral can be had too. Whether one wants it is another question: its path leads through
# texts on which, as `first` shows, the model does not behave as it does on any text.
