"""What the benchmarks of long inputs ask is what they say, and what they count is right."""

import random

import numpy as np
import pytest
import torch
import transformers

from captum_sig import TextClassificationExplainer
from captum_sig.demo_model import PATH
from tests.benchmarks import (
    long_inputs,
    long_sources,
    long_texts,
    retrieval_data,
    train_retriever,
)
from tests.benchmarks.long_sources import Agreement, Sources


@pytest.fixture(scope="module")
def tokenizer():
    return train_retriever.new_tokenizer(20)


@pytest.fixture(scope="module")
def retriever(tokenizer):
    transformers.set_seed(0)
    return train_retriever.new_model(tokenizer, 128, 32).eval()


@pytest.mark.parametrize("n_holding", [1, 2])
def test_one_or_two_passages_hold_the_fact(n_holding, tokenizer):
    rng = random.Random(0)
    for _ in range(20):
        told, fact = retrieval_data.planted(rng, 20, n_holding)
        holding = told.holding(fact)
        assert len(holding) == n_holding
        for number, passage in enumerate(told.passages):
            assert (fact.name in passage.split()) == (number in holding)
            assert (fact.code in passage) == (number in holding)
            assert " ".join(retrieval_data.sentences(passage)) == passage
        assert tokenizer.unk_token_id not in tokenizer(told.prompt(fact))["input_ids"]


def test_a_code_is_a_label_only_where_it_can_be_known(tokenizer, monkeypatch):
    told = retrieval_data.retrieval(random.Random(0), 4, 1, 1)
    ids, labels = train_retriever.example(tokenizer, told, random.Random(0), 4, False)
    is_label = np.array(labels) != train_retriever.IGNORED
    assert is_label.sum() == 3 * 2  # three facts, thing and number
    assert (np.array(ids) == np.array(labels))[is_label].all()
    monkeypatch.setattr(train_retriever, "gaps", lambda ids, rng: [0] * len(ids))
    _, labels = train_retriever.example(tokenizer, told, random.Random(0), 4, True)
    assert set(labels) == {train_retriever.IGNORED}


def test_a_new_model_begins_with_what_it_must_learn(retriever, tokenizer):
    ids, labels = train_retriever.batch(tokenizer, random.Random(0), 5, 5, 20, gaps=False)
    right = train_retriever.is_right(retriever(input_ids=ids).logits, labels)
    assert right[labels[:, 1:] != train_retriever.IGNORED].float().mean() > 0.8


def test_texts_fill_the_room(monkeypatch):
    tokenizer = transformers.AutoTokenizer.from_pretrained(PATH)
    monkeypatch.setattr(long_texts, "TOKENS", 100)
    (text,) = long_texts.texts(tokenizer, "planted", PATH, 1, seed=0)
    assert 80 < len(tokenizer(text)["input_ids"]) <= 100
    assert [len(part.split(". ")) for part in text.split("\n\n")][:-1] == [5] * text.count("\n\n")
    assert long_texts.tidy("it's good , if long ") == "It's good, if long."


def test_a_full_sweep_is_made_once(tmp_path):
    explainer, text = TextClassificationExplainer.from_pretrained(PATH), "not a good film"
    path = tmp_path / "sweeps" / "0.npz"
    first = long_texts.full_sweep(explainer, text, path)
    explainer.model = None  # a second would fail
    second = long_texts.full_sweep(explainer, text, path)
    assert first.scores.tolist() == second.scores.tolist()
    assert first.rows > len(first.scores) == 4
    assert first.strongest() == {0, 4, 6, 11}


def test_leave_one_out_is_what_units_give(retriever, tokenizer):
    (sources,) = long_sources.of_passages(5, 1, seed=0)
    assert [sources.context[a:b] for a, b in sources.units] == [
        sentence.strip() for sentence in sources.sentences
    ]
    assert {sources.target.split()[0] in sources.sentences[n] for n in sources.holding} == {True}
    game = sources.game("replaced", tokenizer)
    wanted = long_sources.leave_one_out(retriever, tokenizer, sources, game)
    calls = {
        name: call for name, _, call in long_sources.scores_of(
            long_inputs.TextGenerationExplainer(retriever, tokenizer, baseline="unk"), sources,
            None, 0,
        )
    }  # fmt: skip
    np.testing.assert_allclose(calls["ours, input"](), wanted, atol=1e-4)


def test_sentences_are_removed_or_replaced(tokenizer):
    sources = Sources(("We left early.", " Nobody asked why."), "?", "x")
    keeps = np.array([True, False])
    assert sources.game("removed", tokenizer)(keeps) == "We left early."
    replaced = sources.game("replaced", tokenizer)(keeps)
    assert replaced == "We left early." + "<unk>" * 4
    assert len(tokenizer(replaced)["input_ids"]) == len(tokenizer(sources.context)["input_ids"])


def test_agreement_counts_ranks_firsts_and_holders():
    agreement, exact = Agreement(), np.array([3.0, 1.0, -2.0])
    sources = Sources(("a", "b", "c"), "?", "x", frozenset({0, 2}))
    agreement.add(exact, exact, sources, 4)
    agreement.add(np.array([0.0, 1.0, 0.0]), exact, sources, 6)
    agreement.add(np.zeros(3), exact, sources, 8)  # a sparse model may see nothing
    assert agreement.rows == [4, 6, 8]
    assert agreement.ranks[0] == pytest.approx(1)
    assert agreement.ranks[2] == 0
    assert agreement.firsts == [True, False, True]
    assert agreement.holders == [True, False, False]


def test_many_tokens_are_explained_by_paragraphs(capsys, monkeypatch):
    monkeypatch.setattr(long_inputs, "PARAGRAPH", 10)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    long_inputs.main(["tokens", "--tokens", "40", "--levels", "paragraph"])
    assert "| 40 | paragraph | 9 | 0.2195 |" in capsys.readouterr().out


def test_planted_passages_are_counted_where_they_come_first(retriever, tokenizer, monkeypatch):
    monkeypatch.setattr(long_inputs, "PASSAGES", 6)
    one, two = long_inputs.find_passages(retriever, tokenizer, 2, seed=0, share=0.5, n_sweeps=1)
    assert [row["passages_with_the_fact"] for row in (one, two)] == [1, 2]
    assert (one["prompts"], one["first"], one["its_words"], one["full_sweeps"]) == (1, 1, 1, 1)
    assert (two["prompts"], two["first"], two["full_sweeps"], two["gap"]) == (1, 1, 0, None)
    assert one["gap"] < 1e-4


def test_the_curve_of_a_budget_that_covers_all_words_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(long_texts, "TOKENS", 40)
    monkeypatch.setattr(long_texts, "SHARES", (1.0,))
    data = tmp_path / "rotten-tomatoes"
    data.mkdir()
    rows = ["it is good .\t1", "it is bad .\t0", "i do not like it .\t0"]
    (data / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    explainer = TextClassificationExplainer.from_pretrained(PATH)
    rows = long_texts.report(explainer, tmp_path, tmp_path / "sweeps", 1, seed=0)
    assert [(row["texts"], row["budget"], row["of_the_strongest"]) for row in rows] == [
        (kind, 1, 1) for kind in ("reviews", "planted")
    ]
