"""Small random models of several tasks, a tokenizer for pairs of texts, and plain loops."""

import torch
import transformers
from tokenizers import processors
from torch import Tensor, nn

from captum_sig.explainers.explainer import Explainer
from captum_sig.explainers.matrix_results import Target
from captum_sig.explainers.readout import Readout, TextTargets
from tests.tiny_models import CLS, MASK, SEP, SHAPE, spread, wordpiece_tokenizer

LABELS = [f"emotion {number}" for number in range(28)]


def pair_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """BERT's kind, which tells the texts of a pair apart: [CLS] … [SEP] … [SEP] with types 0, 1."""
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def multi_label(n_labels: int = 28) -> nn.Module:
    """A BERT classifier whose labels exclude nothing."""
    config = transformers.BertConfig(
        **SHAPE, id2label=dict(enumerate(LABELS[:n_labels])),
        problem_type="multi_label_classification",
    )  # fmt: skip
    return spread(transformers.BertForSequenceClassification(config))


def regression() -> nn.Module:
    """A BERT that predicts a value."""
    config = transformers.BertConfig(**SHAPE, num_labels=1)
    return spread(transformers.BertForSequenceClassification(config))


def encoded(tokenizer, text: str, pair: str | None = None) -> dict[str, Tensor]:
    """The ids of words between special tokens, put together by hand, and their token types."""
    sides = [tokenizer(side, add_special_tokens=False)["input_ids"]
             for side in (text, pair) if side is not None]  # fmt: skip
    ids, types = [CLS], [0]
    for number, side in enumerate(sides):
        ids += [*side, SEP]
        types += [number] * (len(side) + 1)
    return {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}


def word_effects(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """F(x) − F(x̄ʷ) for texts whose words are one token each: one pass a word, (W, C)."""
    ids = inputs["input_ids"]
    with torch.no_grad():
        whole = model(**inputs).logits[0]
        effects = []
        for position, token in enumerate(ids[0].tolist()):
            if token not in (CLS, SEP):
                changed = ids.clone()
                changed[0, position] = MASK
                effects.append(whole - model(**{**inputs, "input_ids": changed}).logits[0])
    return torch.stack(effects)


class TokenClassificationExplainer(Explainer):
    """Finds "movie" and "movies" in texts; the logit of a label at the token is F."""

    TASK = "token-classification"
    MODELS = "token classifiers of transformers"
    AUTO_CLASS = "AutoModelForTokenClassification"
    TRAINED = "to label tokens"

    def _targets(self, target, inputs, is_single):
        return [target] * len(inputs)

    def _readout(self, batch, output, targets):
        wanted = [[span for span in words if span.word.startswith("movie")]
                  for words in batch.spans]  # fmt: skip
        n_values = max(map(len, wanted))
        positions = torch.tensor([[*(s.position for s in of_text), *[0] * n_values][:n_values]
                                  for of_text in wanted]).view(len(wanted), n_values)  # fmt: skip

        def read(logits: Tensor, example: Tensor) -> Tensor:
            return logits[..., 1].gather(1, positions[example])

        of_texts = [
            TextTargets(
                tuple(Target(f"THING: {s.word}", probability=0.5, start=s.start, end=s.end)
                      for s in of_text), is_single=False,
            )
            for of_text in wanted
        ]  # fmt: skip
        return Readout(of_texts, read)


def token_classifier() -> nn.Module:
    """A BERT that labels tokens."""
    config = transformers.BertConfig(**SHAPE, num_labels=3)
    return spread(transformers.BertForTokenClassification(config))
