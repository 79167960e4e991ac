"""Models with encoder and decoder: the source's words by the target's tokens."""

import pytest
import torch

from captum_sig import TextGenerationExplainer
from captum_sig.quadrature import rule
from tests import oracle
from tests.tiny_language_models import ENCODER_DECODERS, encoder_decoder
from tests.tiny_models import MASK, PAD, wordpiece_tokenizer

PROMPT, TARGET = "the movie is goody, bad", "gorgeous mess"


@pytest.fixture(params=[*ENCODER_DECODERS, "T5, resized", "Bart, resized"])
def explain(request):
    """Where the embeddings are resized, encoder and decoder call one module."""
    model = encoder_decoder(request.param.partition(",")[0])
    if "resized" in request.param:
        model.resize_token_embeddings(66)
        assert model.get_encoder().get_input_embeddings() is model.get_decoder().embed_tokens
    return TextGenerationExplainer(model, wordpiece_tokenizer())


def by_plain_loop(explain, result, source, decoder):
    """Log p of each target token, (T,)."""
    target = torch.tensor([token.id for token in result.target_tokens])
    found = []
    for number, token in enumerate(target):
        with torch.no_grad():
            logits = explain.model(
                input_ids=source, decoder_input_ids=decoder[:, : number + 1], use_cache=False
            ).logits
        found.append(logits[0, -1].log_softmax(-1)[token])
    return torch.stack(found)


def test_source_words_and_earlier_target_tokens(explain):
    result = explain(PROMPT, TARGET, attribute_target=True, internal_batch_size=3)
    source = explain.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    ids = [token.id for token in result.target_tokens]
    assert ids == explain.tokenizer(TARGET)["input_ids"]
    decoder = torch.tensor([[PAD, *ids[:-1]]])
    assert [w.word for w in result.words] == ["the", "movie", "is", "goody", ",", "bad"]
    whole = by_plain_loop(explain, result, source, decoder)
    words = [[1], [2], [3], [4, 5], [6], [7]]
    for number, word in enumerate(words):
        changed = source.clone()
        changed[:, word] = MASK
        expected = whole - by_plain_loop(explain, result, changed, decoder)
        torch.testing.assert_close(result.matrix[:, number], expected, rtol=0, atol=1e-10)
    for number in range(len(ids) - 1):
        changed = decoder.clone()
        if changed[0, number + 1] > MASK:  # a special token stays as it is
            changed[0, number + 1] = MASK
        expected = whole - by_plain_loop(explain, result, source, changed)
        found = result.matrix[:, len(words) + number]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert result.matrix.abs().max() > 0.03
    assert "both directions" in result.without_cache


def test_the_generated_target_starts_behind_the_decoders_first_id(explain):
    result = explain(PROMPT, None, {"max_new_tokens": 4})
    source = explain.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    made = explain.model.generate(source, do_sample=False, max_new_tokens=4)
    assert [token.id for token in result.target_tokens] == made[0, 1:].tolist()
    assert result.matrix.shape == (len(result.target_tokens), len(result.words))


def test_attributions():
    explain = TextGenerationExplainer(encoder_decoder("T5"), wordpiece_tokenizer())
    result = explain(PROMPT, TARGET, attributions=True, n_steps=5)
    source = explain.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    ids = torch.tensor([token.id for token in result.target_tokens])
    decoder = torch.tensor([[PAD, *ids[:-1].tolist()]])
    embedding = explain.model.get_encoder().get_input_embeddings()

    def f(x):
        logits = explain.model(inputs_embeds=x, decoder_input_ids=decoder).logits
        return logits[0].log_softmax(-1)[torch.arange(len(ids)), ids].sum()

    words = [[1], [2], [3], [4, 5], [6], [7]]
    base = torch.where(source > MASK, MASK, source)
    exact = oracle.sequential_integrated_gradients(
        f, embedding(source).detach(), embedding(base).detach(), words, rule("gausslegendre", 5)
    )
    expected = torch.stack([exact[0, word].sum(0) for word in words])
    torch.testing.assert_close(result.attributions, expected, rtol=0, atol=1e-10)


def test_a_decoder_that_has_no_first_id():
    model = encoder_decoder("T5")
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="with which its decoder begins: set"):
        TextGenerationExplainer(model, wordpiece_tokenizer())(PROMPT, TARGET)
