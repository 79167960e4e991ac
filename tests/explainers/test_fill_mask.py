"""Tokens at masks explained: equal to a plain loop over ids, and found as the pipeline does."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, FillMaskPipeline

from captum_sig import contexts
from captum_sig._warnings import TruncationWarning
from captum_sig.explainers.fill_mask import AtMasks, FillMaskExplainer
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.methods import METHODS
from tests.tiny_models import SHAPE, SlowTokenizer, bert, byte_level_tokenizer, spread
from tests.token_models import TOKENIZERS, plain_loop, with_head

TEXTS = ["a gorgeous {}!", "{} movies, not {} good {}", "the movie is not {}", "{}", "bad{}"]
ONE = "the movie is not {}"


def explainer_of(architecture, **options):
    tokenizer = TOKENIZERS[architecture]()
    model = with_head(architecture, "AutoModelForMaskedLM")
    model.resize_token_embeddings(len(tokenizer))  # so that every token has a name
    return FillMaskExplainer(model.eval(), tokenizer, **options)


@pytest.fixture(scope="module", params=TOKENIZERS)
def explainer(request):
    return explainer_of(request.param)


@pytest.fixture(scope="module")
def of_bert():
    return explainer_of("bert")


def masked(explainer, text):
    return text.replace("{}", explainer.tokenizer.mask_token)


def places(explainer, text, n_tokens):
    """Position and id of each row's logit, by hand, from the pipeline's choice of tokens."""
    tokenizer = explainer.tokenizer
    ids = tokenizer(text)["input_ids"]
    masks = [position for position, one in enumerate(ids) if one == tokenizer.mask_token_id]
    pipeline = FillMaskPipeline(model=explainer.model, tokenizer=tokenizer, device="cpu")
    found = pipeline(text, top_k=n_tokens)
    of_masks = [found] if len(masks) == 1 else found
    rows = [(at, one) for at, of_mask in zip(masks, of_masks, strict=True) for one in of_mask]
    return [at for at, _ in rows], [one["token"] for _, one in rows], rows


def test_matrix_is_a_plain_loop_over_ids(explainer):
    texts = [masked(explainer, text) for text in TEXTS]
    for text, result in zip(texts, explainer(texts, top_k=3), strict=True):
        positions, tokens, rows = places(explainer, text, 3)
        expected = torch.zeros(len(positions), 0)
        if result.words:
            expected = plain_loop(
                explainer.model, explainer.tokenizer, text, result.words,
                lambda logits, at=(positions, tokens): logits[at],
            )  # fmt: skip
        torch.testing.assert_close(result.matrix, expected.double(), rtol=0, atol=1e-10)
        assert max(result.max_abs_word_delta) < 1e-10
        assert [t.probability for t in result.targets] == pytest.approx(
            [one["score"] for _, one in rows], abs=1e-12
        )
        mask = explainer.tokenizer.mask_token
        assert all(text[target.start : target.end] == mask for target in result.targets)
        assert [t.start for t in result.targets] == sorted(t.start for t in result.targets)
        assert mask not in result.columns
        assert len(set(result.rows)) == len(result.rows)


def test_given_tokens_are_a_plain_loop(explainer):
    text = masked(explainer, ONE)
    result = explainer(text, ["good", "bad"])
    assert result.rows == ["good", "bad"]
    pieces = {"bert": "good", "roberta": "Ġgood", "deberta-v2": "▁good"}
    token = explainer.tokenizer.convert_tokens_to_ids(pieces[explainer.model.config.model_type])
    at = explainer.tokenizer(text)["input_ids"].index(explainer.tokenizer.mask_token_id)
    expected = plain_loop(
        explainer.model, explainer.tokenizer, text, result.words,
        lambda logits: logits[at, token][None],
    )  # fmt: skip
    torch.testing.assert_close(result.matrix[:1], expected, rtol=0, atol=1e-10)
    assert explainer(text, "good").matrix.tolist() == result.matrix[:1].tolist()
    as_piece = explainer(text, pieces[explainer.model.config.model_type])
    assert as_piece.targets == result.targets[:1]


def test_a_batch_is_each_text_alone(explainer):
    texts = [masked(explainer, text) for text in [*TEXTS, *TEXTS[::-1]]]
    for method in ("sig", "input_x_gradient"):
        together = explainer(texts, method=method, batch_size=4, top_k=2)
        for text, result in zip(texts, together, strict=True):
            alone = explainer(text, method=method, top_k=2)
            assert result.text == text
            assert result.rows == alone.rows
            torch.testing.assert_close(result.matrix, alone.matrix, rtol=0, atol=1e-10)


def test_ig_is_complete_over_the_sentence(explainer):
    texts = [masked(explainer, text) for text in ("a gorgeous {}!", "bad {} movies {}")]
    results = explainer(texts, method="ig", n_steps=100, top_k=2)
    for text, result in zip(texts, results, strict=True):
        encoding = explainer.tokenizer(text, return_tensors="pt")
        ids = encoding["input_ids"]
        is_special = torch.isin(ids, torch.tensor(explainer.tokenizer.all_special_ids))
        replaced = torch.where(is_special, ids, explainer.tokenizer.mask_token_id)
        with torch.no_grad():
            at_input = explainer.model(**encoding).logits[0]
            at_baseline = explainer.model(**{**encoding, "input_ids": replaced}).logits[0]
        positions, tokens, _ = places(explainer, text, 2)
        changes = (at_input - at_baseline)[positions, tokens]
        torch.testing.assert_close(result.matrix.sum(1), changes, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:sequential_dig is far from")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_explains_tokens_as_each_alone(of_bert, method):
    texts = [masked(of_bert, text) for text in (ONE, "bad {} movies {}", "{}")]
    wanted = [["good", "bad"], [["mess", "movie"], "un"], "not"]
    options = {"method": method, "n_steps": 20}
    together = of_bert(texts, wanted, **options)
    assert [result.rows for result in together] == [
        ["good", "bad"], ["mask 1: mess", "mask 1: movie", "mask 2: un"], ["not"]
    ]  # fmt: skip
    for text, result, tokens in zip(texts, together, wanted, strict=True):
        alone = of_bert(text, tokens, **options)
        torch.testing.assert_close(result.matrix, alone.matrix, rtol=0, atol=1e-8)
    for number, token in enumerate(wanted[0]):
        alone = of_bert(texts[0], token, **options)
        torch.testing.assert_close(together[0].matrix[number], alone.matrix[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "baseline", ["mask", "pad", "unk", "zero", "mean", "constant", "uniform", "max_distance"]
)
def test_a_mask_never_moves(of_bert, baseline):
    """Whatever the baseline, a text of a mask alone takes one pass and has no word."""
    explain = FillMaskExplainer(of_bert.model, of_bert.tokenizer, baseline=baseline)
    rows = []
    handle = explain.model.bert.encoder.register_forward_hook(
        lambda module, args, output: rows.append(len(args[0]))
    )
    try:
        assert explain("[MASK] [MASK]").words == ()
        assert sum(rows) == 1
        explain("bad [MASK] movie")  # which shows what the model is
        rows.clear()
        result = explain("bad [MASK] movie")
    finally:
        handle.remove()
    assert result.columns == ["bad", "movie"]
    n_draws = 5 if baseline in ("constant", "uniform") else 1
    assert sum(rows) <= 1 + n_draws * 4  # with a check of rows that depend on each other


def test_two_sided_contexts_interactions_and_top(of_bert):
    text = masked(of_bert, "a gorgeous movie is not {} but a mess")
    result = of_bert(text, ["good", "bad"], contexts=contexts.two_sided, interactions=3)
    both = (result.matrix_first + result.matrix_last) / 2
    torch.testing.assert_close(result.matrix, both, rtol=0, atol=1e-12)
    exact = of_bert(text, ["good", "bad"])
    torch.testing.assert_close(result.matrix_last, exact.matrix, rtol=0, atol=1e-10)
    assert [len(pairs) for pairs in result.interactions] == [3, 3]
    assert TargetsAttribution.from_dict(result.to_dict()) == result
    long = masked(of_bert, "bad movie is not good the mess " * 5 + "{}")
    exact, strongest = of_bert(long), of_bert(long, top=4)
    for number, evidence in enumerate(strongest.evidence):
        known = [column for column, kind in enumerate(evidence) if kind != "estimated"]
        assert len(known) < len(evidence)
        torch.testing.assert_close(
            strongest.matrix[number, known], exact.matrix[number, known], rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("has_head", [True, False])
def test_logits_of_masks_alone_are_those_of_the_model(explainer, has_head):
    """The last layer is given the masks, or gives all positions if it is not found."""
    model, mask = explainer.model, explainer.tokenizer.mask_token_id
    ids = torch.randint(5, 25, (3, 7), generator=torch.Generator().manual_seed(0))
    ids[0, 2] = ids[0, 5] = ids[1, 1] = ids[2, 3:] = mask
    at_masks = AtMasks(model, mask)
    given = []
    handle = at_masks.head.register_forward_hook(lambda _, args, out: given.append(out.shape[1]))
    if not has_head:
        at_masks.head = None
    with torch.no_grad():
        found, expected = at_masks(input_ids=ids).logits, model(ids).logits
    handle.remove()
    assert given == [4 if has_head else 7, 7]
    assert found.shape[1] == 4
    for row, positions in enumerate([[2, 5, 2, 2], [1, 1, 1, 1], [3, 4, 5, 6]]):
        torch.testing.assert_close(found[row], expected[row, positions], rtol=0, atol=1e-12)


def test_threads_share_a_model(of_bert):
    """The masks of one thread's text are not those of another's, and no hook remains."""
    texts = ["bad [MASK] movie", "[MASK] is not [MASK] good", "the mess is a [MASK]"] * 4
    alone = [of_bert(text, "good").matrix for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: of_bert(text, "good").matrix, texts))
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not any(module._forward_pre_hooks for module in of_bert.model.modules())


def test_where_a_token_stands_decides_what_a_word_is():
    """RoBERTa's mask takes the space before it, which belongs to the token there."""
    roberta = explainer_of("roberta")
    after_space, glued, first = "not <mask>", "not<mask>", "<mask> bad"

    def token(text, target):
        (masks,) = roberta._targets(target, [text_input(text)], True)
        return roberta.tokenizer.convert_ids_to_tokens([of_mask[0] for of_mask in masks.tokens])

    assert token(after_space, "bad") == ["Ġbad"]
    assert token(glued, "bad") == ["bad"]
    assert token(first, "bad") == ["bad"]
    assert token(glued, "Ġbad") == token(glued, " bad") == ["Ġbad"]
    assert roberta(after_space, ["bad", "Ġgood"]).rows == ["bad", "good"]
    rows = roberta(after_space, top_k=300).rows
    assert {"Ġbad", "bad"} <= set(rows)  # both read "bad"
    assert all(row.isprintable() for row in rows)


def text_input(text):
    from captum_sig.words.inputs import TextInput

    return TextInput(text)


def test_tokens_without_a_name():
    config = BertConfig(**SHAPE)  # pads its vocabulary
    explain = FillMaskExplainer(spread(BertForMaskedLM(config)), TOKENIZERS["bert"]())
    result = explain("[MASK]", top_k=10**6)
    assert len(result.rows) == SHAPE["vocab_size"]
    assert "token 250" in result.rows
    assert len(set(result.rows)) == len(result.rows)


def test_a_token_that_the_model_lacks():
    tokenizer = TOKENIZERS["bert"]()
    explain = FillMaskExplainer(spread(BertForMaskedLM(BertConfig(**SHAPE))), tokenizer)
    tokenizer.add_tokens([f"new{number}" for number in range(300)])
    explain.vocabulary = tokenizer.get_vocab()
    with pytest.raises(ValueError, match="^target 'new299' is token 326, and the model has 300"):
        explain("[MASK] bad", "new299")


@pytest.mark.parametrize("options", [{}, {"method": "ig", "smooth": 3, "noise": 0.1}])
def test_several_baselines_and_smoothing(of_bert, options):
    names = ["mask", "zero"]
    explain = FillMaskExplainer(of_bert.model, of_bert.tokenizer, baseline=names)
    result = explain(["bad [MASK] movie", "[MASK] [MASK] is"], "good", **options)[0]
    each = [
        FillMaskExplainer(of_bert.model, of_bert.tokenizer, baseline=name)(
            "bad [MASK] movie", "good", **options
        ).matrix
        for name in names
    ]
    if not options:
        torch.testing.assert_close(result.matrix, (each[0] + each[1]) / 2, rtol=0, atol=1e-12)
    assert result.baseline == "mask, zero"
    assert result.std is not None


TWO = "bad [MASK] movie [MASK]"


@pytest.mark.parametrize(
    ("text", "target", "error", "message"),
    [
        ("bad movie", None, ValueError, r"^text 0 has no \[MASK\]: put one where"),
        ("", None, ValueError, r"^text 0 has no \[MASK\]"),
        (["[MASK]", "bad"], None, ValueError, r"^text 1 has no \[MASK\]"),
        (("bad [MASK]", "good"), None, TypeError, "fill-mask reads one text at a time"),
        (TWO, "movies", ValueError, "'movies' is not a token .* reads as 'movie', '##s': name a"),
        (TWO, "xyzzy", ValueError, "'xyzzy' is not a token of the vocabulary, and reads as"),
        (TWO, "", ValueError, "^target '' is not a token of the vocabulary, and reads as nothing"),
        (TWO, [], ValueError, "^target is empty: name at least one token for each mask$"),
        (TWO, [["bad"], []], ValueError, "^target is empty"),
        (TWO, [["bad"]], ValueError, "^target has lists for 1 masks, and the text has 2: wanted"),
        (TWO, 3, TypeError, "^target must be a token or a list of tokens, got 3$"),
        (TWO, ["good", 3], TypeError, "^target holds 3; wanted tokens as strings$"),
        (TWO, [["good"], 3], TypeError, "^target holds 3; wanted tokens as strings$"),
        ([TWO, TWO], ["good"], ValueError, "^target has 1 entries; wanted one, or 2$"),
    ],
)
def test_bad_input_is_one_sentence(of_bert, text, target, error, message):
    with pytest.raises(error, match=message):
        of_bert(text, target)


def test_bad_arguments_are_one_sentence(of_bert):
    with pytest.raises(ValueError, match="^the tokenizer has no mask token"):
        FillMaskExplainer(of_bert.model, byte_level_tokenizer(), baseline="eos")
    with pytest.raises(TypeError, match="use TextClassificationExplainer"):
        FillMaskExplainer(bert(), of_bert.tokenizer)
    for top_k in (0, 1.5, "5"):
        with pytest.raises(ValueError, match="^top_k must be"):
            of_bert("[MASK]", top_k=top_k)


def test_tokens_for_several_texts(of_bert):
    texts = ["bad [MASK]", "[MASK] movie"]
    assert [r.rows for r in of_bert(texts, ("good", "bad"))] == [["good", "bad"]] * 2
    assert [r.rows for r in of_bert(texts, ["good", ("bad", "mess")])] == [
        ["good"],
        ["bad", "mess"],
    ]
    rows = [r.rows for r in of_bert(texts, [None, "Good"])]
    assert len(rows[0]) == 5
    assert rows[1] == ["good"]


def test_a_mask_beyond_the_limit(of_bert):
    with pytest.warns(TruncationWarning), pytest.raises(
        ValueError, match="^the model reads 1 of the 2 masks of text 0, from which .* are dropped"
    ):  # fmt: skip
        of_bert("[MASK] " + "bad movie " * 300 + "[MASK]")
    with pytest.warns(TruncationWarning):
        result = of_bert("bad [MASK] " + "bad movie " * 300, "good")
    assert result.dropped_tokens >= 500
    assert result.rows == ["good"]


@pytest.mark.parametrize(
    "text", ["é e\u0301 😀{}", "👩\u200d🚀{} 日本", "\n{}\t(bad)", "{}\u0301 bad"]
)
def test_any_text_beside_a_mask(explainer, text):
    text = masked(explainer, text)
    result = explainer(text)
    assert len(result) == 5
    mask = explainer.tokenizer.mask_token
    assert all(text[target.start : target.end] == mask for target in result.targets)
    for word in result.words:
        assert text[word.start : word.end] == word.word
        assert word.end <= result.targets[0].start or word.start >= result.targets[0].end


def test_a_slow_tokenizer():
    tokenizer = SlowTokenizer()
    model = spread(BertForMaskedLM(BertConfig(**SHAPE)))
    explain = FillMaskExplainer(model, tokenizer)
    text = "the movie is [MASK]"
    result = explain(text, ["good", "##liev"])
    assert result.rows == ["good", "##liev"]
    assert text[result.targets[0].start : result.targets[0].end] == "[MASK]"
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    at, token = ids[0].tolist().index(tokenizer.mask_token_id), tokenizer.get_vocab()["good"]
    without = ids.clone()
    without[0, 1] = tokenizer.mask_token_id
    with torch.no_grad():
        change = model(ids).logits[0, at, token] - model(without).logits[0, at, token]
    assert result.matrix[0, 0] == pytest.approx(float(change), abs=1e-10)
