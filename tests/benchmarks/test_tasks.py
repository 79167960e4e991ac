"""The texts that models of tasks are trained and judged on are what they say."""

import random

import pytest
import torch

from captum_sig.explainers.results import Word
from tests.benchmarks import task_data, task_timings, tasks, train_tasks


@pytest.mark.parametrize("is_held_out", [False, True])
def test_spans_of_entities_and_answers_stand_in_their_texts(is_held_out):
    rng = random.Random(0)
    for example in task_data.entities(rng, is_held_out, 50):
        for start, end, kind in example.answer:
            assert kind in task_data.KINDS_OF_ENTITY
            assert example.text[start:end].istitle()
    for example in task_data.questions(rng, is_held_out, 50):
        start, end = example.answer
        answer = example.pair[start:end]
        assert set(task_data.words_of(answer)) <= example.matters
        assert answer not in example.text


def test_held_out_names_are_never_trained_on():
    for names in (task_data.FIRST, task_data.LAST, task_data.PLACES, task_data.ANY_NAME):
        seen, unseen = (task_data.split_names(names, is_held_out) for is_held_out in (False, True))
        assert unseen
        assert not set(seen) & set(unseen)


def test_tokens_get_the_label_of_the_entity_they_are_in():
    entities = [(0, 4, "PER"), (10, 15, "LOC")]
    offsets = [(0, 0), (0, 2), (2, 4), (5, 9), (10, 15)]
    names = task_data.ENTITY_LABELS
    labels = [train_tasks.label_at(start, end, entities) for start, end in offsets]
    assert labels[0] == train_tasks.IGNORED
    assert [names[label] for label in labels[1:]] == ["B-PER", "I-PER", "O", "B-LOC"]


def test_a_batch_is_padded_as_its_columns_need():
    columns = {"input_ids": [[1, 2, 3], [1]], "labels": [[0, 1, 0], [1]], "stars": [1.0, 5.0]}
    ids = torch.tensor([[1, 2, 3], [1, 0, 0]])
    batch = train_tasks.batch_of(columns, [0, 1], ids, (ids != 0).long())
    assert batch["labels"].tolist() == [[0, 1, 0], [1, train_tasks.IGNORED, train_tasks.IGNORED]]
    assert batch["stars"].tolist() == [1.0, 5.0]


def test_the_strongest_word_is_a_hit_if_it_must_matter():
    words = [Word("Not", None, None, -2.0, -0.9, side="text"), Word("bad", None, None, 1.0, 0.4)]
    assert tasks.hit_and_chance(words, {"not"}) == (True, 0.5)
    assert tasks.hit_and_chance(words, {"bad"}) == (False, 0.5)


def test_calls_are_measured_in_turn():
    order = []
    seconds = task_timings.alternating([lambda: order.append(0), lambda: order.append(1)], 2)
    assert order == [0, 1, 0, 1, 1, 0]  # warm-up, then each begins once
    assert all(second >= 0 for second in seconds)
