"""Attention to a shared prefix, against attention to keys that stand before every row's own."""

import threading

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from captum_sig.explainers import prefix_attention
from captum_sig.explainers.prefix_attention import PrefixAttentionLayer, layers_that_attend
from captum_sig.explainers.prefix_cache import NoPrefixError, layers_that_copy
from captum_sig.explainers.teacher_forcing import force_decoder
from tests.explainers.test_generation import PROMPT, TARGET, explainer
from tests.plain_loop import assert_equal, plain_loop
from tests.tiny_language_models import VOCAB, WITH_CACHE, causal, tolerance

N_ROWS, N_HEADS, PREFIX, OWN, WIDTH = 3, 4, 5, 6, 8
# OPT, CTRL and Gemma 2 changed their masks and their attention during transformers 5.
OF_OLD = {"opt", "ctrl", "gemma2"}


@pytest.fixture(params=["fused", "products"])
def kernel(request, monkeypatch) -> str:
    if request.param == "products":
        monkeypatch.setattr(prefix_attention, "_fused_kernel", lambda *_: None)
    return request.param


def states(
    n_groups: int, dtype: torch.dtype = torch.float64, own: int = OWN
) -> tuple[torch.Tensor, ...]:
    """Queries, own keys and values, and the prefix's."""
    n_keys = N_HEADS // n_groups
    generator = torch.Generator().manual_seed(n_groups)
    shapes = [(N_ROWS, N_HEADS, own), *[(N_ROWS, n_keys, own)] * 2, *[(1, n_keys, PREFIX)] * 2]
    return tuple(
        (3 * torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64)).to(dtype)
        for shape in shapes
    )


def with_copies(query, key, value, *prefix, scale=None):
    """The same with a copy of the prefix for every row, and a mask."""
    keys, values = (
        torch.cat([of.expand(N_ROWS, -1, -1, -1), own], 2).repeat_interleave(
            N_HEADS // own.shape[1], 1
        )
        for of, own in zip(prefix, (key, value), strict=True)
    )
    seen = torch.ones(query.shape[2], keys.shape[2], dtype=torch.bool).tril(PREFIX)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=scale)


@pytest.mark.parametrize("n_groups", [1, 2, 4])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_two_parts_are_merged_to_the_whole(kernel, n_groups, scale):
    query, key, value, *prefix = states(n_groups)
    layer = PrefixAttentionLayer(*prefix)
    own_key, own_value = layer.update(key, value)
    assert own_key.shape == key.shape
    with pytest.raises(NoPrefixError, match="another function"):
        layer.require_attended()
    found = F.scaled_dot_product_attention(
        query, key=own_key, value=own_value, is_causal=True, scale=scale, enable_gqa=n_groups > 1
    )
    layer.require_attended()
    assert type(found) is torch.Tensor
    expected = with_copies(query, key, value, *prefix, scale=scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("own", [1, 2, OWN])
@pytest.mark.parametrize("n_read", [1, 2, OWN, None])
def test_attention_may_be_computed_where_it_is_read(kernel, own, n_read):
    query, key, value, *prefix = states(2, own=own)
    layer = PrefixAttentionLayer(*prefix, n_read)
    found = layer.attend(query, key, value, is_causal=own > 1)
    expected = with_copies(query, key, value, *prefix)
    read = slice(-(n_read or own), None)
    torch.testing.assert_close(found[:, :, read], expected[:, :, read], rtol=0, atol=1e-12)
    assert found[:, :, : -(n_read or own)].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_lose_what_they_lose_anyhow(kernel, dtype):
    narrow = states(2, dtype)
    exact = with_copies(*(of.double() for of in narrow))
    query, key, value, *prefix = narrow
    found = PrefixAttentionLayer(*prefix).attend(query, key, value, is_causal=True)
    assert found.dtype == dtype
    assert float((found - exact).abs().max()) < 8 * torch.finfo(dtype).eps * exact.abs().max()


def test_keys_may_be_repeated_for_a_group_before_they_are_attended_to():
    query, key, value, *prefix = states(2)
    own_key, own_value = PrefixAttentionLayer(*prefix).update(key, value)
    n_keys = key.shape[1]
    repeated = own_key[:, :, None, :, :].expand(N_ROWS, n_keys, 2, OWN, WIDTH)
    repeated = repeated.reshape(N_ROWS, N_HEADS, OWN, WIDTH)
    found = F.scaled_dot_product_attention(
        query, repeated, own_value.repeat_interleave(2, 1), is_causal=True
    )
    expected = with_copies(query, key, value, *prefix)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True, "dropout_p": 0.1}, {"attn_mask": torch.ones(OWN, OWN).tril() == 1}],
)
def test_other_attention_is_refused(options):
    query, key, value, *prefix = states(1)
    own_key, own_value = PrefixAttentionLayer(*prefix).update(key, value)
    with pytest.raises(NoPrefixError, match="masked or random"):
        F.scaled_dot_product_attention(query, own_key, own_value, **options)
    query, own_key = query.float(), own_key.float()
    assert type(own_key) is torch.Tensor  # the prefix is of another dtype


class LargestStates(TorchDispatchMode):
    """The most elements of any (R, H, positions, D) that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor)
                 and t.dim() == 4 and t.untyped_storage().nbytes() >= t.nbytes]  # fmt: skip
        self.elements = max([self.elements, *sizes])
        return result


@torch.no_grad()
def largest_states(name: str) -> int:
    """In a pass over eight rows that share 100 positions, and differ in the last four."""
    model = causal(name, torch.float32)
    ids = torch.arange(104)[None] % VOCAB
    forced = force_decoder(
        model, model.get_input_embeddings(), ids, torch.tensor([1, 2]), use_cache=True
    )
    assert forced.without_cache is None
    (x,) = forced.points
    rows = x.repeat(8, 1, 1)
    rows[:, 100] += torch.arange(8.0)[:, None]
    with LargestStates() as largest:
        values = forced.log_probabilities((rows,), torch.zeros(8, dtype=torch.long))
    plain = force_decoder(
        model, model.get_input_embeddings(), ids, torch.tensor([1, 2]), use_cache=False
    )
    expected = plain.log_probabilities((rows,), torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)
    return largest.elements


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "phi", "gpt-neox"])
def test_no_row_has_a_copy_of_the_prefix(name):
    assert largest_states(name) < 8 * 4 * 8 * 100 / 2  # rows, heads, features, prefix


def test_models_with_attention_of_their_own_have_copies():
    assert largest_states("bloom") > 8 * 4 * 8 * 100


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """How layers of caches are made, in the order in which that is tried."""
    found: list[str] = []

    def noted(make):
        def make_layers(prefix, *args, **kwargs):
            found.append(" ".join([make.__name__, *map(str, kwargs)]))
            return make(prefix, *args, **kwargs)

        return make_layers

    monkeypatch.setattr(prefix_attention, "layers_that_attend", noted(layers_that_attend))
    monkeypatch.setattr(
        "captum_sig.explainers.prefix_cache.layers_that_copy", noted(layers_that_copy)
    )
    return found


@pytest.mark.parametrize("name", WITH_CACHE)
def test_families_attend_to_the_prefix_or_fall_back_to_copies(made, name):
    explain = explainer(causal(name), level="token")
    result = explain(PROMPT, TARGET, internal_batch_size=5)
    assert result.without_cache is None
    if name not in OF_OLD:
        assert made[-1] == ("layers_that_copy" if name == "bloom" else "layers_that_attend n_read")
    off = explain(PROMPT, TARGET, internal_batch_size=5, use_cache=False)
    assert_equal(result.matrix, off.matrix, tolerance(name))


def test_eager_attention_falls_back_to_copies(made):
    model = causal("llama")
    model.set_attn_implementation("eager")
    result = explainer(model)(PROMPT, TARGET)
    assert result.without_cache is None
    assert made[-1] == "layers_that_copy"


def test_a_head_that_reads_other_positions_is_noticed(made):
    model = causal("gpt2")

    def with_the_position_before(module, args):
        (states,) = args
        return torch.cat([states[:, :1], states[:, 1:] + states[:, :-1]], dim=1)

    handle = model.transformer.ln_f.register_forward_pre_hook(with_the_position_before)
    explain = explainer(model, level="token")
    result = explain(PROMPT, TARGET)
    assert made[-1] == "layers_that_attend"
    assert_equal(result.matrix, plain_loop(explain, result), 1e-10)
    handle.remove()


@pytest.mark.parametrize("prompt", ["a", "a movie", PROMPT])
@pytest.mark.parametrize("target", [" a", " is a"])
def test_short_prompts_and_targets(prompt, target):
    explain = explainer(causal("llama", torch.float32), level="token")
    result = explain(prompt, target)
    assert result.without_cache is None
    assert_equal(result.matrix, plain_loop(explain, result), 1e-5)


def test_threads_share_a_model():
    model = causal("gpt2")
    explain = explainer(model, level="token")
    expected = explain(PROMPT, TARGET)
    ids = torch.tensor([explain.tokenizer(PROMPT)["input_ids"]])
    logits = model(ids).logits
    found: list[bool] = []

    def work() -> None:
        for _ in range(3):
            found.append(explain(PROMPT, TARGET) == expected)
            found.append(torch.equal(model(ids).logits, logits))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 18
