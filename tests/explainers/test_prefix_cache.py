"""What a pass may leave out: positions that it shares with the input or the pass before."""

import pytest
import torch
from torch import nn

from captum_sig.explainers.matrix import rows_in_pass
from captum_sig.explainers.prefix_cache import Prefixes, SharedPrefix
from captum_sig.explainers.teacher_forcing import TeacherForced
from tests.explainers.test_generation import PROMPT, TARGET, explainer, rows_through
from tests.tiny_language_models import causal

LENGTH = 10
X, BASE = torch.ones(1, LENGTH, 1), torch.zeros(1, LENGTH, 1)


def prefixes(worth: int = 5, limit: int = LENGTH - 2) -> Prefixes:
    return Prefixes(SharedPrefix(X, ()), limit, worth)


def moved(background: torch.Tensor, *words: int) -> torch.Tensor:
    """Rows of a background that each change one word of one position."""
    rows = background.repeat(len(words), 1, 1)
    for row, word in zip(rows, words, strict=True):
        row[word] = 1 - row[word]
    return rows


def test_rows_begin_at_their_first_change():
    assert prefixes().split(moved(X, 3, 4, 5))[:2] == (3, 3)
    assert prefixes().split(moved(BASE, 3, 4, 5))[:2] == (3, 0)
    assert prefixes().split(X)[:2] == (1, LENGTH - 2)


def test_the_last_row_serves_those_behind_it():
    known = prefixes()
    known.remember(moved(BASE, 2), [])
    assert known.split(moved(BASE, 3, 4, 5))[:2] == (3, 2)
    assert known.split(moved(X, 6, 7))[:2] == (2, 6)


def test_a_pass_is_cut_where_that_saves_enough():
    rows = torch.cat([moved(X, 6, 7), moved(BASE, 0, 1, 2)])
    assert prefixes(worth=12).split(rows)[:2] == (2, 6)  # 2 rows leave out 6 positions each
    assert prefixes(worth=13).split(rows)[:2] == (5, 0)


def test_a_row_that_is_evaluated_twice_is_computed_twice():
    known = prefixes()
    known.remember(moved(BASE, 4), [])
    assert known.split(moved(BASE, 4))[:2] == (1, 0)


@pytest.mark.parametrize(
    ("n_prompt", "n_ids", "expected"),
    [
        (60, 300, 8),  # groups
        (16, 300, 14),  # enough tokens for a pass
        (300, 300, 5),  # what a CPU's caches hold
        (2000, 300, 1),
        (60, 600_000, 2),  # logits
    ],
)
def test_passes_with_a_prefix_are_as_large_as_is_fast(n_prompt, n_ids, expected):
    length = n_prompt + 2
    forced = TeacherForced(
        model=nn.Identity(),
        ids=(torch.zeros(1, length),),
        points=(torch.zeros(1, length, 32),),
        log_probabilities=lambda rows, example: rows[0],
        embed=lambda number, ids: ids,
        target_start=(0, n_prompt),
        n_ids=n_ids,
        unchanged=torch.zeros(1, 3),
        without_cache=None,
    )
    assert rows_in_pass(forced, n_prompt + 1) == expected


@pytest.mark.parametrize("size", [1, 4])
def test_the_second_side_costs_as_much_as_the_first(size):
    explain = explainer(causal("gpt2"), level="token")

    def tokens(contexts: str) -> int:
        shapes = rows_through(
            explain.model,
            lambda: explain(PROMPT, TARGET, contexts=contexts, internal_batch_size=size),
        )
        return sum(rows * positions for rows, positions in shapes)

    n_rows = len(explain.tokenizer(PROMPT)["input_ids"]) + 1
    length = n_rows - 1 + len(explain.tokenizer(TARGET)["input_ids"]) - 1
    assert tokens("two_sided") <= 2 * tokens("input") + n_rows + 2 * size * length
    assert tokens("two_sided") < 0.85 * 2 * n_rows * length
