"""Classifiers with encoder and decoder: a word moves in both at the same time."""

import captum.attr
import pytest
import torch
import transformers
from tokenizers import processors
from torch import Tensor, nn

from captum_sig import TextClassificationExplainer
from captum_sig.baselines import mean
from captum_sig.explainers.explainer import Explainer
from captum_sig.explainers.matrix_results import Target
from captum_sig.explainers.methods import METHODS
from captum_sig.explainers.readout import Readout, TextTargets
from tests.plain_loop import word_positions
from tests.tiny_models import CLS, MASK, PAD, SEP, spread, wordpiece_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:sequential_dig is far from the exact scores")

TEXTS = ["a gorgeous mess!", "bad", "The movie is not unable, not good.", "bad movies, bad"]
PAIRS = [("the movie is good", "a mess"), ("bad", "not unable, not good!")]
SPECIAL = {"vocab_size": 64, "pad_token_id": PAD, "bos_token_id": CLS, "eos_token_id": SEP,
           "decoder_start_token_id": PAD}  # fmt: skip
AS_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
           "max_position_embeddings": 40}  # fmt: skip
AS_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
SHAPES = {"T5": AS_T5, "MT5": AS_T5, "Bart": AS_BART, "MBart": AS_BART}
HEADS = ["T5", "MT5", "Bart", "MBart", "T5, resized", "Bart, resized"]


def tokenizer():
    """BERT's kind, which separates two texts with its last token."""
    made = wordpiece_tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return made


def model(name: str, head: str = "SequenceClassification", n_labels: int = 3) -> nn.Module:
    """A random model; where the embeddings are resized, encoder and decoder call one module."""
    architecture = name.partition(",")[0]
    config = getattr(transformers, f"{architecture}Config")(
        **SPECIAL, **SHAPES[architecture], num_labels=n_labels
    )
    made = getattr(transformers, f"{architecture}For{head}")(config)
    if "resized" in name:
        made.resize_token_embeddings(66)
        assert made.get_encoder().embed_tokens is made.get_decoder().embed_tokens
    return spread(made, std=0.15)


@pytest.fixture(params=HEADS)
def explain(request) -> TextClassificationExplainer:
    return TextClassificationExplainer(model(request.param), tokenizer())


def encoded(text) -> tuple[Tensor, list[list[int]]]:
    """Ids (1, L), and the positions of each word in them."""
    if isinstance(text, str):
        ids = tokenizer()(text)["input_ids"]
        return torch.tensor([ids]), word_positions(tokenizer(), text)
    (first, at_first), (second, at_second) = map(encoded, text)
    ids = torch.cat([first, second[:, 1:]], 1)
    behind = first.shape[1] - 1
    return ids, at_first + [[position + behind for position in word] for word in at_second]


def logits(explain, ids) -> Tensor:
    with torch.no_grad():
        return explain.model(input_ids=ids).logits[0]


def by_plain_loop(explain, text, alone: bool = False) -> Tensor:
    """F(x) − F(x without a word), or F(only the word) − F(no word), (C, W)."""
    ids, words = encoded(text)
    none = ids.clone()
    none[:, [position for word in words for position in word]] = MASK
    columns = []
    for word in words:
        changed = (none if alone else ids).clone()
        changed[:, word] = ids[:, word] if alone else MASK
        value = logits(explain, changed)
        columns.append(value - logits(explain, none) if alone else logits(explain, ids) - value)
    return torch.stack(columns, 1)


def assert_equal(found, expected, atol=1e-10):
    found = torch.as_tensor(found, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_all_labels_are_a_plain_loop_over_ids(explain, texts):
    for text, result in zip(texts, explain(texts, "all"), strict=True):
        expected = by_plain_loop(explain, text)
        assert_equal(result.matrix, expected)
        assert_equal(explain(text, "all").matrix, expected)
        assert expected.abs().max() > 0.05
        assert max(result.max_abs_word_delta) < 1e-10


def test_both_sides_of_a_word(explain):
    result = explain(TEXTS[2], "all", contexts="two_sided")
    sides = by_plain_loop(explain, TEXTS[2], alone=True), by_plain_loop(explain, TEXTS[2])
    assert_equal(result.matrix_first, sides[0])
    assert_equal(result.matrix_last, sides[1])
    assert_equal(result.matrix, sum(sides) / 2)


def test_interactions_and_coalitions(explain):
    ids, words = encoded(TEXTS[0])
    result = explain(TEXTS[0], 1, interactions=2)
    (pair,) = result.interactions
    without = []
    for number in pair.words:
        changed = ids.clone()
        changed[:, words[number]] = MASK
        without.append(changed)
    both = torch.where(without[0] == MASK, MASK, without[1])
    x, i, j, ij = (float(logits(explain, rows)[1]) for rows in (ids, *without, both))
    assert pair.value == pytest.approx(x - i - j + ij, abs=1e-10)
    keeps = [n not in pair.words for n in range(len(words))]
    assert explain.game(TEXTS[0], 1)(keeps)[0] == pytest.approx(ij, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_texts(method):
    for name in ("T5", "Bart, resized"):
        explain = TextClassificationExplainer(model(name), tokenizer())
        for texts in (TEXTS, PAIRS):
            together = explain(texts, method=method, n_steps=3)
            for text, result in zip(texts, together, strict=True):
                alone = explain(text, method=method, n_steps=3, internal_batch_size=8)
                assert alone.scores == pytest.approx(result.scores, abs=1e-9)


def test_the_strongest_words(explain):
    text = " ".join(["the movie is not good, bad, a"] * 4)
    result = explain(text, 0, top=2)
    expected = by_plain_loop(explain, text)[0]
    exact = [n for n, word in enumerate(result.words) if word.evidence != "estimated"]
    assert 3 <= len(exact) < len(result.words)
    assert_equal([result.scores[n] for n in exact], expected[exact])


@pytest.mark.parametrize("name", ["T5", "Bart"])
class TestSums:
    """Scores are sums over both places of a word."""

    def change(self, explain, text) -> float:
        ids, words = encoded(text)
        none = ids.clone()
        none[:, [position for word in words for position in word]] = MASK
        return float((logits(explain, ids) - logits(explain, none))[1])

    def test_methods_that_add_up_to_the_whole_change(self, name):
        explain = TextClassificationExplainer(model(name), tokenizer())
        ig = explain(TEXTS[0], 1, "ig", n_steps=300)
        assert sum(ig.scores) == pytest.approx(self.change(explain, TEXTS[0]), abs=2e-3)
        values = explain(TEXTS[0], 1, "shapley")  # float32 in Captum
        assert sum(values.scores) == pytest.approx(self.change(explain, TEXTS[0]), abs=1e-6)

    @pytest.mark.filterwarnings("ignore:Multiple layers provided")
    def test_ig_is_captums_at_both_layers(self, name):
        explain = TextClassificationExplainer(model(name), tokenizer())
        ids, words = encoded(TEXTS[2])
        none = ids.clone()
        none[:, [position for word in words for position in word]] = MASK
        method = captum.attr.LayerIntegratedGradients(
            lambda ids: explain.model(input_ids=ids).logits, list(explain.embeddings.layers)
        )
        encoder, decoder = method.attribute(ids, none, target=1, n_steps=4)
        encoder, decoder = encoder.sum(-1)[0], decoder.sum(-1)[0].roll(-1)
        expected = torch.stack([(encoder + decoder)[word].sum() for word in words])
        assert_equal(explain(TEXTS[2], 1, "ig", n_steps=4).scores, expected, atol=1e-7)

    @pytest.mark.parametrize("baseline", ["mean", "zero"])
    def test_each_embedding_has_its_own_vectors(self, name, baseline):
        made = model(name)
        with torch.no_grad():
            weight = made.get_decoder().embed_tokens.weight
            made.get_decoder().embed_tokens.weight = nn.Parameter(weight.flip(1).clone())
        explain = TextClassificationExplainer(made, tokenizer(), baseline=baseline)
        ids, words = encoded(TEXTS[2])
        vectors = [
            mean(tokenizer(), ids, embedding=layer)[0, 1] if baseline == "mean" else 0.0
            for layer in explain.embeddings.layers
        ]
        for number, word in enumerate(words):

            def replaced(output, shift, word=word):
                output[:, [position + shift for position in word]] = vectors[shift]
                return output

            handles = [
                layer.register_forward_hook(lambda *call, n=n, f=replaced: f(call[2].clone(), n))
                for n, layer in enumerate(explain.embeddings.layers)
            ]
            changed = logits(explain, ids)
            for handle in handles:
                handle.remove()
            found = explain(TEXTS[2], "all").matrix[:, number]
            assert_equal(found, logits(explain, ids) - changed)


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_other_baselines_hold_the_decoders_first_id(name):
    made = model(name)
    for baseline in ("pad", "unk", "constant", "uniform"):
        explain = TextClassificationExplainer(made, tokenizer(), baseline=baseline, n_draws=2)
        texts = TEXTS[::2]
        for text, result in zip(texts, explain(texts, 0), strict=True):
            assert explain(text, 0).scores == pytest.approx(result.scores, abs=1e-10)
            assert result.max_abs_word_delta < 1e-10


def test_log_probabilities_where_other_ids_are_shown(explain):
    ids, words = encoded(TEXTS[2])
    replaced = ids.repeat(3, 1)
    for row, word in enumerate(words[:3]):
        replaced[row, word] = MASK
    found = explain.log_probabilities(ids.expand(3, -1), replaced)
    with torch.no_grad():
        expected = explain.model(input_ids=replaced).logits.log_softmax(-1)
    assert_equal(found.double(), expected, atol=1e-6)


def test_a_layer_of_the_callers_moves_alone():
    made = model("T5")
    layer = made.get_encoder().embed_tokens
    explain = TextClassificationExplainer(made, tokenizer(), layer=layer)
    ids, words = encoded(TEXTS[0])
    decoder = torch.cat([torch.tensor([[PAD]]), ids[:, :-1]], 1)
    for number, word in enumerate(words):
        changed = ids.clone()
        changed[:, word] = MASK
        with torch.no_grad():
            value = made(input_ids=changed, decoder_input_ids=decoder).logits[0]
        found = explain(TEXTS[0], "all").matrix[:, number]
        assert_equal(found, logits(explain, ids) - value)
    assert explain.trace(TEXTS[0]).trace.outputs.shape[1] == 51


def test_what_cannot_be_explained_is_said():
    class Elsewhere(transformers.BartForSequenceClassification):
        """Its decoder reads another text."""

        def forward(self, input_ids, **more):
            return super().forward(input_ids, decoder_input_ids=input_ids.flip(1), **more)

    made = spread(Elsewhere(transformers.BartConfig(**SPECIAL, **AS_BART)), 0.15)
    with pytest.raises(ValueError, match="decoder of Elsewhere does not read the text of its enc"):
        TextClassificationExplainer(made, tokenizer())(TEXTS[0])
    with pytest.raises(ValueError, match="BartForSequenceClassification reads a text twice"):
        TextClassificationExplainer(model("Bart"), tokenizer()).trace(TEXTS[0])


class QuestionAnsweringExplainer(Explainer):
    """The logit of each of the first two positions."""

    TASK, MODELS = "question-answering", "models that answer"

    def _targets(self, target, inputs, is_single):
        return [None] * len(inputs)

    def _as_tensor(self, output):
        return output.start_logits

    def _readout(self, batch, output, targets):
        rows = TextTargets((Target("0"), Target("1")), is_single=False)
        return Readout([rows] * len(targets), lambda output, example: output[:, :2])


@pytest.mark.parametrize("name", ["T5", "Bart", "Bart, resized"])
def test_other_heads(name):
    explain = QuestionAnsweringExplainer(model(name, "QuestionAnswering", 2), tokenizer())
    for text, result in zip([*TEXTS, *PAIRS], explain([*TEXTS, *PAIRS]), strict=True):
        ids, words = encoded(text)
        rows = ids.repeat(len(words) + 1, 1)
        for row, word in enumerate(words):
            rows[row, word] = MASK
        with torch.no_grad():
            values = explain.model(input_ids=rows).start_logits[:, :2]
        assert_equal(result.matrix, (values[-1] - values[:-1]).T)
