"""Several targets: names, one line, and the explanation of each."""

import math
from dataclasses import replace

import pytest
import torch

from captum_sig import MatrixAttribution
from captum_sig.explainers.matrix_results import Target
from tests.made_results import (
    DOCUMENTS,
    ENTITIES,
    EVERY_FIELD,
    GENERATION,
    LABELS,
    MATRICES,
    NO_ENTITY,
    NO_WORD,
    QUESTION,
    SEARCH,
    several_targets,
)


@pytest.mark.parametrize("name", list(MATRICES))
def test_each_target_has_the_scores_of_its_row(name):
    result = MATRICES[name]
    assert isinstance(result, MatrixAttribution)
    assert len(result) == len(result.rows) == len(list(result))
    for row, one in enumerate(result):
        scores = [value for value in result.matrix[row].tolist() if not math.isnan(value)]
        assert one.scores == scores
        assert one == result[row] == result[row - len(result)]
        assert one.target == result.rows[row]
        assert one.task == result.task
        assert one.unit == result.unit


def test_targets_are_found_by_name_in_any_case_or_by_number():
    assert LABELS["LABEL 3"] == LABELS[3]
    with pytest.raises(KeyError, match=r"target 'label' is unknown .* use one of label 0"):
        LABELS["label"]
    with pytest.raises(IndexError):
        LABELS[7]
    twice = replace(QUESTION, targets=(*QUESTION.targets[:2], QUESTION.targets[0]))
    with pytest.raises(KeyError, match=r"targets \[0, 2\] are all 'start'"):
        twice["start"]


def test_a_target_has_its_own_second_text_and_characters():
    assert [one.text_pair for one in SEARCH] == DOCUMENTS
    assert [word.side for word in SEARCH[1].words] == ["text"] * 3 + ["text_pair"] * 3
    assert (ENTITIES[1].target_start, ENTITIES[1].target_end) == (18, 26)


def test_all_that_is_known_of_a_target_is_in_its_explanation():
    joy, fear = EVERY_FIELD
    assert (joy.residual, joy.max_abs_word_delta, joy.dropped_tokens) == (0.5, 1e-7, 3)
    assert joy.audit == EVERY_FIELD.audit[0]
    assert len(joy.interactions) == 2
    assert [word.evidence for word in joy.words] == list(EVERY_FIELD.evidence[0])
    for name, field in (("first", "matrix_first"), ("last", "matrix_last"), ("std", "std")):
        values = getattr(EVERY_FIELD, field)[0].tolist()
        assert [getattr(word, name) for word in joy.words] == values
    assert (fear.audit, fear.interactions) == (None, ())
    assert math.isnan(fear.value)


def test_equal_results_have_equal_hashes_also_with_values_that_are_not_numbers():
    again = type(EVERY_FIELD).from_dict(EVERY_FIELD.to_dict())
    assert len({again, EVERY_FIELD}) == 1
    assert again != replace(again, matrix=again.matrix + 1e-12)
    assert again != "something else"


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"std has shape \(1, 1\); wanted \(2, 4\)"):
        replace(EVERY_FIELD, std=torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("result", "summary"),
    [
        (LABELS, "7 labels, predicted label 2 30.0%  (sig, baseline mask)"),
        (QUESTION, "answer “Warsaw”  (sig, baseline mask)"),
        (ENTITIES, "2 entities  (sig, baseline mask)"),
        (NO_ENTITY, "0 entities  (sig, baseline mask)"),
        (SEARCH, "2 texts  (sig, baseline mask)"),
        (
            several_targets("[MASK]", [Target("good")], task="fill-mask"),
            "1 token  (sig, baseline mask)",
        ),
        (
            several_targets("x", [Target("a")], task="zero-shot-classification", label="a"),
            "1 candidate, predicted a  (sig, baseline mask)",
        ),
        (
            several_targets("x", [Target("LABEL_0")], unit="value", label="LABEL_0"),
            "1 value  (sig, baseline mask)",
        ),
    ],
)
def test_one_line_says_what_is_explained(result, summary):
    assert result.summary == summary


@pytest.mark.parametrize(
    ("result", "row"),
    [(LABELS, 2), (QUESTION, 2), (ENTITIES, 0), (NO_ENTITY, None), (NO_WORD, 0),
     (GENERATION, None), (EVERY_FIELD, 0)],
)  # fmt: skip
def test_the_main_target(result, row):
    assert result.main_row == row
