"""Entities, compared with transformers' pipeline on random logits."""

import random
import types
import warnings

import numpy as np
import pytest
import torch
from transformers import TokenClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy

from captum_sig.explainers.entities import (
    STRATEGIES,
    find_entities,
    labels_of_tag,
    likeliest_tag,
    units_of,
)
from tests.token_models import TOKENIZERS, random_text

LABELS = {
    "prefixes": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "no prefixes": ["O", "PER", "LOC"],
    "both": ["B-PER", "PER", "O", "I-LOC", "E-LOC", "X-RAY", "B-X-RAY"],
}


def of_pipeline(tokenizer, labels, text, encoding, probabilities, strategy):
    """What the pipeline makes of the model's probabilities."""
    pipeline = object.__new__(TokenClassificationPipeline)  # without a model
    pipeline.tokenizer = tokenizer
    pipeline.model = types.SimpleNamespace(
        config=types.SimpleNamespace(id2label=dict(enumerate(labels)))
    )
    outputs = {
        "logits": probabilities.log()[None],
        "sentence": text,
        "input_ids": encoding["input_ids"],
        "offset_mapping": encoding["offset_mapping"],
        "special_tokens_mask": encoding["special_tokens_mask"],
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tokenizer does not support real words")
        return pipeline.postprocess([outputs], AggregationStrategy(strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_entities_are_the_pipelines(name, labels, strategy):
    tokenizer = TOKENIZERS[name]()
    draws = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    n_entities = n_long = 0
    for _ in range(30):
        text = random_text(draws)
        encoding = tokenizer(
            text, return_tensors="pt", return_offsets_mapping=True, return_special_tokens_mask=True
        )
        ids, offsets = encoding["input_ids"][0].tolist(), encoding["offset_mapping"][0].tolist()
        logits = torch.randn(len(ids), len(labels), generator=generator, dtype=torch.float64)
        probabilities = (2 * logits).softmax(-1)
        expected = of_pipeline(tokenizer, labels, text, encoding, probabilities, strategy)
        positions = (encoding["special_tokens_mask"][0] == 0).nonzero()[:, 0].tolist()
        units = units_of(tokenizer, text, ids, positions, offsets, strategy)
        found = find_entities(probabilities, labels, units, strategy)
        n_entities += len(found)
        n_long += sum(len(entity.positions) > 1 for entity in found)
        kind = "entity" if strategy == "none" else "entity_group"
        assert [e.name for e in found] == [e[kind] for e in expected]
        assert [offsets[e.positions[0]][0] for e in found] == [e["start"] for e in expected]
        assert [offsets[e.positions[-1]][1] for e in found] == [e["end"] for e in expected]
        np.testing.assert_allclose(
            [e.probability for e in found], [e["score"] for e in expected], atol=1e-12
        )
        if strategy == "none":
            assert [e.positions for e in found] == [(e["index"],) for e in expected]
        for entity in found:  # which labels say so
            assert all(labels[index].endswith(entity.name) for index in entity.labels)
    assert n_entities > 50
    assert (n_long > 5) == (strategy != "none")


def test_ignored_names_are_those_of_whole_entities():
    probabilities = torch.eye(3, dtype=torch.float64)
    labels = ["O", "B-PER", "LOC"]
    units = [[0], [1], [2]]
    found = find_entities(probabilities, labels, units, "simple", ["PER"])
    assert [entity.name for entity in found] == ["O", "LOC"]
    found = find_entities(probabilities, labels, units, "none", ["PER"])
    assert [entity.name for entity in found] == ["O", "B-PER", "LOC"]


def test_the_likeliest_tag_of_several_tokens():
    labels = ["O", "B-PER", "I-PER", "LOC"]
    probabilities = torch.tensor([[0.0, 0.5, 0.1, 0.4], [0.1, 0.0, 0.5, 0.4]])
    assert likeliest_tag(probabilities, labels) == "PER"
    assert labels_of_tag(labels, "PER") == (1, 2)
    assert likeliest_tag(probabilities[:, [0, 1, 3]], ["O", "B-PER", "LOC"]) == "LOC"
