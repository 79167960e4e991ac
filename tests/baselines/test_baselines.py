"""Baselines: which token or vector stands in the place of a word, and where."""

import copy
import warnings

import pytest
import torch
import transformers
from torch import nn

from captum_sig import baselines
from captum_sig.baselines import embedding as embedding_baselines
from captum_sig.baselines import families
from captum_sig.words import special_ids
from tests.tiny_models import (
    MASK,
    PAD,
    UNK,
    SlowTokenizer,
    byte_level_tokenizer,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)

TOKENIZERS = [wordpiece_tokenizer, byte_level_tokenizer, unsplit_tokenizer, SlowTokenizer]
TEXTS = ["the good movies", "the movie is not bad, a gorgeous mess", "", "bad"]
WIDTH = 6


@pytest.fixture(autouse=True)
def _nothing_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def texts_of(tokenizer, texts=TEXTS):
    """Ids and attention mask, padded at the right with 3 where the tokenizer has no pad token."""
    rows = [tokenizer(text)["input_ids"] for text in texts]
    length = max(len(row) for row in rows) + 2
    fill = 3 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.tensor([row + [fill] * (length - len(row)) for row in rows])
    attended = torch.tensor([[int(i < len(row)) for i in range(length)] for row in rows])
    return ids, attended


def words_in(tokenizer, ids, attended):
    """Where words stand, token by token."""
    special = special_ids(tokenizer)
    return torch.tensor(
        [
            [bool(seen) and token not in special for token, seen in zip(*row, strict=True)]
            for row in zip(ids.tolist(), attended.tolist(), strict=True)
        ]
    )


def random_embedding(n_rows):
    embedding = nn.Embedding(n_rows, WIDTH).double()
    nn.init.normal_(embedding.weight)
    return embedding


def random_lm(n_tokens):
    """A masked language model whose guesses differ, in train mode with dropout."""
    config = transformers.BertConfig(
        vocab_size=n_tokens, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=60,
    )  # fmt: skip
    lm = transformers.BertForMaskedLM(config).double()
    for weight in lm.parameters():
        nn.init.normal_(weight, std=0.5)
    return lm.train()


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def all_families():
    """Every family with every tokenizer that has its token."""
    for make in TOKENIZERS:
        tokenizer = make()
        for name in baselines.BASELINES:
            needed = {"blurred": "mask"}.get(name, name)
            if getattr(tokenizer, f"{needed}_token_id", UNK) is not None:
                yield pytest.param(make, name, id=f"{make.__name__}-{name}")


def family(name, tokenizer):
    return baselines.family(
        name,
        tokenizer,
        embedding=random_embedding(len(tokenizer)),
        masked_lm=random_lm(len(tokenizer)),
    )


@pytest.mark.parametrize(("name", "token"), [("mask", MASK), ("pad", PAD), ("unk", UNK)])
def test_words_are_replaced_and_special_tokens_and_padding_are_not(name, token):
    tokenizer = wordpiece_tokenizer()
    ids = tokenizer(["good movies zzz", "bad"], padding=True, return_tensors="pt")["input_ids"]
    found = baselines.BASELINES[name](tokenizer, ids)
    assert found.shape == ids.shape
    assert found.dtype == ids.dtype
    special = torch.isin(ids, torch.tensor([0, 2, 3, 4]))
    assert torch.equal(found[special], ids[special])
    assert (found[~special] == token).all()


def test_padding_without_an_id_of_its_own_stays_by_the_attention_mask():
    tokenizer = byte_level_tokenizer()
    ids = torch.tensor([[5, 6, 9]])
    found = baselines.eos(tokenizer, ids, torch.tensor([[1, 1, 0]]))
    assert found.tolist() == [[0, 0, 9]]


@pytest.mark.parametrize(
    ("missing", "taken"),
    [(["mask"], "pad"), (["mask", "pad"], "unk"), (["mask", "pad", "unk"], "eos")],
)
def test_mask_falls_back_in_order_and_says_so_once(missing, taken):
    tokenizer = wordpiece_tokenizer()
    tokenizer.eos_token = "[SEP]"
    for role in missing:
        setattr(tokenizer, f"{role}_token", None)
    with pytest.warns(UserWarning, match=f"no mask token: its {taken} token") as caught:
        role, token_id = baselines.choose_token(tokenizer, "mask")
    assert len(caught) == 1
    assert (role, token_id) == (taken, getattr(tokenizer, f"{taken}_token_id"))


def test_no_warning_where_nothing_falls_back():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert baselines.choose_token(wordpiece_tokenizer(), "mask") == ("mask", MASK)


def test_a_token_that_is_missing_lists_those_there_are():
    with pytest.raises(ValueError, match="has no pad token: use baseline unk or eos"):
        baselines.choose_token(byte_level_tokenizer(), "pad")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'zero' is unknown: use one of mask, pad, unk, eos"):
        baselines.choose_token(wordpiece_tokenizer(), "zero")


@pytest.mark.parametrize(("make", "name"), list(all_families()))
def test_special_tokens_padding_and_inputs_stay_in_every_family(make, name):
    tokenizer = make()
    ids, attended = texts_of(tokenizer)
    before = ids.clone(), attended.clone()
    fill = family(name, tokenizer)
    state = torch.get_rng_state()
    found = fill(ids, attended, seeded(1, 2, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ids, before[0])
    assert torch.equal(attended, before[1])
    assert not found.requires_grad
    words = words_in(tokenizer, ids, attended)
    assert words.any()
    assert not words[2].all()
    if found.dim() == 3:
        unchanged = fill.baseline.keywords["embedding"](ids)
        assert found.dtype == unchanged.dtype
    else:
        unchanged = ids
        assert found.dtype == ids.dtype
    assert found.shape == unchanged.shape
    assert torch.equal(found[~words], unchanged[~words])
    assert not torch.equal(found[words], unchanged[words])


@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_texts_without_a_word_stay(name):
    tokenizer = wordpiece_tokenizer()
    tokenizer.eos_token = "[SEP]"
    fill = family(name, tokenizer)
    ids = torch.tensor([[2, 3, 0], [2, 4, 3]])
    found = fill(ids, None, seeded(0, 0))
    unchanged = fill.baseline.keywords["embedding"](ids) if found.dim() == 3 else ids
    assert torch.equal(found, unchanged)
    assert fill(ids[:, :0], None, seeded(0, 0)).shape[:2] == (2, 0)
    assert len(fill(ids[:0], None, [])) == 0


@pytest.mark.parametrize("name", ["constant", "uniform"])
def test_draws_are_a_text_s_own(name):
    tokenizer = wordpiece_tokenizer()
    ids, attended = texts_of(tokenizer)
    fill = family(name, tokenizer)
    assert fill.is_random
    together = fill(ids, attended, seeded(1, 2, 3, 4))
    assert torch.equal(together, fill(ids, attended, seeded(1, 2, 3, 4)))
    assert not torch.equal(together, fill(ids, attended, seeded(5, 6, 7, 8)))
    one = seeded(9)[0]
    in_a_row = [fill.baseline(ids, attended, generator=one)]
    one = seeded(9)[0]
    singles = []
    for number, seed in enumerate((1, 2, 3, 4)):
        length = int(attended[number].sum())
        bare = ids[number : number + 1, :length]  # neither padding nor neighbours
        assert torch.equal(fill(bare, None, seeded(seed))[0], together[number, :length])
        singles.append(fill.baseline(bare, generator=one)[0])
        assert torch.equal(singles[-1], in_a_row[0][number, :length])


@pytest.mark.parametrize("name", ["constant", "uniform"])
def test_without_a_generator_torch_s_own_is_drawn_from(name):
    tokenizer = wordpiece_tokenizer()
    ids, attended = texts_of(tokenizer)
    fill = family(name, tokenizer).baseline
    torch.manual_seed(3)
    first = fill(ids, attended)
    torch.manual_seed(3)
    assert torch.equal(fill(ids, attended), first)
    assert torch.equal(fill(ids, attended, generator=seeded(3)[0]), first)


def test_constant_is_each_of_a_text_s_own_tokens_by_its_frequency():
    tokenizer = wordpiece_tokenizer()
    ids, attended = texts_of(tokenizer, ["bad bad bad good", "a b"])
    generator = seeded(0)[0]
    counts = {}
    for _ in range(400):
        found = baselines.constant(tokenizer, ids, attended, generator=generator)
        assert len(found[0, 1:5].unique()) == 1
        assert set(found[1, 1:3].tolist()) in ({int(ids[1, 1])}, {int(ids[1, 2])})
        counts[int(found[0, 1])] = counts.get(int(found[0, 1]), 0) + 1
    assert set(counts) == set(ids[0, 1:5].tolist())
    assert counts[int(ids[0, 1])] == pytest.approx(300, abs=40)  # 4.6 standard deviations


def near(tokenizer, embedding, token, n):
    """A token's n nearest others by plain comparison, nearest first."""
    vectors = embedding.weight.detach()
    ordinary = set(tokenizer.get_vocab().values()) - special_ids(tokenizer) - {token}
    return sorted(ordinary, key=lambda other: float((vectors[other] - vectors[token]).norm()))[:n]


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("n", [1, 3, 500])
def test_max_distance_is_the_farthest_of_the_nearest(make, n):
    tokenizer = make()
    embedding = random_embedding(len(tokenizer) + 7)  # the last rows belong to no token
    ids, attended = texts_of(tokenizer)
    found = baselines.max_distance(tokenizer, ids, attended, embedding=embedding, n_neighbors=n)
    for row, position in words_in(tokenizer, ids, attended).nonzero().tolist():
        token = int(ids[row, position])
        assert int(found[row, position]) == near(tokenizer, embedding, token, n)[-1]


def test_uniform_is_any_of_the_nearest_and_no_other():
    tokenizer = wordpiece_tokenizer()
    embedding = random_embedding(len(tokenizer))
    ids = torch.tensor([[2, 5, 6, 1, 3]])
    generator = seeded(0)[0]
    drawn = torch.stack(
        [
            baselines.uniform(
                tokenizer, ids, embedding=embedding, generator=generator, n_neighbors=4
            )[0]
            for _ in range(200)
        ]
    )
    for position in (1, 2, 3):
        wanted = near(tokenizer, embedding, int(ids[0, position]), 4)
        assert set(drawn[:, position].tolist()) == set(wanted)
    assert not torch.equal(drawn[:, 1], drawn[:, 2])


def test_neighbors_follow_the_weights_and_the_tokenizer(monkeypatch):
    calls = []
    search = embedding_baselines.nearest_neighbors

    def counted(*given):
        calls.append(given)
        return search(*given)

    monkeypatch.setattr(embedding_baselines, "nearest_neighbors", counted)
    tokenizer = wordpiece_tokenizer()
    embedding = random_embedding(len(tokenizer))
    ids, attended = texts_of(tokenizer)

    def check(n_calls):
        found = baselines.max_distance(tokenizer, ids, attended, embedding=embedding, n_neighbors=5)
        token = int(ids[0, 1])
        assert int(found[0, 1]) == near(tokenizer, embedding, token, 5)[-1]
        average = baselines.mean(tokenizer, ids, attended, embedding=embedding)[0, 1]
        ordinary = sorted(set(range(len(tokenizer))) - special_ids(tokenizer))
        torch.testing.assert_close(average, embedding.weight[ordinary].mean(0))
        assert len(calls) == n_calls

    check(1)
    check(1)
    with torch.no_grad():
        embedding.weight.normal_()
    check(2)
    embedding.load_state_dict(random_embedding(len(tokenizer)).state_dict())
    check(3)
    embedding.weight = random_embedding(len(tokenizer)).weight
    check(4)
    tokenizer.add_special_tokens({"additional_special_tokens": ["gorgeous"]})
    check(5)
    check(5)


@pytest.mark.parametrize("make", TOKENIZERS)
def test_zero_and_mean_are_vectors_at_words(make):
    tokenizer = make()
    embedding = random_embedding(len(tokenizer) + 7)
    ids, attended = texts_of(tokenizer)
    zero = baselines.zero(tokenizer, ids, attended, embedding=embedding)
    mean = baselines.mean(tokenizer, ids, attended, embedding=embedding)
    ordinary = sorted(set(tokenizer.get_vocab().values()) - special_ids(tokenizer))
    average = sum(embedding.weight[token].detach() for token in ordinary) / len(ordinary)
    words = words_in(tokenizer, ids, attended)
    for row, position in torch.ones_like(ids).nonzero().tolist():
        own = embedding.weight[ids[row, position]].detach()
        word = words[row, position]
        assert torch.equal(zero[row, position], 0 * own if word else own)
        torch.testing.assert_close(mean[row, position], average if word else own)


def test_tokens_that_the_model_does_not_know_are_not_chosen():
    tokenizer = wordpiece_tokenizer()
    embedding = random_embedding(len(tokenizer) - 4)
    ids = torch.tensor([[2, 5, 6, 3]])
    found = baselines.max_distance(tokenizer, ids, embedding=embedding)
    assert (found < embedding.num_embeddings).all()
    mean = baselines.mean(tokenizer, ids, embedding=embedding)
    known = sorted(set(range(embedding.num_embeddings)) - special_ids(tokenizer))
    torch.testing.assert_close(mean[0, 1], embedding.weight[known].mean(0))


def test_vectors_are_what_the_embedding_gives_not_its_weight():
    class Scaled(nn.Embedding):  # as Gemma's
        def forward(self, ids):
            return 3 * super().forward(ids)

    tokenizer = wordpiece_tokenizer()
    embedding = Scaled(len(tokenizer), WIDTH).double()
    ids = torch.tensor([[2, 5, 3]])
    for name in ("zero", "mean"):
        found = baselines.BASELINES[name](tokenizer, ids, embedding=embedding)
        assert torch.equal(found[0, 0], 3 * embedding.weight[2])
    ordinary = sorted(set(range(len(tokenizer))) - special_ids(tokenizer))
    torch.testing.assert_close(found[0, 1], 3 * embedding.weight[ordinary].mean(0))


@pytest.mark.parametrize("make", [wordpiece_tokenizer, SlowTokenizer])
@pytest.mark.parametrize("logits", [1, 2**25])
def test_blurred_is_the_most_probable_other_word(make, logits):
    tokenizer = make()
    lm = random_lm(len(tokenizer))
    ids, attended = texts_of(tokenizer)
    found = baselines.blurred(tokenizer, ids, attended, masked_lm=lm, max_logits=logits)
    lm.eval()
    ordinary = set(range(len(tokenizer))) - special_ids(tokenizer)
    for row, position in words_in(tokenizer, ids, attended).nonzero().tolist():
        text = ids[row : row + 1, : int(attended[row].sum())].clone()
        own = int(text[0, position])
        text[0, position] = MASK
        logits_there = lm(input_ids=text).logits[0, position].detach()
        best = max(ordinary - {own}, key=lambda token: float(logits_there[token]))  # noqa: B023
        assert int(found[row, position]) == best


def test_blurred_does_not_see_padding_on_either_side():
    tokenizer = wordpiece_tokenizer()
    lm = random_lm(len(tokenizer))
    ids = torch.tensor([[2, 5, 9, 11, 7, 3]])
    alone = baselines.blurred(tokenizer, ids, masked_lm=lm)
    padding = torch.zeros(1, 3, dtype=torch.long)
    for padded in (torch.cat([padding, ids], 1), torch.cat([ids, padding], 1)):
        for mask in (None, (padded != PAD).long()):
            found = baselines.blurred(tokenizer, padded, mask, masked_lm=lm)
            assert torch.equal(found[padded != PAD], alone[0])
            assert (found[padded == PAD] == PAD).all()


def test_the_language_model_is_left_as_it_was_also_after_an_error():
    tokenizer = wordpiece_tokenizer()
    lm = random_lm(len(tokenizer))
    lm.bert.embeddings.eval()  # frozen by hand
    modes = [module.training for module in lm.modules()]
    assert {True, False} == set(modes)
    seen = []
    lm.bert.register_forward_hook(
        lambda module, *_: seen.append((module.training, torch.is_grad_enabled()))
    )
    ids = torch.tensor([[2, 5, 9, 3]])
    baselines.blurred(tokenizer, ids, masked_lm=lm)
    assert seen == [(False, False)]
    assert [module.training for module in lm.modules()] == modes
    lm.cls.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        baselines.blurred(tokenizer, ids, masked_lm=lm)
    assert [module.training for module in lm.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(weight.requires_grad and weight.grad is None for weight in lm.parameters())


@pytest.mark.parametrize("more", [-1, 1, 5])
def test_a_language_model_with_another_vocabulary_is_refused(more):
    tokenizer = wordpiece_tokenizer()
    lm = random_lm(len(tokenizer) + more)
    with pytest.raises(ValueError, match="a masked LM with another vocabulary"):
        baselines.blurred(tokenizer, torch.tensor([[2, 5, 3]]), masked_lm=lm)
    with pytest.raises(ValueError, match="a masked LM with another vocabulary"):
        baselines.family(
            "blurred", tokenizer, embedding=random_embedding(len(tokenizer)), masked_lm=lm
        )


def test_a_language_model_may_be_rounded_up_as_the_explained_model_is():
    tokenizer = wordpiece_tokenizer()
    size = len(tokenizer) + 3
    lm = random_lm(size)
    with torch.no_grad():
        lm.cls.predictions.bias[-3:] = 1e6  # most probable, but no tokens
    fill = baselines.family("blurred", tokenizer, embedding=random_embedding(size), masked_lm=lm)
    assert (fill(torch.tensor([[2, 5, 6, 3]]), None, []) < len(tokenizer)).all()


def test_a_text_too_long_for_the_language_model_is_refused_and_padding_does_not_count():
    tokenizer = wordpiece_tokenizer()
    lm = random_lm(len(tokenizer))
    ids = torch.tensor([[2] + 58 * [5] + [3] + 9 * [PAD]])
    assert baselines.blurred(tokenizer, ids, masked_lm=lm).shape == ids.shape
    with pytest.raises(ValueError, match="text 0 has 61 tokens, but masked_lm reads at most 60"):
        baselines.blurred(tokenizer, ids.clamp(min=1)[:, :61], masked_lm=lm)


def test_a_language_model_in_train_mode_is_used_in_eval_mode_and_stays_in_train_mode():
    tokenizer = wordpiece_tokenizer()
    lm = random_lm(len(tokenizer))
    ids = torch.tensor([[2, 5, 3]])
    expected = baselines.blurred(tokenizer, ids, masked_lm=lm.eval())
    modes = []
    lm.train().register_forward_hook(lambda used, *_: modes.append((used.training, lm.training)))
    assert torch.equal(baselines.blurred(tokenizer, ids, masked_lm=lm), expected)
    assert modes == [(False, True)]  # what runs is not what other threads see


@pytest.mark.parametrize("name", list(baselines.BASELINES))
def test_inference_mode_leaves_tensors_fit_for_gradients(name):
    tokenizer = wordpiece_tokenizer()
    tokenizer.eos_token = "[SEP]"
    ids, attended = texts_of(tokenizer)
    fill = family(name, tokenizer)
    with torch.inference_mode():
        inside = fill(ids, attended, seeded(1, 2, 3, 4))
    outside = fill(ids, attended, seeded(1, 2, 3, 4))
    assert torch.equal(inside, outside)
    assert not outside.is_inference()


@pytest.mark.parametrize("given", [None, "a-name"])
def test_blurred_says_what_to_pass(given):
    tokenizer = wordpiece_tokenizer()
    with pytest.raises(ValueError, match="needs a masked language model.*pass masked_lm, a model"):
        baselines.family("blurred", tokenizer, embedding=random_embedding(4), masked_lm=given)
    with pytest.raises(ValueError, match="the tokenizer has no mask token"):
        family("blurred", byte_level_tokenizer())


def test_a_family_refuses_what_it_cannot_use():
    tokenizer = wordpiece_tokenizer()
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="'grey' is unknown: use one of mask, .*, blurred$"):
        baselines.family("grey", tokenizer, embedding=layer)
    with pytest.raises(ValueError, match="has no eos token: use baseline mask or pad or unk"):
        baselines.family("eos", tokenizer, embedding=layer)
    for name, needs in families.NEEDS.items():
        if "embedding" in needs and name != "blurred":
            with pytest.raises(ValueError, match="embedding is Linear; wanted .*nn.Embedding"):
                baselines.family(name, tokenizer, embedding=layer)
            with pytest.raises(ValueError, match="embedding is Linear; wanted .*nn.Embedding"):
                baselines.BASELINES[name](tokenizer, torch.tensor([[5]]), embedding=layer)
    ids = torch.tensor([[2, 5, 3]])
    for name in ("mask", "pad", "unk"):
        fill = baselines.family(name, tokenizer, embedding=layer)
        assert (fill.name, fill.is_random) == (name, False)
        assert torch.equal(fill(ids, None, []), baselines.BASELINES[name](tokenizer, ids))
    fill = baselines.family("constant", tokenizer, embedding=layer)
    with pytest.raises(ValueError, match="got 2 generators; wanted one for each of 1"):
        fill(ids, None, seeded(0, 1))


def test_a_family_is_named_by_the_token_that_is_there_and_warns_once():
    tokenizer = unsplit_tokenizer()
    with pytest.warns(UserWarning, match="no mask token: its pad token"):
        fill = baselines.family("mask", tokenizer, embedding=nn.Linear(2, 2))
    assert fill.name == "pad"
    assert fill(torch.tensor([[1, 5]]), None, []).tolist() == [[1, tokenizer.pad_token_id]]


def test_ids_and_numbers_that_do_not_fit_are_refused():
    tokenizer = wordpiece_tokenizer()
    embedding = random_embedding(len(tokenizer) + 2)
    for ids, message in [
        (torch.tensor([5, 6]), r"input_ids has shape \(2,\); wanted \(texts, positions\)"),
        (torch.tensor([[len(tokenizer)]]), "is not a token of the tokenizer"),
    ]:
        with pytest.raises(ValueError, match=message):
            baselines.uniform(tokenizer, ids, embedding=embedding)
    with pytest.raises(ValueError, match="n_neighbors is 0, of 23 tokens"):
        baselines.max_distance(tokenizer, ids, embedding=embedding, n_neighbors=0)


def test_families_can_be_copied():
    tokenizer = wordpiece_tokenizer()
    ids, attended = texts_of(tokenizer)
    fill = family("uniform", tokenizer)
    other = copy.deepcopy(fill)
    generators = seeded(1, 2, 3, 4), seeded(1, 2, 3, 4)
    assert torch.equal(fill(ids, attended, generators[0]), other(ids, attended, generators[1]))


def test_every_family_is_listed_once():
    assert list(baselines.BASELINES) == list(families.NEEDS)
    assert list(baselines.BASELINES) == [
        "mask", "pad", "unk", "eos", "zero", "mean", "constant", "max_distance", "uniform",
        "blurred",
    ]  # fmt: skip


def test_a_warning_about_a_baseline_names_the_remedy():
    with pytest.warns(UserWarning, match="pass baseline 'unk' to choose it, or another such as"):
        assert baselines.choose_token(byte_level_tokenizer(), "mask")[0] == "unk"
    assert baselines.choose_token(byte_level_tokenizer(), "unk")[0] == "unk"  # without a warning
