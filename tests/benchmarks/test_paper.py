"""The paper's protocol is what its code does, and each switch changes what it says."""

import dataclasses

import pytest
import torch
import transformers
from torch import Tensor

from captum_sig.data.records import Record
from captum_sig.faithfulness.examples import Example, prepare_examples
from captum_sig.quadrature import gauss_legendre
from tests import tiny_models
from tests.benchmarks import paper, paper_models, paper_protocols
from tests.benchmarks.paper_protocols import (
    PAPER_MASK,
    PAPER_PAD,
    SWITCHES,
    Attribution,
    Case,
)

TEXTS = ["the movie is not good, a gorgeous mess", "bad", "a gorgeous movie, not bad!"]
ARCHITECTURES = ("bert", "distilbert", "roberta")
SPECIAL = (tiny_models.CLS, tiny_models.SEP)
TOKENS = {"pad": tiny_models.PAD, "mask": tiny_models.MASK}


class SlowPaper:
    """The protocol as the paper's code runs it: one text, one point at a time."""

    def __init__(self, model: transformers.PreTrainedModel, ids: Tensor, token: int) -> None:
        self.model, self.embeddings = model, model.base_model.embeddings
        words = self.embeddings.word_embeddings
        self.x = words(ids)[0].detach()  # (L, D)
        self.token = words.weight[token].detach()
        special = torch.tensor([int(i) in SPECIAL for i in ids[0]])
        self.b = torch.where(special[:, None], self.x, self.token)
        self.predicted = int(self.logits(self.x).argmax())

    def logits(self, rows: Tensor) -> Tensor:  # (L, D) → (C,)
        """Positions, types and normalisation by hand, and once more in the model."""
        embedded = rows + self.embeddings.position_embeddings.weight[: len(rows)]
        if hasattr(self.embeddings, "token_type_embeddings"):
            embedded = embedded + self.embeddings.token_type_embeddings.weight[0]
        embedded = self.embeddings.LayerNorm(embedded)[None]
        mask = torch.ones(embedded.shape[:2], dtype=torch.long)
        return self.model(inputs_embeds=embedded, attention_mask=mask).logits[0]

    def integrated(self, start: Tensor, n_steps: int) -> Tensor:  # (L, D) → (L,)
        """The integral of the largest logit's gradient from a point to the text."""
        rule = gauss_legendre(n_steps)
        total = torch.zeros_like(self.x)
        for node, weight in zip(rule.nodes.tolist(), rule.weights.tolist(), strict=True):
            point = (start + node * (self.x - start)).requires_grad_()
            total += weight * torch.autograd.grad(self.logits(point).max(), point)[0]
        return (total * (self.x - start)).sum(-1)

    def ig(self) -> Tensor:
        """All tokens at once."""
        return self.integrated(self.b, 50)

    def without(self, token: int) -> Tensor:  # (L, D)
        """The text with one token at the baseline."""
        rows = self.x.clone()
        rows[token] = self.b[token]
        return rows

    def sig(self, n_steps: int) -> Tensor:
        """One token after another."""
        every = range(len(self.x))
        return torch.stack([self.integrated(self.without(i), n_steps)[i] for i in every])

    @torch.no_grad()
    def differences(self) -> Tensor:
        """What the integrals of SIG come to: the largest logit with and without a token."""
        without = [self.logits(self.without(i)).max() for i in range(len(self.x))]
        return self.logits(self.x).max() - torch.stack(without)

    @torch.no_grad()
    def metrics(self, scores: Tensor) -> tuple[float, float, float]:
        """Log-odds, comprehensiveness and sufficiency of the top 20 %, rounded down."""
        order = scores.argsort(descending=True, stable=True)  # of [CLS] and [SEP], [CLS] first
        top = order[: int(0.2 * len(scores))]
        if len(top) == 0:
            return 0.0, 0.0, 0.0
        before, replaced = self.logits(self.x), self.x.clone()
        replaced[top] = self.token
        kept = torch.zeros(len(scores), dtype=torch.bool)
        kept[top] = True
        p, without, alone = (
            self.logits(rows).softmax(-1)[self.predicted]
            for rows in (self.x, self.x[~kept], self.x[kept])
        )
        after = self.logits(replaced).log_softmax(-1) - before.log_softmax(-1)
        return float(after[self.predicted]), float(p - without), float(p - alone)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.wordpiece_tokenizer()


def examples_of(model, tokenizer, explained: Attribution = PAPER_PAD.explained) -> list[Example]:
    plain = dataclasses.replace(explained, output="class_logit")
    explainer = paper_protocols.explainer_of(plain, model, tokenizer)
    records = [Record(text, None) for text in TEXTS]
    return sorted(prepare_examples(explainer, records, "predicted"), key=lambda one: one.number)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("protocol", [PAPER_PAD, PAPER_MASK], ids=["pad", "mask"])
def test_the_protocol_is_a_slow_loop(name, protocol, tokenizer):
    model = tiny_models.tiny(name).model
    examples = examples_of(model, tokenizer)
    explainer = paper_protocols.explainer_of(protocol.explained, model, tokenizer)
    plain = paper_protocols.explainer_of(
        dataclasses.replace(protocol.explained, output="class_logit"), model, tokenizer
    )
    scores = {
        method: paper_protocols.scores_of(explainer, protocol.explained, examples, method)
        for method in ("ig", "sig")
    }
    for number, example in enumerate(examples):
        slow = SlowPaper(model, example.sentence.ids[None], TOKENS[protocol.deletion])
        assert example.sentence.target == slow.predicted
        words = example.sentence.units >= 0
        for method, of_tokens in {"ig": slow.ig(), "sig": slow.differences()}.items():
            ours = torch.tensor(scores[method][number], dtype=torch.float64)
            torch.testing.assert_close(ours, of_tokens[words], rtol=0, atol=1e-6)
            assert (of_tokens[~words] == 0).all()
            every = torch.zeros(len(words), dtype=torch.float64).index_put((words,), ours)
            case = Case(protocol, example, ours.tolist())
            values = [
                paper_protocols.measured(metric, plain.log_probabilities, [case], TOKENS)[0]
                for metric in paper_protocols.METRIC_NAMES
            ]
            assert values == pytest.approx(slow.metrics(every), abs=1e-5)


def test_exact_scores_of_the_largest_logit_are_its_integral(tokenizer):
    model = tiny_models.tiny("bert").model
    ids = tokenizer("bad movie", return_tensors="pt")["input_ids"]
    slow = SlowPaper(model, ids, tiny_models.PAD)
    torch.testing.assert_close(slow.sig(50), slow.differences(), rtol=0, atol=0.01)  # kinks


def test_cases_together_are_cases_alone(tokenizer):
    model = tiny_models.tiny("bert").model
    examples = examples_of(model, tokenizer)
    plain = paper_protocols.explainer_of(
        Attribution("mask", "class_logit", "twice"), model, tokenizer
    )
    draws = torch.Generator().manual_seed(0)
    cases = [
        Case(protocol, one, torch.rand(one.sentence.n_units, generator=draws).tolist())
        for protocol in SWITCHES.values()
        for one in examples
    ]
    for metric in paper_protocols.METRIC_NAMES:
        together = paper_protocols.measured(metric, plain.log_probabilities, cases, TOKENS)
        alone = [
            paper_protocols.measured(metric, plain.log_probabilities, [case], TOKENS)[0]
            for case in cases[::7]
        ]
        assert together[::7] == pytest.approx(alone, abs=1e-6)


def test_a_switch_changes_what_it_says():
    def fields(protocol):
        flat = dataclasses.asdict(protocol)
        return flat.pop("explained") | flat

    for name, protocol in SWITCHES.items():
        switched = name.partition("; ")[2]
        base = paper_protocols.base_of(name)
        own, of_base = fields(protocol), fields(SWITCHES[base])
        changed = {key for key in own if own[key] != of_base[key]}
        n_switches = 2 if " and " in switched else bool(switched)
        assert len(changed) == n_switches, name
    assert len(set(SWITCHES.values())) == len(SWITCHES)
    bases = {paper_protocols.base_of(name) for name in SWITCHES}
    starts = {PAPER_PAD, PAPER_MASK, paper_protocols.OURS, paper_protocols.OURS_PAD}
    assert {SWITCHES[name] for name in bases} == starts


def test_largest_and_class_differ_in_the_output_alone():
    for of_class, of_largest in paper.LARGEST:
        changed = SWITCHES[of_class].explaining(output="max_logit")
        assert changed == SWITCHES[of_largest] != SWITCHES[of_class]


def test_outputs_are_of_the_class_or_the_largest():
    logits = torch.tensor([[1.0, 3.0], [2.0, -1.0]])
    values = {name: output.values(logits) for name, output in paper_protocols.OUTPUTS.items()}
    assert torch.equal(values["class_logit"], logits)
    assert torch.equal(values["max_logit"], torch.tensor([[3.0], [2.0]]))
    assert torch.equal(values["class_probability"], logits.softmax(-1))
    assert torch.equal(values["max_probability"][:, 0], logits.softmax(-1).max(-1).values)
    columns = {name: output.column(1) for name, output in paper_protocols.OUTPUTS.items()}
    assert columns == {
        "class_logit": 1, "class_probability": 1, "max_logit": 0, "max_probability": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rounding", "sizes"),
    [("down", [0, 0, 1, 1, 2]), ("at least one", [1, 1, 1, 1, 2]), ("up", [1, 1, 1, 2, 2])],
)
def test_sizes_are_rounded(rounding, sizes):
    assert [paper_protocols.ROUNDING[rounding](n) for n in (1, 4, 5, 9, 10)] == sizes


def test_special_tokens_count_with_a_score_of_zero(tokenizer):
    (example, *_) = examples_of(tiny_models.tiny("bert").model, tokenizer)
    scores = [-1.0] * example.sentence.n_units
    sentence, of_all = paper_protocols.COUNTED["all tokens"](example.sentence, scores)
    assert sentence.n_units == len(example.sentence.ids)
    assert [i for i, score in enumerate(of_all) if score == 0] == [0, len(of_all) - 1]
    assert paper_protocols.COUNTED["words"](example.sentence, scores)[0] is example.sentence


def test_embedded_once_is_the_model(tokenizer):
    ids = tiny_models.random_ids(2, 7)
    for name in ARCHITECTURES:
        tiny = tiny_models.tiny(name)
        once, twice = (
            paper_protocols.EMBEDDED[way](tiny.model)(ids, torch.ones_like(ids))
            for way in ("once", "twice")
        )
        torch.testing.assert_close(once, tiny.logits(ids))
        assert (once - twice).abs().max() > 1e-3


def test_distilbert_begins_with_the_layers_of_bert():
    bert = tiny_models.tiny("bert").model
    del bert.bert.encoder.layer[1:]
    model = paper_models.distilbert(bert).eval().double()
    ids = tiny_models.random_ids(2, 9)
    torch.testing.assert_close(
        model.distilbert(ids).last_hidden_state, bert.bert(ids).last_hidden_state,
        rtol=0, atol=1e-6,
    )  # fmt: skip


def test_sentences_with_a_known_phrase_are_left_out():
    sentences = ["A thoroughly charming film!", "charming", "It isn't a thoroughly bad film."]
    assert paper_models.unseen(sentences, ["thoroughly charming", "charming"]) == [1, 2]
    assert paper_models.unseen(sentences, ["is n't a thoroughly bad"]) == [0, 1]


def test_a_run_resumes_and_its_tables_count_cells(tmp_path, capsys):
    lines = "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(TEXTS))
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n" + lines, encoding="utf-8")
    folder = tmp_path / "results"
    switches = ["paper, pad", "paper, pad; the predicted class"]
    arguments = ["--folder", str(folder), "--sst2", str(tmp_path), "--methods", "ig", "sig"]
    paper.main([*arguments, "--switches", *switches, "--texts", "2"])
    first = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.jsonl")}
    assert len(first) == 8
    paper.main([*arguments, "--switches", *switches, "--texts", "3"])
    for path, text in first.items():
        assert path.read_text(encoding="utf-8").startswith(text)
    assert "3 texts" in capsys.readouterr().out
    records = paper.shuffled(paper.sst2_records(tmp_path), 3, 0)
    subject = paper.load("demo", "sst2", records, folder)
    cells = list(paper.cell_rows([subject]))
    assert {row["n"] for row in cells} == {3}
    assert len(cells) == len(switches) * 3
    summary = {row["switch"]: row for row in paper.summary_rows([subject], cells)}
    for switch, row in summary.items():
        own = [cell for cell in cells if cell["switch"] == switch]
        assert (row["cells"], row["ahead"]) == (3, sum(cell["ahead"] for cell in own))
        assert row["log_odds"] == pytest.approx(own[0]["mean"])
    first, second = (summary[switch] for switch in switches)
    assert first["change"] is None
    assert second["change"] == pytest.approx(second["log_odds"] - first["log_odds"])
    turns = {row["method"]: row for row in paper.turn_rows([subject])}
    assert set(turns) == {"ig", "sig"}
    for method, row in turns.items():
        largest, of_class = (subject.values(name, method).by_number for name in switches)
        lost = [largest[i]["log_odds"] - of_class[i]["log_odds"] for i in range(3)]
        assert row["lost"] == pytest.approx(sum(lost) / 3)
        assert 0 <= row["turned"] <= row["n"] == 3
    assert [row["n"] for row in paper.model_rows([subject])] == [3]
    (row,) = paper.quadrature_rows([subject], 1)
    assert row["n"] == row["same_top"] == 1
    assert row["largest_error"] < 0.05  # "bad" alone is a smooth path
