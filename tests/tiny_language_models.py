"""Random language models of every family from small configs, and tokenizers for them."""

from collections.abc import Callable

import torch
import transformers
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import CLS, PAD, SEP, byte_level_tokenizer, spread

VOCAB = 300  # more than the byte-level tokenizer has
END = 0  # its <|endoftext|>


def _causal(name: str, **changes: object) -> Callable[[], nn.Module]:
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "pad_token_id": VOCAB - 1,
        "bos_token_id": END,
        "eos_token_id": END,
    }

    def build() -> nn.Module:
        config = getattr(transformers, f"{name}Config")(**{**shape, **changes})
        return transformers.AutoModelForCausalLM.from_config(config)

    return build


_AS_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}

WITH_CACHE: dict[str, Callable[[], nn.Module]] = {
    "gpt2": _causal("GPT2", **_AS_GPT2),
    "llama": _causal("Llama"),
    "qwen2": _causal("Qwen2"),
    "qwen3": _causal("Qwen3"),
    "gemma": _causal("Gemma"),
    "gemma2": _causal("Gemma2", sliding_window=128),
    "gemma3": _causal("Gemma3Text", sliding_window=128),
    "mistral": _causal("Mistral", sliding_window=128),
    "phi": _causal("Phi", num_key_value_heads=4),
    "phi3": _causal("Phi3"),
    "gpt-neox": _causal("GPTNeoX"),
    "opt": _causal("OPT", ffn_dim=48, word_embed_proj_dim=32),
    "bloom": _causal("Bloom", n_layer=2, n_head=4),
    "ctrl": _causal("CTRL", **_AS_GPT2, dff=48),  # scales its embeddings in place
}

WITHOUT_CACHE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mistral-window": (_causal("Mistral", sliding_window=8), "sliding window"),
    "gemma3-window": (_causal("Gemma3Text", sliding_window=8), "sliding window"),
    "rwkv": (_causal("Rwkv"), "has no cache"),
    "recurrent-gemma": (
        _causal("RecurrentGemma", num_hidden_layers=3, lru_width=32, attention_window_size=64),
        "has no cache",
    ),
}

FLOAT32_NORMS = {"llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "mistral", "phi3",
                 "mistral-window", "gemma3-window", "recurrent-gemma"}  # fmt: skip


def causal(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A random causal language model in eval mode; the weights are spread so that words matter."""
    build = WITH_CACHE[name] if name in WITH_CACHE else WITHOUT_CACHE[name][0]
    return spread(build(), std=0.15).to(dtype)


def tolerance(name: str) -> float:
    """What may separate two ways to compute the same; RMSNorm computes in float32."""
    return 1e-5 if name in FLOAT32_NORMS else 1e-10


_SEQ2SEQ = {"vocab_size": 64, "pad_token_id": PAD, "eos_token_id": SEP, "bos_token_id": CLS,
            "decoder_start_token_id": PAD, "max_position_embeddings": 40}  # fmt: skip
_AS_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}  # fmt: skip
_AS_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
ENCODER_DECODERS = {"T5": _AS_T5, "MT5": _AS_T5, "Bart": _AS_BART, "Pegasus": _AS_BART,
                    "Marian": _AS_BART, "M2M100": _AS_BART}  # fmt: skip


def encoder_decoder(name: str) -> nn.Module:
    """A random model with encoder and decoder, for the ids of `wordpiece_tokenizer`."""
    config = getattr(transformers, f"{name}Config")(**_SEQ2SEQ, **ENCODER_DECODERS[name])
    return spread(transformers.AutoModelForSeq2SeqLM.from_config(config), std=0.15)


def logits_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A causal model as a function of ids alone."""
    return lambda ids: model(input_ids=ids, use_cache=False).logits.double()


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim }}"
    "{% if not loop.last or add_generation_prompt %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The byte-level one with ChatML's template and its two special tokens."""
    tokenizer = byte_level_tokenizer()
    marks = [AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_tokens(marks, special_tokens=True)
    tokenizer.chat_template = CHATML
    return tokenizer
