"""The last layer at the positions that the head reads: same values, or all positions."""

import threading
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn

from captum_sig.attr.hooks import patched
from captum_sig.attr.read_positions import (
    LastLayer,
    ReadPositions,
    first_attended,
    last_layers,
    last_positions,
)
from captum_sig.explainers.models import word_embedding
from tests.tiny_models import ARCHITECTURES, CLS, PAD, SEP, VOCAB

READS = {
    **dict.fromkeys(
        ["bert", "distilbert", "roberta", "electra", "albert", "deberta-v2", "mpnet",
         "xlm-roberta", "modernbert"], "first",
    ),
    **dict.fromkeys(["gpt2", "llama", "qwen2", "gemma"], "last"),
}  # fmt: skip
LENGTHS = 12, 7, 10


class Rows:
    """Padded inputs of a model in float64, and rows in which a word has another embedding."""

    def __init__(self, model: nn.Module, lengths: tuple[int, ...] = LENGTHS, pads: str = "right"):
        self.model = model.eval().double()
        torch.manual_seed(1)
        self.ids = torch.randint(5, VOCAB, (len(lengths), max(lengths)))
        self.mask = torch.zeros_like(self.ids)
        for ids, mask, n in zip(self.ids, self.mask, lengths, strict=True):
            text = slice(n) if pads == "right" else slice(len(ids) - n, None)
            mask[text] = 1
            ids[text.start or 0], ids[mask.nonzero()[-1]] = CLS, SEP
        self.ids[self.mask == 0] = PAD
        self.layer = word_embedding(model)

    def outputs(self) -> Tensor:
        """The model's output for the inputs as they are."""
        output = self.model(self.ids, attention_mask=self.mask)
        return output if isinstance(output, Tensor) else output.logits

    def of_changed(self) -> Tensor:
        """The same where position 3 has another embedding."""
        embeddings: list[Tensor] = []
        handle = self.layer.register_forward_hook(lambda m, a, output: embeddings.append(output))
        self.outputs()
        handle.remove()
        rows = embeddings[0].detach().clone()
        rows[:, 3] = torch.randn(rows.shape[-1], generator=torch.Generator().manual_seed(2))
        with patched([self.layer], (rows,)):
            return self.outputs()

    @torch.no_grad()
    def found(self) -> ReadPositions:
        """What its outputs show."""
        found = ReadPositions()
        found.find(self.model, self.outputs, self.mask, self.outputs())
        return found


def n_hooks(model: nn.Module) -> int:
    """The hooks of all its modules."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def model_named(name: str) -> nn.Module:
    """One of the tiny models, with the same weights each time."""
    torch.manual_seed(0)
    return ARCHITECTURES[name]()


@pytest.mark.parametrize("name", READS)
@torch.no_grad()
def test_values_are_those_of_all_positions(name: str) -> None:
    """For inputs as they are, and for rows that no one has looked at before."""
    rows = Rows(model_named(name))
    found = rows.found()
    assert found.name == READS[name]
    before = n_hooks(rows.model)
    for evaluate in (rows.outputs, rows.of_changed):
        torch.testing.assert_close(
            found.evaluate(evaluate, rows.mask), evaluate(), rtol=0, atol=1e-10
        )
    assert found.why_not is None
    assert n_hooks(rows.model) == before


@torch.no_grad()
def test_last_position_of_texts_padded_at_the_left() -> None:
    """As decoders have them."""
    rows = Rows(model_named("llama"), pads="left")
    found = rows.found()
    assert found.name == "last"
    torch.testing.assert_close(
        found.evaluate(rows.of_changed, rows.mask), rows.of_changed(), rtol=0, atol=1e-10
    )


@torch.no_grad()
def test_feed_forward_sees_one_position() -> None:
    """In the last layer alone, also where layers share their weights."""
    for name, kind, n_layers in (("bert", "BertIntermediate", 2), ("albert", "AlbertLayer", 2)):
        rows = Rows(model_named(name))
        found, seen = rows.found(), []
        handles = [
            module.register_forward_pre_hook(
                lambda m, args, seen=seen: seen.append(args[0].shape[1])
            )
            for module in rows.model.modules()
            if type(module).__name__ == kind
        ]
        found.evaluate(rows.outputs, rows.mask)
        for handle in handles:
            handle.remove()
        assert seen == [12] * (n_layers - 1) + [1], name


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
@torch.no_grad()
def test_a_language_model_reads_the_positions_of_its_target(name: str) -> None:
    """Several positions, of rows without padding."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCAB, intermediate_size=48, bos_token_id=CLS, eos_token_id=SEP, **shape
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().double()
    ids = torch.randint(5, VOCAB, (3, 12))
    every = torch.ones_like(ids)

    def outputs() -> Tensor:
        return model(input_ids=ids, logits_to_keep=4, use_cache=False).logits

    whole = outputs()
    found = ReadPositions({"target": last_positions(4)})
    found.find(model, outputs, every, whole)
    assert found.name == "target"
    torch.testing.assert_close(found.evaluate(outputs, every), whole, rtol=0, atol=1e-10)
    fewer = ReadPositions({"target": last_positions(3)})
    fewer.find(model, outputs, every, whole)
    assert fewer.last is None


class Pooled(nn.Module):
    """A BERT whose head reads the first position, and the mean of all with some weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.bert, self.weight = model_named("bert").bert, weight
        self.head = nn.Linear(32, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.bert.get_input_embeddings()

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(ids, attention_mask=attention_mask).last_hidden_state
        return self.head(states[:, 0] + self.weight * states.mean(1))


class ByContent(Pooled):
    """Reads the first position unless the id at position 3 is large: then position 2."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(ids, attention_mask=attention_mask).last_hidden_state
        position = 2 * (ids[:, 3] == VOCAB - 1).long()
        return self.head(states[torch.arange(len(ids)), position])


def xlnet() -> nn.Module:
    """Positions stand before rows in it."""
    config = transformers.XLNetConfig(
        vocab_size=VOCAB, d_model=32, n_layer=2, n_head=4, d_inner=48, num_labels=2
    )
    return transformers.XLNetForSequenceClassification(config)


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mean": (lambda: Pooled(1.0), "reads other positions"),
    "a little of the mean": (lambda: Pooled(1e-30), "reads other positions"),
    "t5-encoder": (lambda: model_named("t5-encoder"), "reads other positions"),
    "lstm": (lambda: model_named("lstm"), "no last layer"),
    "xlnet": (xlnet, "XLNetLayer"),
}


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_other_models_are_computed_in_full(name: str) -> None:
    """And why is told; not even a weight that vanishes in the sum escapes."""
    build, why_not = OTHERS[name]
    rows = Rows(build())
    found = rows.found()
    assert found.last is None
    assert why_not in found.why_not
    assert why_not in repr(found)
    assert torch.equal(found.evaluate(rows.outputs, rows.mask), rows.outputs())
    assert n_hooks(rows.model) == 0


@torch.no_grad()
def test_a_row_whose_head_reads_elsewhere_is_computed_in_full() -> None:
    """Though no row before did, and then all others are."""
    rows = Rows(ByContent(0.0))
    found = rows.found()
    assert found.name == "first"
    rows.ids[1, 3] = VOCAB - 1
    assert torch.equal(found.evaluate(rows.outputs, rows.mask), rows.outputs())
    assert found.last is None
    assert "for some rows" in found.why_not


@torch.no_grad()
def test_what_is_not_finite_in_itself_changes_nothing() -> None:
    """A model's own infinity is not a sign of what its head reads."""
    rows = Rows(model_named("bert"))
    found = rows.found()
    rows.model.classifier.bias[0] = torch.inf
    assert found.evaluate(rows.outputs, rows.mask).isinf().any()
    assert found.name == "first"


def test_errors_leave_no_hooks() -> None:
    """An error of the model's is raised, as without hooks."""
    rows = Rows(model_named("bert"))
    found = rows.found()

    def fail() -> Tensor:
        rows.outputs()
        raise MemoryError("no more rows")

    with pytest.raises(MemoryError), torch.no_grad():
        found.evaluate(fail, rows.mask)
    assert n_hooks(rows.model) == 0
    assert found.evaluate(rows.outputs, rows.mask).requires_grad  # with a graph: all positions


@torch.no_grad()
def test_other_threads_run_the_whole_model() -> None:
    """While one thread's hooks are there."""
    rows = Rows(model_named("bert"))
    (last,), whole, seen = last_layers(rows.model, rows.outputs), rows.outputs(), []

    def run() -> None:
        with torch.no_grad():
            seen.append(rows.outputs())

    with last.cut_to(first_attended(rows.mask)):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert torch.equal(seen[0], whole)


def test_modules_around_the_attention() -> None:
    """They are what stands beside it at every level."""
    (last,) = last_layers(model := model_named("bert"), Rows(model.float()).outputs)
    layer = model.bert.encoder.layer[1]
    assert last == LastLayer(layer, layer.attention.self, 0)
    assert last.around == [layer.intermediate, layer.output, layer.attention.output]
