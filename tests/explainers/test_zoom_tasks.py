"""Level "auto" in other tasks, and of pairs of texts."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from captum_sig import (
    FillMaskExplainer,
    QuestionAnsweringExplainer,
    SimilarityExplainer,
    TextClassificationExplainer,
    TokenClassificationExplainer,
    ZeroShotClassificationExplainer,
)
from captum_sig.explainers.results import WordAttribution
from tests.long_texts import SHAPE, long, text_of
from tests.tiny_models import spread, wordpiece_tokenizer
from tests.tiny_tasks import pair_tokenizer

LONG = text_of(6, 12, 4)


def model_of(kind: Any, **config: Any) -> nn.Module:
    return spread(kind(BertConfig(**SHAPE, **config))).double()


def scores_by_word(result: Any) -> dict[Any, list[float]]:
    """The exact scores of a result, by where a word stands: a number for each target."""
    if isinstance(result, WordAttribution):
        return {
            (word.side, word.start): [word.score]
            for word in result.words
            if word.evidence in (None, "exact", "audited")
        }
    return {
        (word.side, word.start): result.matrix[:, number].tolist()
        for number, word in enumerate(result.words)
        if result.evidence is None or result.evidence[0][number] in ("exact", "audited")
    }


def check(explain: Any, *inputs: Any, **options: Any) -> Any:
    full = explain(*inputs, **options)
    tree = explain(*inputs, level="auto", budget=70, **options)
    assert tree.n_rows <= 70
    assert tree.task == full.task
    words, exact = scores_by_word(full), scores_by_word(tree.flat())
    assert len(exact) >= 8
    for place, scores in exact.items():
        assert scores == pytest.approx(words[place], abs=1e-10)
    return tree


def test_classifiers_of_pairs():
    model = model_of(BertForSequenceClassification, num_labels=2)
    tree = check(TextClassificationExplainer(model, long(pair_tokenizer())), ("good film", LONG))
    first, second = tree.root.nodes
    assert (first.side, second.side) == ("text", "text_pair")
    assert (first.n_words, second.n_words) == (2, 72)
    assert tree.root.start is None


def test_question_answering():
    explain = QuestionAnsweringExplainer(model_of(BertForQuestionAnswering), long(pair_tokenizer()))
    tree = check(explain, ("is it good", LONG))
    assert len(tree.target_names) == len(tree.root.effects)


def test_token_classification():
    model = model_of(BertForTokenClassification, num_labels=3)
    explain = TokenClassificationExplainer(model, long(pair_tokenizer()))
    check(explain, LONG, target=(0, LONG.index(" ")))


def test_fill_mask():
    explain = FillMaskExplainer(model_of(BertForMaskedLM), long(pair_tokenizer()))
    check(explain, LONG + " [MASK]", target=("good", "bad"))


def test_recurrent_models_and_layer_norms_without_rules_are_ranked_by_gradients():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = BertConfig(vocab_size=64, pad_token_id=0)
            self.embedding = nn.Embedding(64, 4)
            self.rnn = nn.GRU(4, 6, batch_first=True)
            self.head = nn.Linear(6, 2)

        def get_input_embeddings(self) -> nn.Embedding:
            return self.embedding

        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            from transformers.modeling_outputs import SequenceClassifierOutput

            states, _ = self.rnn(self.embedding(input_ids))
            return SequenceClassifierOutput(logits=self.head(states.mean(1)))

    check(TextClassificationExplainer(Recurrent().double().eval(), long(pair_tokenizer())), LONG)


def test_tasks_of_several_texts_refuse_it():
    zero_shot = ZeroShotClassificationExplainer(
        model_of(BertForSequenceClassification, id2label={0: "entailment", 1: "other"},
                 label2id={"entailment": 0, "other": 1}),
        long(pair_tokenizer()),
    )  # fmt: skip
    with pytest.raises(ValueError, match="each candidate is read in a pair of its own"):
        zero_shot(LONG, ["good", "bad"], level="auto")
    similarity = SimilarityExplainer(model_of(BertModel), long(wordpiece_tokenizer()))
    with pytest.raises(ValueError, match="a similarity has two"):
        similarity((LONG, "good"), level="auto")
