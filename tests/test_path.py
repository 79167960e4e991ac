"""Traced paths: against a loop, in closed form, and what they must not touch."""

import dataclasses
import json
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from captum_sig import LayerSequentialIntegratedGradients, TextClassificationExplainer
from captum_sig.attr.dig import DiscretizedPath
from captum_sig.attr.neighbors import nearest_tokens
from captum_sig.path import PATHS, Trace, trace
from tests.problems import D, linear, quadratic
from tests.tiny_models import (
    CLS,
    MASK,
    SEP,
    TEXTS,
    LSTMClassifier,
    SlowTokenizer,
    bert,
    byte_level_tokenizer,
    mask_baseline,
    random_ids,
    tiny,
    wordpiece_tokenizer,
)

IDS = random_ids(1, 7)
BASELINE = mask_baseline(IDS)
MOVING = [1, 2, 3, 4, 5]
WORDS = torch.tensor([[0, 1, 1, 2, 3, 3, 9]])


def of_bert(method: str = "ig", **options: object) -> Trace:
    model = tiny("bert")
    return trace(model.logits, model.embedding, IDS, BASELINE, 1, method=method, **options)


def of_embedding(f, ids: Tensor, baseline: Tensor, **options: object) -> Trace:
    """F of the vectors of a random vocabulary."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(20, D, generator=generator, dtype=torch.float64)
    embedding = nn.Embedding.from_pretrained(vectors)
    return trace(lambda ids: f(embedding(ids)), embedding, ids, baseline, **options)


def line_points(method: str, n: int, x: Tensor, b: Tensor, words: list[list[int]]) -> Tensor:
    """(P, n + 1, L, D) of a straight line."""
    alphas = [k / n for k in range(n + 1)]
    paths = []
    for word in words:
        moving = torch.zeros(x.shape[0], 1, dtype=torch.bool)
        moving[word] = True
        paths.append(torch.stack([torch.where(moving, b + a * (x - b), x) for a in alphas]))
    return torch.stack(paths)


@pytest.mark.parametrize(("method", "words"), [("ig", [MOVING]), ("sig", [[1, 2], [3], [4, 5]])])
def test_values_tokens_and_distances_are_those_of_a_loop(method, words):
    model, n = tiny("bert"), 4
    found = of_bert(method, n_steps=n, feature_mask=WORDS)
    weight = model.embedding.weight.detach()
    x, b = weight[IDS[0]], weight[BASELINE[0]]
    points = line_points(method, n, x, b, words)
    assert found.words == tuple(tuple(word) for word in words)
    assert found.alpha.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for p in range(len(words)):
        gradients = []
        for k in range(n + 1):
            point = points[p, k].clone().requires_grad_()
            hook = model.embedding.register_forward_hook(lambda *_, new=point: new[None])
            output = model.logits(IDS)[0, 1]
            hook.remove()
            assert found.outputs[p, k].item() == pytest.approx(output.item(), abs=1e-12)
            gradients.append(torch.autograd.grad(output, point)[0])
            for position in range(IDS.shape[1]):
                distances = (weight - points[p, k, position]).norm(dim=1)
                moves = position in words[p]
                token = int(distances.argmin()) if moves else int(IDS[0, position])
                assert int(found.tokens[p, k, position]) == token
                far = float(distances.min()) if moves else 0.0
                assert float(found.distances[p, k, position]) == pytest.approx(far, abs=1e-12)
        total = 0.0
        for k in range(1, n + 1):
            step = points[p, k] - points[p, k - 1]
            total += float((0.5 * (gradients[k - 1] + gradients[k]) * step).sum())
            assert found.cumulative[p, k].item() == pytest.approx(total, abs=1e-12)
    assert torch.equal(found.cumulative[:, 0], torch.zeros(len(words)).double())


@pytest.mark.parametrize("f", [linear, quadratic])
@pytest.mark.parametrize("method", PATHS)
def test_the_trapezoid_rule_is_exact_for_a_gradient_linear_on_every_step(f, method):
    found = of_embedding(f, torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 8, 9, 6]]),
                         method=method)  # fmt: skip
    assert found.outputs.shape == found.cumulative.shape
    torch.testing.assert_close(
        found.cumulative, found.outputs - found.outputs[:, :1], atol=1e-12, rtol=0
    )
    assert found.residual.abs().max() < 1e-12
    assert torch.equal(found.change, found.outputs[:, -1] - found.outputs[:, 0])


def test_sig_adds_up_to_the_exact_word_scores_with_an_error_of_second_order():
    model = tiny("bert")
    exact = LayerSequentialIntegratedGradients(model.logits, model.embedding).attribute_words(
        IDS, BASELINE, 1, feature_mask=WORDS
    )
    errors = []
    for n_steps in (50, 100, 200):
        found = of_bert("sig", n_steps=n_steps, feature_mask=WORDS)
        first = [positions[0] for positions in found.words]
        torch.testing.assert_close(found.change, exact[0, first], atol=1e-12, rtol=0)
        errors.append(found.residual.abs())
        assert (found.cumulative[:, -1] - exact[0, first]).abs().max() < 0.1
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert (coarse / fine).tolist() == pytest.approx([4] * len(coarse), rel=0.1)


@pytest.mark.parametrize("method", PATHS)
def test_the_ends_are_baseline_and_input(method):
    found = of_bert(method)
    model = tiny("bert")
    for path, positions in enumerate(found.words):
        moved = torch.zeros(7, dtype=torch.bool)
        moved[list(positions)] = True
        assert torch.equal(found.tokens[path, 0], torch.where(moved, BASELINE[0], IDS[0]))
    assert (found.tokens[:, -1] == IDS).all()
    assert torch.equal(found.ids, IDS[0])
    assert found.distances[:, [0, -1]].count_nonzero() == 0
    plain = model.logits(IDS)[0, 1].expand(len(found.words))
    torch.testing.assert_close(found.outputs[:, -1], plain, atol=1e-12, rtol=0)
    assert (found.alpha[0], found.alpha[-1]) == (0, 1)
    expected = [(*MOVING,)] if PATHS[method].one_by_one is False else [(p,) for p in MOVING]
    assert list(found.words) == expected


@pytest.mark.parametrize("method", ["ig", "sig"])
def test_ends_are_exact_in_float32(method):
    model = tiny("bert", torch.float32)
    found = trace(model.logits, model.embedding, IDS, BASELINE, 1, method=method, n_steps=7)
    assert found.distances[:, [0, -1]].count_nonzero() == 0
    assert found.outputs.dtype == found.cumulative.dtype == torch.float64
    fine = of_bert(method, n_steps=7)
    torch.testing.assert_close(found.cumulative, fine.cumulative, atol=1e-4, rtol=0)


def test_dig_goes_by_its_own_points():
    path = DiscretizedPath("maxcount", n_anchors=5, factor=1)
    model = tiny("bert")
    weight = model.embedding.weight.detach()
    points = path(model.embedding, IDS, weight[BASELINE])
    for method in ("dig", "sequential_dig"):
        found = of_bert(method, path=path)
        torch.testing.assert_close(found.alpha, torch.arange(13).double() / 12)
        for number, positions in enumerate(found.words):
            for position in positions:
                ids, distances = nearest_tokens(weight, points.points[points.path_of[0, position]])
                assert torch.equal(found.tokens[number, :, position], ids)
                assert torch.equal(found.distances[number, :, position], distances)


def test_dig_asks_for_words_where_anchors_need_not_be_moved():
    """On a curve that rises in every dimension all words between the ends are on the way."""
    t = torch.linspace(0, 1, 40, dtype=torch.float64)
    embedding = nn.Embedding.from_pretrained(torch.stack([t, t**2, t**3], 1))
    follow = partial(trace, lambda ids: embedding(ids).sum((1, 2)), embedding,
                     torch.tensor([[39, 30]]), torch.tensor([[0, 2]]))  # fmt: skip
    assert follow(method="dig", path=DiscretizedPath(n_anchors=20)).wae == 0
    assert follow(method="ig").wae > 0.01


def test_word_approximation_errors():
    together, alone = of_bert("ig", n_steps=10), of_bert("sig", n_steps=10)
    assert together.wae == together.wae_moving
    assert together.wae == pytest.approx(together.distances[:, :, MOVING].mean().item())
    assert alone.wae == pytest.approx(alone.distances[:, :, MOVING].mean().item())
    assert alone.wae_moving == pytest.approx(together.wae)  # each word goes the same way
    assert alone.wae == pytest.approx(together.wae / len(MOVING))


def test_tokens_of_one_vector_are_told_as_the_callers():
    vectors = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    embedding = nn.Embedding.from_pretrained(vectors)
    found = trace(lambda ids: embedding(ids).sum((1, 2)), embedding, torch.tensor([[2]]), 3)
    assert (int(found.tokens[0, 0]), int(found.tokens[0, -1])) == (3, 2)


def test_activations_as_baseline():
    model = tiny("bert")
    zero = torch.zeros(1, 7, 32, dtype=torch.float64)
    found = trace(model.logits, model.embedding, IDS, target=1, layer_baselines=zero, n_steps=2)
    assert found.words == (tuple(range(7)),)
    nearest = model.embedding.weight.detach().norm(dim=1).min()
    torch.testing.assert_close(found.distances[0, 0], nearest.expand(7), atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", PATHS)
def test_rows_in_a_pass_change_nothing(method):
    whole, small = of_bert(method), of_bert(method, internal_batch_size=3)
    torch.testing.assert_close(whole.outputs, small.outputs, atol=1e-12, rtol=0)
    torch.testing.assert_close(whole.cumulative, small.cumulative, atol=1e-12, rtol=0)
    assert torch.equal(whole.tokens, small.tokens)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_models_are_left_as_found(mode):
    model = LSTMClassifier().double().train()
    model.head.weight.requires_grad_(False)
    before = {name: (w.clone(), w.requires_grad) for name, w in model.named_parameters()}
    with mode():
        found = trace(model, model.embedding, IDS, BASELINE, 0, torch.ones_like(IDS), n_steps=3)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert model.training
    assert not model.embedding._forward_hooks
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name][0])
        assert (weight.requires_grad, weight.grad) == (before[name][1], None)
    tensors = [v for v in vars(found).values() if isinstance(v, Tensor)]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_nothing_to_move():
    model = tiny("bert")
    for method in PATHS:
        with pytest.warns(UserWarning, match="nothing differs"):
            found = trace(model.logits, model.embedding, IDS, IDS, 1, method=method)
        assert (found.words, found.wae, found.wae_moving) == ((), 0.0, 0.0)
        assert found.tokens.shape == (0, len(found.alpha), 7)
        assert found.to_dict()["paths"] == []


def test_to_dict_is_ready_for_json():
    found = of_bert("sig", n_steps=3, feature_mask=WORDS)
    data = json.loads(json.dumps(found.to_dict()))
    assert (data["method"], data["ids"], len(data["paths"])) == ("sig", IDS[0].tolist(), 3)
    assert data["wae"] == found.wae
    path = data["paths"][0]
    assert path["positions"] == [1, 2]
    assert path["tokens"] == found.tokens[0][:, [1, 2]].tolist()
    assert path["distances"] == found.distances[0][:, [1, 2]].tolist()
    assert path["residual"] == path["cumulative"][-1] - path["change"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.method = "ig"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lime"}, "use one of ig, dig, sig, sequential_dig"),
        ({"inputs": random_ids(2, 5)}, "one example, got 2"),
        ({"n_steps": 0}, "from 1 to 2,000, got 0"),
        ({"n_steps": 2.5}, "from 1 to 2,000, got 2.5"),
        ({"n_steps": 3000}, "from 1 to 2,000, got 3,000"),
        ({"n_steps": 20, "method": "dig"}, "leave n_steps out"),
        ({"path": DiscretizedPath(), "method": "sig"}, "leave path out"),
        ({"layer": nn.Linear(2, 2)}, "is a Linear; wanted the word embedding"),
        ({"internal_batch_size": 0}, "at least 1 row"),
    ],
)
def test_mistakes_are_told(options, message):
    model = tiny("bert")
    given = {"layer": model.embedding, "inputs": IDS, "target": 1, **options}
    with pytest.raises(ValueError, match=message):
        trace(model.logits, **given)


def test_every_position_must_be_one_token():
    embedding = nn.Embedding(8, 2)
    letters = torch.tensor([[[1, 2, 3], [4, 5, 6]]])  # of two words
    with pytest.raises(ValueError, match="not receive a token id for each position"):
        trace(lambda ids: embedding(ids).sum((1, 2, 3)), embedding, letters, 0)


# ---- an explainer's


@pytest.fixture(scope="module")
def explainer():
    return TextClassificationExplainer(bert(), wordpiece_tokenizer())


@pytest.mark.parametrize("text", TEXTS)
def test_the_explainers_trace_ends_at_its_scores(explainer, text):
    found = explainer.trace(text, method="sig", n_steps=4)
    explained = explainer(text)
    assert found.words == tuple(word.word for word in explained.words)
    assert found.trace.change.tolist() == pytest.approx(explained.scores, abs=1e-10)
    assert found.target == explained.target
    assert found.baseline == "mask"


def test_target_level_and_baseline_are_the_explainers():
    tokens = TextClassificationExplainer(bert(), wordpiece_tokenizer(), level="token",
                                         baseline="zero")  # fmt: skip
    found = tokens.trace("movies", target="neutral", method="sig", n_steps=2)
    explained = tokens("movies", target="neutral")
    assert found.words == ("movie", "s")
    assert (found.target, found.baseline) == ("neutral", "zero")
    assert found.trace.change.tolist() == pytest.approx(explained.scores, abs=1e-10)


def test_a_random_baseline_is_drawn_once_by_text_and_seed():
    def outputs(seed: int, text: str = TEXTS[0]) -> Tensor:
        explainer = TextClassificationExplainer(bert(), wordpiece_tokenizer(), baseline="uniform",
                                                seed=seed)  # fmt: skip
        return explainer.trace(text, n_steps=2).trace.outputs

    assert torch.equal(outputs(1), outputs(1))
    assert not torch.equal(outputs(1), outputs(2))


def test_sentences_are_spelt_as_by_the_tokenizer(explainer):
    found = explainer.trace("Movies, not goody!", n_steps=4)
    assert "".join(t for t, _ in found.sentence(0, 4)) == "movies, not goody!"
    assert not any(changed for _, changed in found.sentence(0, 4))
    start = found.sentence(0, 0)
    assert [text for text, _ in start] == ["[MASK]", *[" [MASK]"] * (len(start) - 1)]
    assert all(changed for _, changed in start)
    assert found.nearest(0, 4) == "movies, not goody!"
    one = explainer.trace("Goody movies", method="sig", n_steps=2)
    assert [one.nearest(path, 2) for path in range(2)] == ["goody", "movies"]


@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer(), SlowTokenizer()])
def test_pieces_join_for_other_tokenizers(tokenizer):
    model = bert(pad_token_id=0)
    explainer = TextClassificationExplainer(model, tokenizer, baseline="unk")
    found = explainer.trace("good movies", n_steps=2)
    assert "".join(text for text, _ in found.sentence(0, 2)) == "good movies"


def test_a_character_of_several_pieces_does_not_break_the_sentence():
    explainer = TextClassificationExplainer(bert(), byte_level_tokenizer(), baseline="eos")
    found = explainer.trace("good café", n_steps=2)
    assert "".join(text for text, _ in found.sentence(0, 2)).startswith("good caf")
    assert found.nearest(0, 2).startswith("good caf")


def test_a_models_own_rows_go_one_by_one_without_padding():
    model = bert()
    model.config.pad_token_id = None
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    rows = []
    model.register_forward_hook(lambda m, args, kwargs, out: rows.append(len(out.logits)),
                                with_kwargs=True)  # fmt: skip
    with pytest.warns(UserWarning, match="pad_token_id"):
        explainer.trace("good movie", n_steps=3)
    assert set(rows) == {1}


def test_the_text_traces_dict_has_strings(explainer):
    found = explainer.trace("Movies!", method="sig", n_steps=2)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["text"] == "Movies!"
    assert data["tokens"] == ["[CLS]", "movie", "##s", "!", "[SEP]"]
    assert [path["word"] for path in data["paths"]] == ["Movies", "!"]
    first = data["paths"][0]
    assert first["tokens"][0] == ["[MASK]"] * 2
    assert first["tokens"][2] == ["movie", "##s"]
    assert first["nearest"][2] == "movies"
    assert len(first["nearest"]) == len(data["alpha"]) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("",), ValueError, "no word to move"),
        ((["good"],), TypeError, "wanted one text, not a pair or a chat, got list"),
        (("good", "happy"), ValueError, "unknown label"),
        (("good", None, "lime"), ValueError, "use one of ig, dig"),
    ],
)
def test_the_explainers_mistakes_are_told(explainer, arguments, error, message):
    with pytest.raises(error, match=message):
        explainer.trace(*arguments)


def test_nothing_but_words_moves(explainer):
    found = explainer.trace("good movie", n_steps=2)
    assert found.positions == found.trace.words[0] == (1, 2)
    assert found.trace.tokens[0, 0].tolist() == [CLS, MASK, MASK, SEP]
