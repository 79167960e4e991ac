"""What a pass may leave out: positions that it shares with the input or the pass before."""

import pytest
import torch

from captum_sig.explainers.prefix_cache import Prefixes, SharedPrefix
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
