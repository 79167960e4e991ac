"""Models of sentence-transformers, with all their modules: built here, and loaded from a folder."""

import json
import sys

import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.explainers.similarity import SimilarityExplainer
from tests.tiny_models import MASK, tiny, wordpiece_tokenizer

sentence_transformers = pytest.importorskip("sentence_transformers", exc_type=ImportError)
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
SentenceTransformer = sentence_transformers.SentenceTransformer

FIRST, SECOND = "The movie is not unbelievable, not good.", "bad movies"
DOCUMENTS = ["a gorgeous mess!", "bad", "the movies is good"]
PROMPTS = {"query": "is good: ", "document": "the movie, "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT and its tokenizer, from which a Transformer is loaded."""
    path = tmp_path_factory.mktemp("encoder")
    tiny("bert").model.base_model.save_pretrained(path)
    wordpiece_tokenizer().save_pretrained(path)
    return path


def model_of(folder, *, pooling="mean", normalize=True, include_prompt=True, **options):
    torch.manual_seed(0)
    parts = [
        modules.Transformer(str(folder), model_kwargs={"dtype": torch.float64}),
        modules.Pooling(32, pooling, include_prompt=include_prompt),
        modules.Dense(32, 12).double(),
        *([modules.Normalize()] if normalize else []),
    ]
    return SentenceTransformer(modules=parts, device="cpu", **options).eval()


def similarity(model, a, b, kind="cosine"):
    a, b = (torch.as_tensor(vector, dtype=torch.float64) for vector in (a, b))
    return float(a @ b / (a.norm() * b.norm() if kind == "cosine" else 1))


def embedding_of(model, ids):
    with torch.no_grad():
        features = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
        return model(features)["sentence_embedding"][0]


def scores_of(model, text, other, prompt="", kind="cosine"):
    """A plain loop over the ids of a text's words, where the prompt stays."""
    encoding = model.tokenizer(prompt + text)
    ids, of_word = encoding["input_ids"], encoding.word_ids()
    starts = {encoding.token_to_word(p): encoding.token_to_chars(p).start
              for p, w in reversed(list(enumerate(of_word))) if w is not None}  # fmt: skip
    value = similarity(model, embedding_of(model, ids), other, kind)
    scores = []
    for word, start in sorted(starts.items()):
        if start >= len(prompt):
            row = [MASK if w == word else token for token, w in zip(ids, of_word, strict=True)]
            scores.append(value - similarity(model, embedding_of(model, row), other, kind))
    return scores


@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_all_modules_count(folder, pooling, kind):
    model = model_of(folder, pooling=pooling, normalize=kind == "cosine")
    found = SimilarityExplainer(model, similarity=kind)((FIRST, SECOND))
    a, b = (torch.from_numpy(model.encode(text)) for text in (FIRST, SECOND))
    assert found.value == pytest.approx(similarity(model, a, b, kind), abs=1e-10)
    expected = scores_of(model, FIRST, b, kind=kind) + scores_of(model, SECOND, a, kind=kind)
    assert found.scores == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_the_prompts_of_the_model_are_used_and_do_not_move(folder, include_prompt):
    model = model_of(folder, prompts=PROMPTS, include_prompt=include_prompt)
    explain = SimilarityExplainer(model)
    found = explain((FIRST, DOCUMENTS))
    query, documents = model.encode_query(FIRST), model.encode_document(DOCUMENTS)
    for result, text, document in zip(found, DOCUMENTS, documents, strict=True):
        assert result.value == pytest.approx(similarity(model, query, document), abs=1e-10)
        for word in result.words:
            assert (FIRST if word.side == "text" else text)[word.start : word.end] == word.word
    if include_prompt:
        scores = scores_of(model, FIRST, torch.from_numpy(documents[0]), PROMPTS["query"])
        scores += scores_of(model, DOCUMENTS[0], torch.from_numpy(query), PROMPTS["document"])
        assert found[0].scores == pytest.approx(scores, abs=1e-10)
    (first, _), alone = explain([(FIRST, DOCUMENTS[:1]), (SECOND, DOCUMENTS)]), found[0]
    assert first[0].scores == pytest.approx(alone.scores, abs=1e-10)
    assert first.text == FIRST


def test_the_default_prompt_is_that_of_a_pair(folder):
    model = model_of(folder, prompts=PROMPTS, default_prompt_name="document")
    found = SimilarityExplainer(model)((FIRST, SECOND))
    a, b = model.encode([FIRST, SECOND])
    assert found.value == pytest.approx(similarity(model, a, b), abs=1e-10)
    assert [word.word for word in found.words][-2:] == ["bad", "movies"]
    plain = SimilarityExplainer(model_of(folder))((FIRST, SECOND))
    assert found.value != pytest.approx(plain.value, abs=1e-6)


def test_its_own_limit_of_tokens(folder):
    model = model_of(folder)
    model.max_seq_length = 8
    with pytest.warns(UserWarning, match="limit .* of 8 tokens"):
        found = SimilarityExplainer(model)((FIRST, SECOND))
    assert found.value == pytest.approx(similarity(model, *model.encode([FIRST, SECOND])))
    assert len([word for word in found.words if word.side == "text"]) == 6


def test_a_truncated_embedding(folder):
    model = model_of(folder, truncate_dim=4)
    found = SimilarityExplainer(model)((FIRST, SECOND))
    vectors = model.encode([FIRST, SECOND])
    assert vectors.shape == (2, 4)
    assert found.value == pytest.approx(similarity(model, *vectors), abs=1e-10)


@pytest.mark.parametrize("method", ["ig", "sig:two_sided", "deep_lift"])
def test_other_methods(folder, method):
    explain = SimilarityExplainer(model_of(folder))
    found = explain([(FIRST, SECOND), ("bad", "good movies")], method=method)
    assert found[1].scores == pytest.approx(explain(("bad", "good movies"), None, method).scores)


def test_what_a_sentence_transformer_brings_itself(folder):
    model = model_of(folder)
    with pytest.raises(ValueError, match="has its own tokenizer: leave it out"):
        SimilarityExplainer(model, wordpiece_tokenizer())
    with pytest.raises(ValueError, match="has its own pooling: leave it out"):
        SimilarityExplainer(model, pooling="mean")
    with pytest.raises(TypeError, match="use SimilarityExplainer"):
        TextClassificationExplainer(model, wordpiece_tokenizer())


def test_a_model_without_an_encoder_is_refused():
    backend = wordpiece_tokenizer().backend_tokenizer
    model = SentenceTransformer(
        modules=[modules.StaticEmbedding(backend, embedding_dim=8)], device="cpu"
    )
    with pytest.raises(TypeError, match="StaticEmbedding, which has no word embedding of transf"):
        SimilarityExplainer(model)


class TestFromPretrained:
    """Folders that sentence-transformers saved."""

    @pytest.fixture
    def saved(self, folder, tmp_path):
        model_of(folder).save_pretrained(str(tmp_path))
        return tmp_path

    def test_all_modules_are_loaded(self, folder, saved):
        model = model_of(folder)
        found = SimilarityExplainer.from_pretrained(saved)((FIRST, SECOND))
        expected = similarity(model, *model.encode([FIRST, SECOND]))
        assert found.value == pytest.approx(expected, abs=1e-5)

    def test_pickled_weights_are_refused(self, saved):
        (dense,) = saved.glob("*_Dense")
        weights = dense / "model.safetensors"
        torch.save({}, dense / "pytorch_model.bin")
        SimilarityExplainer.from_pretrained(saved)  # which stand beside others
        weights.unlink()
        with pytest.raises(ValueError, match=r"weights in 2_Dense/pytorch_model.bin, which is a p"):
            SimilarityExplainer.from_pretrained(saved)

    def test_modules_of_others_are_refused(self, saved):
        listed = json.loads((saved / "modules.json").read_text())
        listed[1]["type"] = "mine.Pooling"
        (saved / "modules.json").write_text(json.dumps(listed))
        with pytest.raises(ValueError, match="a module mine.Pooling, which is not one of sentence"):
            SimilarityExplainer.from_pretrained(saved)

    def test_without_the_library_one_sentence_says_so(self, saved, monkeypatch):
        monkeypatch.setitem(sys.modules, "sentence_transformers", None)
        with pytest.raises(ImportError, match="not installed: pip install sentence-transformers"):
            SimilarityExplainer.from_pretrained(saved)
