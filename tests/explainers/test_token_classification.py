"""Entities explained: equal to a plain loop over ids, and found as transformers' pipeline does."""

import random
import warnings

import pytest
import torch
from transformers import TokenClassificationPipeline

from captum_sig._warnings import TruncationWarning
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.methods import METHODS
from captum_sig.explainers.token_classification import TokenClassificationExplainer
from tests.tiny_models import SHAPE, SlowTokenizer, bert, byte_level_tokenizer, spread
from tests.token_models import TEXTS, TOKENIZERS, plain_loop, positions_of, random_text, with_head

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
TEXT = TEXTS[2]  # the movie is not unbelievable, not good


def explainer_of(architecture, **options):
    names = dict(enumerate(LABELS))
    model = with_head(architecture, "AutoModelForTokenClassification", id2label=names)
    with torch.no_grad():
        model.classifier.weight.mul_(4)
        model.classifier.bias.copy_(torch.tensor([1.0, 2, 2, 2, 2, 2]))
    return TokenClassificationExplainer(model, TOKENIZERS[architecture](), **options)


@pytest.fixture(scope="module", params=TOKENIZERS)
def explainer(request):
    return explainer_of(request.param)


@pytest.fixture(scope="module")
def of_bert():
    return explainer_of("bert")


def label_logits(tokenizer, text, target, logits):
    """F by hand: the mean over an entity's tokens of the larger of its labels' logits at x."""
    tag = target.name.split(":")[0]
    labels = [index for index, label in enumerate(LABELS) if label.split("-")[-1] == tag]
    positions = positions_of(tokenizer, text, target.start, target.end)
    chosen = [labels[int(logits[at, labels].argmax())] for at in positions]
    return lambda output: output[positions, chosen].mean()


def by_loop(explainer, text, result):
    model, tokenizer = explainer.model, explainer.tokenizer
    with torch.no_grad():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    f = [label_logits(tokenizer, text, target, logits) for target in result.targets]
    values = torch.stack([one(logits) for one in f])
    words = result.words
    return values, plain_loop(
        model, tokenizer, text, words, lambda output: torch.stack([one(output) for one in f])
    )


def test_matrix_is_a_plain_loop_over_ids(explainer):
    n_rows = 0
    for text, result in zip(TEXTS, explainer(TEXTS), strict=True):
        assert isinstance(result, TargetsAttribution)
        assert result.task == "token-classification"
        if not result.targets:
            assert result.matrix.shape == (0, len(result.words))
            continue
        n_rows += len(result)
        values, expected = by_loop(explainer, text, result)
        torch.testing.assert_close(result.matrix, expected, rtol=0, atol=1e-10)
        assert [t.value for t in result.targets] == pytest.approx(values.tolist(), abs=1e-10)
        assert max(result.max_abs_word_delta) < 1e-10
    assert n_rows > 3


def test_given_spans_are_a_plain_loop(explainer):
    spans = [(4, 9, "PER"), (10, 16), (35, 39, "misc"), (4, 16, "loc")]
    result = explainer(TEXT, spans)
    assert [target.start for target in result.targets] == [4, 10, 35, 4]
    assert result.rows[0] == "PER: movie"
    assert result.rows[2] == "MISC: good"
    assert result.rows[3] == "LOC: movie is not"
    _, expected = by_loop(explainer, TEXT, result)
    torch.testing.assert_close(result.matrix, expected, rtol=0, atol=1e-10)
    one = explainer(TEXT, (4, 9, "B-PER"))
    assert one.rows == ["B-PER: movie"]
    position = positions_of(explainer.tokenizer, TEXT, 4, 9)
    expected = plain_loop(
        explainer.model, explainer.tokenizer, TEXT, one.words,
        lambda logits: logits[position, 1].mean()[None],
    )  # fmt: skip
    torch.testing.assert_close(one.matrix, expected, rtol=0, atol=1e-10)


def test_a_batch_is_each_text_alone(explainer):
    texts = [*TEXTS, "", "bad", *TEXTS[::-1]]
    for method in ("sig", "input_x_gradient"):
        together = explainer(texts, method=method, batch_size=3)
        for text, result in zip(texts, together, strict=True):
            alone = explainer(text, method=method)
            assert result.text == text
            assert result.rows == alone.rows
            torch.testing.assert_close(result.matrix, alone.matrix, rtol=0, atol=1e-10)
            assert result.residual == alone.residual
            assert result.interactions == alone.interactions


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_the_pipelines(explainer, strategy):
    explain = TokenClassificationExplainer(
        explainer.model, explainer.tokenizer, aggregation_strategy=strategy
    )
    pipeline = TokenClassificationPipeline(
        model=explainer.model, tokenizer=explainer.tokenizer, device="cpu",
        aggregation_strategy=strategy,
    )  # fmt: skip
    draws = random.Random(strategy)
    texts = [random_text(draws) for _ in range(8)]
    texts = [text for text in texts if explainer.tokenizer(text)["input_ids"]]  # the pipeline fails
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of words by heuristics, and of [SEP] in a text
        expected = [pipeline(text) for text in texts]
        found = explain(texts, method="random")
    for text, result, entities in zip(texts, found, expected, strict=True):
        names = [entity.get("entity", entity.get("entity_group")) for entity in entities]
        assert [row.split(":")[0] for row in result.rows] == names
        for target, entity in zip(result.targets, entities, strict=True):
            shown = text[entity["start"] : entity["end"]]
            assert target.name.split(": ", 1)[1] == (shown.strip() or shown)
            assert text[target.start : target.end] == (shown.strip() or shown)
            assert target.probability == pytest.approx(float(entity["score"]), abs=1e-12)


def test_ig_is_complete_over_the_sentence(explainer):
    """Captum expands what `read` needs for all of its steps."""
    texts = [TEXTS[0], TEXTS[3]]  # of different lengths
    for text, result in zip(texts, explainer(texts, method="ig", n_steps=100), strict=True):
        encoding = explainer.tokenizer(text, return_tensors="pt")
        ids = encoding["input_ids"]
        is_special = torch.isin(ids, torch.tensor(explainer.tokenizer.all_special_ids))
        replaced = torch.where(is_special, ids, explainer.tokenizer.mask_token_id)
        with torch.no_grad():
            at_input = explainer.model(**encoding).logits[0]
            at_baseline = explainer.model(**{**encoding, "input_ids": replaced}).logits[0]
        f = [label_logits(explainer.tokenizer, text, one, at_input) for one in result.targets]
        changes = [float(one(at_input) - one(at_baseline)) for one in f]
        assert result.matrix.sum(1).tolist() == pytest.approx(changes, abs=1e-4)


@pytest.mark.filterwarnings("ignore:sequential_dig is far from")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_explains_entities_as_each_alone(of_bert, method):
    """A batch of texts with several entities each, and a text with one of them."""
    spans = [[(0, 1), (2, 10)], [(0, 3, "PER")], [(4, 9, "PER"), (35, 39), (10, 12)], []]
    options = {"method": method, "n_steps": 20}
    for text, wanted, result in zip(TEXTS, spans, of_bert(TEXTS, spans, **options), strict=True):
        assert result.matrix.shape == (len(wanted), len(result.words))
        for number, span in enumerate(wanted):
            alone = of_bert(text, span, **options)
            torch.testing.assert_close(result.matrix[number], alone.matrix[0], rtol=0, atol=1e-8)


def test_two_sided_contexts_interactions_and_top(of_bert):
    spans = [(4, 9, "PER"), (35, 39)]
    both = of_bert([TEXT, "bad"], [spans, [(0, 3)]], contexts="two_sided", interactions=3)
    result = both[0]
    assert result.method == "sig:two_sided"
    torch.testing.assert_close(
        result.matrix, (result.matrix_first + result.matrix_last) / 2, rtol=0, atol=1e-12
    )
    _, last = by_loop(of_bert, TEXT, result)
    torch.testing.assert_close(result.matrix_last, last, rtol=0, atol=1e-10)
    assert [len(pairs) for pairs in result.interactions] == [3, 3]
    assert [len(pairs) for pairs in both[1].interactions] == [0]
    long = "bad movie is not good the mess " * 5
    exact = of_bert(long, [(0, 3), (4, 9)], "sig")
    strongest = of_bert(long, [(0, 3), (4, 9)], "sig", top=4)
    for number, evidence in enumerate(strongest.evidence):
        known = [column for column, kind in enumerate(evidence) if kind != "estimated"]
        assert len(known) in range(5, len(evidence))
        torch.testing.assert_close(
            strongest.matrix[number, known], exact.matrix[number, known], rtol=0, atol=1e-10
        )


def test_a_text_without_entities_has_no_row(of_bert):
    explain = TokenClassificationExplainer(
        of_bert.model, of_bert.tokenizer, ignore_labels=["O", "PER", "LOC", "MISC"]
    )
    for method in ("sig", "ig"):
        for text in (TEXT, "", "bad", "   "):
            result = explain(text, method=method, interactions=2)
            assert result.rows == []
            assert result.matrix.shape == (0, len(result.words))
            assert TargetsAttribution.from_dict(result.to_dict()) == result
            assert list(result) == []
            assert "0 entities" in str(result)
    counted = []
    handle = explain.model.register_forward_hook(lambda *_: counted.append(1))
    explain(TEXT)
    handle.remove()
    assert len(counted) == 1  # no word is moved for nothing


def test_several_baselines_and_smoothing(of_bert):
    both = TokenClassificationExplainer(of_bert.model, of_bert.tokenizer, baseline=["mask", "zero"])
    zero = TokenClassificationExplainer(of_bert.model, of_bert.tokenizer, baseline="zero")
    spans = [(4, 9), (10, 12, "PER")]
    result = both(TEXT, spans)
    mean = (of_bert(TEXT, spans).matrix + zero(TEXT, spans).matrix) / 2
    torch.testing.assert_close(result.matrix, mean, rtol=0, atol=1e-12)
    assert both("", []).rows == []
    smooth = of_bert([TEXT, "bad"], [spans, (0, 3)], "ig", smooth=3, noise=0.1)
    alone = of_bert(TEXT, spans, "ig", smooth=3, noise=0.1)
    torch.testing.assert_close(smooth[0].matrix, alone.matrix, rtol=0, atol=1e-10)


def test_a_tokenizer_without_any_token_for_a_text():
    import transformers

    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=300, pad_token_id=0)
    model = spread(transformers.GPT2ForTokenClassification(config))
    result = TokenClassificationExplainer(model, byte_level_tokenizer(), baseline="eos")("")
    assert result.rows == result.columns == []
    assert result.baseline == "eos"


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ((4, 8), ValueError, r"^span \(4, 8\) of text 0 cuts a word: .* such as \(4, 9\)$"),
        ((2, 12), ValueError, r"cuts a word: wanted whole words, such as \(0, 12\)$"),
        ((38, 40), ValueError, "is not in text 0, which has 39 characters"),
        ((9, 4), ValueError, "is not in text 0"),
        ((-1, 4), ValueError, "is not in text 0"),
        ((3, 4), ValueError, "of text 0 is white space: wanted words$"),
        ((4, 9, "PERS"), ValueError, r"^unknown label 'PERS' \(did you mean 'PER'\?\); choose"),
        ((4, 9, 1, 2), TypeError, "is not a span: wanted"),
        ("PER", TypeError, "^target must be None, a span such as"),
        ([(4, 9), "PER"], TypeError, "^target 'PER' is not a span: wanted"),
        ((4.5, 9), TypeError, "is not a span: wanted"),
    ],
)
def test_bad_spans_are_one_sentence(of_bert, target, error, message):
    with pytest.raises(error, match=message):
        of_bert(TEXT, target)


def test_white_space_around_a_span_is_dropped(of_bert):
    assert of_bert(TEXT, (3, 10)).targets == of_bert(TEXT, [4, 9]).targets


def test_bad_arguments_are_one_sentence(of_bert):
    model, tokenizer = of_bert.model, of_bert.tokenizer
    with pytest.raises(ValueError, match="aggregation_strategy 'mean' is unknown"):
        TokenClassificationExplainer(model, tokenizer, aggregation_strategy="mean")
    with pytest.raises(ValueError, match="needs words, and the tokenizer does not say where"):
        TokenClassificationExplainer(model, SlowTokenizer(), aggregation_strategy="max")
    with pytest.raises(TypeError, match="^ignore_labels must be a list of labels, got 'O'"):
        TokenClassificationExplainer(model, tokenizer, ignore_labels="O")
    with pytest.raises(TypeError, match="use TextClassificationExplainer"):
        TokenClassificationExplainer(bert(), tokenizer)
    with pytest.raises(TypeError, match="token-classification reads one text at a time"):
        of_bert([("bad", "good")])
    with pytest.raises(ValueError, match="^target has 1 entries; wanted one, or 2$"):
        of_bert(["bad", "good"], [(0, 3)])


def test_a_long_text_is_cut(of_bert):
    text = "bad movie " * 300
    with pytest.warns(TruncationWarning):
        result = of_bert(text)
    assert result.dropped_tokens >= 500
    with pytest.warns(TruncationWarning), pytest.raises(ValueError, match="beyond what the model"):
        of_bert(text, (2990, 2999))
    with pytest.warns(TruncationWarning):
        assert of_bert(text, (0, 3)).targets[0].name.endswith(": bad")


def test_a_slow_tokenizer():
    tokenizer = SlowTokenizer()
    import transformers

    config = transformers.BertConfig(**SHAPE, id2label=dict(enumerate(LABELS)))
    model = spread(transformers.BertForTokenClassification(config))
    explain = TokenClassificationExplainer(model, tokenizer, ignore_labels=[])
    result = explain("unbelievable movie")
    assert all(target.start is None for target in result.targets)
    assert sum(len(row.split(": ")[1].split()) for row in result.rows) >= 2
    ids = torch.tensor([tokenizer("unbelievable movie")["input_ids"]])
    given = explain("unbelievable movie", (0, 12, "PER"))
    assert given.targets[0].start == 0
    with torch.no_grad():
        logits = model(ids).logits[0, 1:4]
        without = ids.clone()
        without[0, 4:6] = tokenizer.mask_token_id  # movi ##e
        changed = model(without).logits[0, 1:4]
    chosen = 1 + logits[:, 1:3].argmax(1, keepdim=True)
    change = (logits.gather(1, chosen) - changed.gather(1, chosen)).mean()
    assert given.matrix[0, 1] == pytest.approx(float(change), abs=1e-10)
