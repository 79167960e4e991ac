"""What a GPU computes is what the CPU does: `python -m pytest -m cuda`.

Most tests also run with the CPU as the device: where there is no GPU, as mostly, nothing else
would show that they still fit the package. Tiny random models; no data, nothing but torch,
transformers and captum.
"""

import gc
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from captum.attr import FeatureAblation, LLMGradientAttribution, NoiseTunnel, TextTokenInput
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from captum_sig import (
    LayerDiscretizedIntegratedGradients,
    LayerSequentialIntegratedGradients,
    SequentialIntegratedGradients,
    TextClassificationExplainer,
    TextGenerationExplainer,
    WordAttribution,
    contexts,
    faithfulness,
)
from captum_sig.attr.dig import STRATEGIES, DiscretizedPath
from captum_sig.baselines import BASELINES
from captum_sig.corpus import CorpusExplainer
from captum_sig.demo_model import PATH
from captum_sig.explainers.methods import METHODS
from captum_sig.words.inputs import TextInput
from tests.tiny_language_models import causal, encoder_decoder
from tests.tiny_models import (
    CLS,
    byte_level_tokenizer,
    mask_baseline,
    random_ids,
    tiny,
    wordpiece_tokenizer,
)

CPU = torch.device("cpu")
IDS = random_ids(3, 9)
WORDS = torch.tensor([[0, 1, 1, 2, 3, 3, 3, 4, 5]])
TEXTS = ["A charming film.", "Not bad.", "The jokes are old, yet the film is charming.", "Dull!"]
PROMPT, TARGET = "the good movie is goodmovie, so", " good movie a"
WHOLE, HALF = (torch.float64, torch.float32), (torch.bfloat16, torch.float16)

on_gpu = pytest.mark.cuda


@pytest.fixture(params=[pytest.param("cuda", marks=on_gpu), "cpu"])
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _float32_in_full(monkeypatch) -> None:
    """Without TF32, which keeps 10 bits; PyTorch lets cuDNN's RNNs use it by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def assert_as_on_cpu(found: Tensor, on_cpu: Tensor, dtype: torch.dtype) -> None:
    """To 1e-8 in float64, in float32 to 1e-4 of the largest."""
    assert on_cpu.abs().max() > 1e-3  # something to compare
    atol = 1e-8 if dtype == torch.float64 else 1e-4 * float(on_cpu.abs().max())
    torch.testing.assert_close(found.cpu(), on_cpu, rtol=0, atol=atol)


def precision(name: str, dtype: torch.dtype) -> torch.dtype:
    """In which a model computes: RMSNorm is float32 in any."""
    return torch.float32 if name in ("llama", "gemma3", "t5-encoder", "T5") else dtype


def check_each_device(
    compute: Callable[[torch.device], Tensor], device: torch.device, dtype
) -> None:
    """Compare what is computed on the device with the same on the CPU."""
    found = compute(device)
    assert found.device.type == device.type
    assert_as_on_cpu(found, compute(CPU), dtype)


def scores_of(results: list[WordAttribution]) -> Tensor:
    """All words' scores, one text after the other."""
    return torch.tensor([score for result in results for score in result.scores])


def layer_call(name: str, verb: str, device: torch.device, dtype, **options: object) -> Tensor:
    """A verb of the layer class on a tiny classifier."""
    of = tiny(name, dtype)
    of.model.to(device)
    sig = LayerSequentialIntegratedGradients(of.logits, of.embedding)
    ids = IDS.to(device)
    return getattr(sig, verb)(
        ids, **{"baselines": mask_baseline(ids), "target": [0, 1, 1], **options}
    )


HOW = {
    "n_steps": {"n_steps": 6},
    "chunks": {"n_steps": 6, "internal_batch_size": 4},
    "tolerance": {"tolerance": 1e-3},
    "tolerance, words": {"tolerance": 1e-3, "feature_mask": WORDS},
    "words": {"n_steps": 6, "feature_mask": WORDS},
    "two-sided": {"n_steps": 6, "contexts": contexts.two_sided},
    "zeros": {"n_steps": 6, "layer_baselines": 0, "baselines": None},
}


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_the_layer_class(device, dtype, how):
    check_each_device(lambda at: layer_call("bert", "attribute", at, dtype, **how), device, dtype)


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
@pytest.mark.parametrize("how", [HOW["n_steps"], HOW["tolerance"]], ids=["n_steps", "tolerance"])
def test_the_input_class(device, dtype, how):
    def compute(device: torch.device) -> Tensor:
        of = tiny("bert", dtype)
        of.model.to(device)
        sig = SequentialIntegratedGradients(lambda rows: of.model(inputs_embeds=rows).logits)
        x, b = (of.embedding(i.to(device)).detach() for i in (IDS, mask_baseline(IDS)))
        return sig.attribute(x, b, target=torch.tensor([0, 1, 1], device=device), **how)

    check_each_device(compute, device, dtype)


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "t5-encoder", "lstm"])
def test_exact_words(device, dtype, name):
    def compute(device: torch.device) -> Tensor:
        return layer_call(name, "attribute_words", device, dtype, feature_mask=WORDS)

    check_each_device(compute, device, precision(name, dtype))


def test_exact_words_in_sampled_contexts(device):
    def compute(device: torch.device) -> Tensor:
        drawn = contexts.sampled(3, torch.Generator().manual_seed(0))
        return layer_call("bert", "attribute_words", device, torch.float64, contexts=drawn)

    check_each_device(compute, device, torch.float64)


def test_exact_words_are_captums_feature_ablation(device):
    of = tiny("bert")
    of.model.to(device)
    ids = IDS.to(device)
    options = {"baselines": mask_baseline(ids), "target": 1, "feature_mask": WORDS.to(device)}
    sig = LayerSequentialIntegratedGradients(of.logits, of.embedding)
    found = sig.attribute_words(ids, **options)
    expected = FeatureAblation(of.logits).attribute(ids, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
@pytest.mark.parametrize("how", [HOW["n_steps"], HOW["tolerance"]], ids=["n_steps", "tolerance"])
def test_an_lstm_goes_backward(device, dtype, how):
    check_each_device(lambda at: layer_call("lstm", "attribute", at, dtype, **how), device, dtype)
    assert torch.backends.cudnn.enabled


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dig_and_sig_along_its_paths(device, strategy):
    options = {"strategy": strategy, "n_anchors": 6, "n_neighbors": 20}

    def dig(device: torch.device) -> Tensor:
        of = tiny("bert")
        of.model.to(device)
        ids = IDS.to(device)
        method = LayerDiscretizedIntegratedGradients(of.logits, of.embedding, **options)
        return method.attribute(ids, mask_baseline(ids), target=1)

    check_each_device(dig, device, torch.float64)

    def sequential(device: torch.device) -> Tensor:
        path = DiscretizedPath(**options)
        return layer_call("bert", "attribute", device, torch.float64, path=path)

    check_each_device(sequential, device, torch.float64)


def test_noise_tunnel_and_captums_metrics(device):
    of = tiny("bert")
    of.model.to(device)
    sig = SequentialIntegratedGradients(lambda rows: of.model(inputs_embeds=rows).logits)
    x, b = (of.embedding(i.to(device)).detach() for i in (IDS, mask_baseline(IDS)))
    options = {"baselines": b, "target": 1, "n_steps": 3}
    tunnel = partial(NoiseTunnel(sig).attribute, x, nt_samples=3, **options)
    plain = sig.attribute(x, **options)
    torch.testing.assert_close(tunnel(stdevs=0.0), plain, rtol=0, atol=1e-12)
    assert 0 < (tunnel(stdevs=0.01) - plain).norm() < 0.5 * plain.norm()
    sensitivity = sensitivity_max(sig.attribute, x, perturb_radius=0.01, **options)
    assert 0 < sensitivity.max() < 1

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.01 * torch.randn_like(inputs)
        return noise, inputs - noise

    assert infidelity(sig.forward_func, perturb, x, plain, target=1).isfinite().all()


def test_llm_gradient_attribution(device):
    def compute(device: torch.device) -> Tensor:
        model, tokenizer = causal("llama").to(device), byte_level_tokenizer()
        sig = LayerSequentialIntegratedGradients(model, model.get_input_embeddings())
        inputs = TextTokenInput(PROMPT, tokenizer)
        llm = LLMGradientAttribution(sig, tokenizer)
        return llm.attribute(inputs, target=TARGET, n_steps=6).token_attr

    found, on_cpu = compute(device), compute(CPU)
    assert_as_on_cpu(found, on_cpu, torch.float32)  # Llama's norms compute in it


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("dtype", WHOLE, ids=str)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_generation(device, dtype, name, use_cache):
    def compute(device: torch.device):
        explain = TextGenerationExplainer(
            causal(name, dtype).to(device), byte_level_tokenizer(), baseline="eos"
        )
        return explain(PROMPT, TARGET, attribute_target=True, use_cache=use_cache)

    found, on_cpu = compute(device), compute(CPU)
    assert (found.without_cache is None) == use_cache
    assert_as_on_cpu(found.matrix, on_cpu.matrix, precision(name, dtype))
    assert found.max_abs_word_delta < 1e-3


def test_generated_targets_and_attributions(device):
    def compute(device: torch.device):
        explain = TextGenerationExplainer(
            causal("gpt2").to(device), byte_level_tokenizer(), baseline="eos"
        )
        free = explain(PROMPT, generation_kwargs={"max_new_tokens": 3})
        integral = explain(PROMPT, free.target, attributions=True, n_steps=5)
        bounded = explain(PROMPT, free.target, attributions=True, tolerance=1e-2)
        return free, integral.attributions, bounded.attributions

    (free, *found), (on_cpu, *expected) = compute(device), compute(CPU)
    assert [t.id for t in free.target_tokens] == [t.id for t in on_cpu.target_tokens]
    assert_as_on_cpu(free.matrix, on_cpu.matrix, torch.float64)
    for some, others in zip(found, expected, strict=True):
        assert_as_on_cpu(some, others, torch.float64)


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_encoder_and_decoder(device, name):
    def compute(device: torch.device) -> Tensor:
        model = encoder_decoder(name).to(device)
        explain = TextGenerationExplainer(model, wordpiece_tokenizer())
        return explain("the movie is goody, bad", "gorgeous mess", attribute_target=True).matrix

    assert_as_on_cpu(compute(device), compute(CPU), precision(name, torch.float64))


@pytest.mark.filterwarnings("ignore:sequential_dig is far from the exact scores")
@pytest.mark.parametrize("method", METHODS)
def test_classification_by_every_method(device, method):
    explain = TextClassificationExplainer.from_pretrained(PATH)
    on_cpu = explain(TEXTS, method=method, n_steps=6)
    explain.model.to(device)
    found = explain(TEXTS, method=method, n_steps=6)
    assert [result.label for result in found] == [result.label for result in on_cpu]
    if method == "gradient_shap":  # draws its noise on the device
        assert scores_of(found).shape == scores_of(on_cpu).shape
        assert scores_of(found).isfinite().all()
    else:
        assert_as_on_cpu(*map(scores_of, (found, on_cpu)), torch.float32)


@pytest.mark.parametrize("baseline", [name for name in BASELINES if name not in ("eos", "blurred")])
def test_classification_from_every_baseline(device, baseline):
    explain = TextClassificationExplainer.from_pretrained(PATH, baseline=baseline)
    on_cpu = explain(TEXTS, contexts="sampled2")
    explain.model.to(device)
    explain = TextClassificationExplainer(explain.model, explain.tokenizer, baseline=baseline)
    found = explain(TEXTS, contexts="sampled2")
    assert_as_on_cpu(*map(scores_of, (found, on_cpu)), torch.float32)


@pytest.mark.parametrize("method", ["sig", "sig:two_sided", "ig"])
def test_texts_in_windows(device, method):
    of_demo = TextClassificationExplainer.from_pretrained(PATH)
    of_demo.tokenizer.model_max_length = 16
    explain = TextClassificationExplainer(of_demo.model, of_demo.tokenizer, stride=4)
    texts = [" ".join(TEXTS), TEXTS[2], " ".join(TEXTS * 2)]
    on_cpu = explain(texts, method=method, n_steps=6)
    explain.model.to(device)
    found = explain(texts, method=method, n_steps=6)
    assert_as_on_cpu(*map(scores_of, (found, on_cpu)), torch.float32)


def test_traces_and_faithfulness(device):
    def compute(device: torch.device):
        explain = TextClassificationExplainer.from_pretrained(PATH, device=device)
        results = explain(TEXTS)
        targets = [explain.label_index(result.label) for result in results]
        sentences = explain.sentences(TEXTS, targets)
        scores = [result.scores for result in results]
        metric = partial(faithfulness.log_odds, explain.log_probabilities, sentences, scores)
        return explain.trace(TEXTS[0], n_steps=10).trace, torch.as_tensor(metric(k=0.5))

    (trace, log_odds), (trace_on_cpu, log_odds_on_cpu) = compute(device), compute(CPU)
    assert_as_on_cpu(trace.outputs, trace_on_cpu.outputs, torch.float32)
    assert_as_on_cpu(log_odds, log_odds_on_cpu, torch.float32)


@on_gpu
def test_a_corpus_goes_to_the_gpu_by_itself():
    explain = CorpusExplainer(PATH)
    assert explain.explainer.model.device.type == "cuda"
    columns = {"text": [*TEXTS, None]}
    found, on_cpu = explain(columns), CorpusExplainer(PATH, device="cpu")(columns)
    assert found["words"] == on_cpu["words"]
    assert found["error"] == on_cpu["error"]
    for scores, expected in zip(found["scores"][:-1], on_cpu["scores"][:-1], strict=True):
        assert_as_on_cpu(torch.tensor(scores), torch.tensor(expected), torch.float32)


def test_exact_words_go_in_large_batches_to_a_gpu(device):
    explain = TextClassificationExplainer.from_pretrained(PATH, device=device)

    def sizes(text: str, batch_size: int | None, method: str) -> list[int]:
        batches = explain._batches([TextInput(text)] * 600, batch_size, True, method)
        return [len(batch.texts) for batch in batches]

    by_32 = [32] * 18 + [24]
    is_cpu = device.type == "cpu"
    assert sizes("bad", None, "sig") == (by_32 if is_cpu else [512, 88])
    assert sizes("bad " * 100, None, "sig") == (by_32 if is_cpu else [160, 160, 160, 120])
    assert sizes("bad", None, "ig") == by_32
    assert sizes("bad " * 100, 300, "sig") == [300, 300]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_models_in_half_precision(device, dtype):
    """Logits are rounded to the dtype: so many units of it a word may be off."""
    wide = tiny("bert", dtype).model.float()  # the same rounded weights
    found = layer_call("bert", "attribute_words", device, dtype)
    assert found.dtype == torch.float32
    embedding = wide.get_input_embeddings()
    sig = LayerSequentialIntegratedGradients(lambda ids: wide(ids).logits, embedding)
    expected = sig.attribute_words(IDS, mask_baseline(IDS), target=[0, 1, 1])
    with torch.no_grad():
        allowed = 16 * torch.finfo(dtype).eps * float(wide(IDS).logits.abs().max())
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=allowed)
    integral = layer_call("bert", "attribute", device, dtype, n_steps=8)
    assert integral.dtype == torch.float32
    assert integral.isfinite().all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_generation_in_half_precision(device, dtype):
    def compute(model: nn.Module):
        explain = TextGenerationExplainer(model, byte_level_tokenizer(), baseline="eos")
        return explain(PROMPT, TARGET)

    found = compute(causal("llama", dtype).to(device))
    expected = compute(causal("llama", dtype).float())
    assert found.without_cache is None
    allowed = 16 * torch.finfo(dtype).eps * float(expected.log_probabilities.abs().max())
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=0, atol=allowed)


def test_a_model_spread_over_devices(device):
    accelerate = pytest.importorskip("accelerate")
    there = {"model.embed_tokens": "cpu", "model.layers.0": device, "model.layers.1": "cpu",
             "model.norm": device, "model.rotary_emb": device, "lm_head": device}  # fmt: skip
    model = accelerate.dispatch_model(causal("llama"), there, main_device=device)
    found, expected = (
        TextGenerationExplainer(of, byte_level_tokenizer(), baseline="eos")(PROMPT, TARGET).matrix
        for of in (model, causal("llama"))
    )
    assert_as_on_cpu(found, expected, torch.float32)


@on_gpu
@pytest.mark.parametrize("there", ["model", "inputs"])
def test_inputs_elsewhere_are_an_error_that_names_devices(there):
    of = tiny("bert")
    of.model.to("cuda" if there == "model" else "cpu")
    ids = IDS.to("cuda" if there == "inputs" else "cpu")
    sig = LayerSequentialIntegratedGradients(of.logits, of.embedding)
    for verb in (sig.attribute, sig.attribute_words):
        with pytest.raises(RuntimeError, match="same device"):
            verb(ids, mask_baseline(ids), target=1)
    assert not of.embedding._forward_hooks


def test_a_forward_function_may_move_its_inputs(device):
    of = tiny("bert")
    of.model.to(device)
    sig = LayerSequentialIntegratedGradients(lambda ids: of.logits(ids.to(device)), of.embedding)
    expected = layer_call("bert", "attribute_words", CPU, torch.float64, feature_mask=WORDS)
    options = {"target": torch.tensor([0, 1, 1]), "feature_mask": WORDS}
    found = sig.attribute_words(IDS, mask_baseline(IDS), **options)
    assert_as_on_cpu(found, expected, torch.float64)


@pytest.fixture
def two_gib() -> Iterator[None]:
    """So much memory and no more."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def hungry(mebibytes: int) -> SequentialIntegratedGradients:
    """Σ of the inputs, by so much memory a row."""

    def forward(rows: Tensor) -> Tensor:
        taken = torch.empty(len(rows), mebibytes * 2**18, device=rows.device)
        return rows.sum((1, 2)) + taken[:, :1].zero_().sum(1)

    return SequentialIntegratedGradients(forward)


@on_gpu
@pytest.mark.usefixtures("two_gib")
def test_out_of_memory_halves_the_chunks():
    x = torch.randn(2, 32, 3, device="cuda")
    found = hungry(100).attribute_words(x, internal_batch_size=64)
    torch.testing.assert_close(found, x.sum(-1), rtol=0, atol=1e-4)
    found = hungry(100).attribute(x, n_steps=3, internal_batch_size=64)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-4)


@on_gpu
@pytest.mark.usefixtures("two_gib")
def test_one_row_that_does_not_fit_is_an_error():
    x = torch.randn(1, 3, 2, device="cuda")
    with pytest.raises(torch.cuda.OutOfMemoryError):
        hungry(3000).attribute_words(x)


@on_gpu
def test_memory_is_given_back():
    of = tiny("bert")
    of.model.to("cuda")
    ids = IDS.to("cuda")
    sig = LayerSequentialIntegratedGradients(of.logits, of.embedding)
    explain = TextGenerationExplainer(causal("gpt2").cuda(), byte_level_tokenizer(), baseline="eos")

    def call() -> None:
        sig.attribute(ids, mask_baseline(ids), target=1, n_steps=3)
        sig.attribute_words(ids, mask_baseline(ids), target=1)
        explain(PROMPT, TARGET)

    def held() -> int:
        gc.collect()
        return torch.cuda.memory_allocated()

    call()  # cuBLAS keeps a workspace from the first on
    before = held()
    for _ in range(200):
        call()
    assert held() == before


@on_gpu
@pytest.mark.parametrize("how", [{"n_steps": 4}, {"tolerance": 1e-2}], ids=str)
def test_the_callers_stream_is_the_one_that_is_used(how):
    """The inputs arrive late on that stream: work on another would read them too early."""
    of = tiny("bert")
    of.model.to("cuda")
    sig = SequentialIntegratedGradients(lambda rows: of.model(inputs_embeds=rows).logits)
    ends = [of.embedding(ids.cuda()).detach() for ids in (IDS, mask_baseline(IDS))]
    expected = sig.attribute(*ends, target=1, **how)
    late = [torch.full_like(end, 0.5) for end in ends]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(2 * 10**8)  # cycles, about a tenth of a second
        for tensor, end in zip(late, ends, strict=True):
            tensor.copy_(end)
        found = sig.attribute(*late, target=1, **how)
    stream.synchronize()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@on_gpu
@pytest.mark.parametrize("verb", ["attribute", "attribute_words"])
@pytest.mark.parametrize("there", ["cpu", "cuda"])
def test_data_parallel_on_one_device(verb, there):
    of = tiny("bert")

    class Logits(nn.Module):
        """Tensors in, a tensor out, as `DataParallel` gathers them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = of.model

        def forward(self, ids: Tensor) -> Tensor:
            return self.model(ids).logits

    parallel = nn.DataParallel(Logits().cuda(), device_ids=[0])
    ids = IDS.to(there)
    sig = LayerSequentialIntegratedGradients(parallel, of.embedding)
    found = getattr(sig, verb)(ids, mask_baseline(ids), target=[0, 1, 1])
    assert_as_on_cpu(found, layer_call("bert", verb, CPU, torch.float64), torch.float64)


@on_gpu
def test_special_tokens_cost_nothing_and_are_zero():
    found = layer_call("bert", "attribute", torch.device("cuda"), torch.float64, n_steps=3)
    assert found[:, 0].eq(0).all()
    assert IDS[0, 0] == CLS
