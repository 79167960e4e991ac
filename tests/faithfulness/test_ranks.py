"""Ranks of methods under each kind of deletion, and Kendall's tau between the kinds."""

import pytest

from captum_sig.faithfulness.ranks import agreement_rows, rank_rows

KINDS = ("replace", "remove", "sample")


def means(**of_kinds):
    """A row of the table for each kind and method, of one metric."""
    return [
        {"method": method, "baseline": "mask", "metric": metric, "ablation": kind, "mean": mean}
        for metric in ("log_odds", "comprehensiveness")
        for kind, values in of_kinds.items()
        for method, mean in zip("abc", values, strict=True)
    ]


TABLE = means(replace=[-3.0, -2.0, -1.0], remove=[-1.0, -2.0, -3.0], sample=[-3.0, -1.0, -1.0])


def test_lower_or_higher_is_better_and_equal_means_share_a_rank():
    rows = rank_rows(TABLE, KINDS)
    ranks = {(row["metric"], row["method"]): [row[kind] for kind in KINDS] for row in rows}
    assert ranks == {
        ("log_odds", "a"): [1, 3, 1], ("log_odds", "b"): [2, 2, 2.5],
        ("log_odds", "c"): [3, 1, 2.5], ("comprehensiveness", "a"): [3, 1, 3],
        ("comprehensiveness", "b"): [2, 2, 1.5], ("comprehensiveness", "c"): [1, 3, 1.5],
    }  # fmt: skip


def test_agreement_of_each_two_kinds():
    rows = agreement_rows(rank_rows(TABLE, KINDS), KINDS)
    taus = {
        (row["first"], row["second"]): row["tau"] for row in rows if row["metric"] == "log_odds"
    }
    assert taus["replace", "remove"] == pytest.approx(-1)
    assert taus["replace", "sample"] == pytest.approx(2 / 6**0.5)  # tau-b: two of three pairs
    assert {row["n"] for row in rows} == {3}
    assert len(rows) == 6


def test_orders_that_do_not_exist_have_no_agreement():
    equal = means(replace=[1.0, 1.0, 1.0], remove=[1.0, 2.0, 3.0])
    assert agreement_rows(rank_rows(equal, KINDS[:2]), KINDS[:2])[0]["tau"] is None
    one = [row for row in TABLE if row["method"] == "a"]
    assert agreement_rows(rank_rows(one, KINDS), KINDS)[0]["tau"] is None


def test_metrics_that_delete_no_words_have_no_ranks():
    soft = {"method": "a", "baseline": "mask", "metric": "soft_nc", "ablation": "soft", "mean": 1}
    assert rank_rows([soft], KINDS) == []
