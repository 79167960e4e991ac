"""Random models of every architecture from small configs, and local tokenizers: no download."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from captum_sig.explainers.models import word_embedding

VOCAB = 64
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
WORDS = ["the", "movie", "is", "not", "good", "bad", "a", "gorgeous", "mess", "un", "believ"]
PIECES = ["##able", "##s", "##y", "##ing", ".", ",", "!", "<", ">", "'", "b"]

CORPUS = ["the movie is not good", "a gorgeous mess, unbelievable!", "bad, bad movies"]


@dataclass(frozen=True)
class TinyModel:
    """A classifier of token ids and where its words enter."""

    model: nn.Module
    embedding: nn.Module

    def logits(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L) ids → (B, C)."""
        if attention_mask is None:
            attention_mask = torch.ones_like(ids)
        output = self.model(ids, attention_mask=attention_mask)
        return output if isinstance(output, Tensor) else output.logits


class LSTMClassifier(nn.Module):
    """Embedding, LSTM, mean over the tokens."""

    def __init__(self) -> None:
        """Small random weights."""
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def get_input_embeddings(self) -> nn.Embedding:
        """As transformers' models have it."""
        return self.embedding

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids → (B, 2)."""
        hidden, _ = self.lstm(self.embedding(ids))
        kept = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * kept).sum(1) / kept.sum(1))


class T5Classifier(nn.Module):
    """T5's encoder, mean over the tokens."""

    def __init__(self) -> None:
        """Small random weights."""
        super().__init__()
        config = transformers.T5Config(
            vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
        )
        self.encoder = transformers.T5EncoderModel(config)
        self.head = nn.Linear(32, 2)

    def get_input_embeddings(self) -> nn.Module:
        """As transformers' models have it."""
        return self.encoder.get_input_embeddings()

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids → (B, 2)."""
        hidden = self.encoder(ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * kept).sum(1) / kept.sum(1))


def _from_config(name: str, **changes: object) -> Callable[[], nn.Module]:
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "num_labels": 2,
        "pad_token_id": PAD,
    }

    def build() -> nn.Module:
        config = getattr(transformers, f"{name}Config")(**{**shape, **changes})
        return transformers.AutoModelForSequenceClassification.from_config(config)

    return build


_DECODER = {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": CLS, "eos_token_id": SEP}

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "bert": _from_config("Bert"),
    "distilbert": _from_config("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "roberta": _from_config("Roberta"),
    "electra": _from_config("Electra", embedding_size=16),
    "albert": _from_config("Albert", embedding_size=16),
    "deberta-v2": _from_config(
        "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8
    ),
    "mpnet": _from_config("MPNet"),
    "xlm-roberta": _from_config("XLMRoberta"),
    "modernbert": _from_config(
        "ModernBert", cls_token_id=CLS, sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP
    ),
    "gpt2": _from_config(
        "GPT2", n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=CLS, eos_token_id=SEP
    ),
    "llama": _from_config("Llama", **_DECODER),
    "qwen2": _from_config("Qwen2", **_DECODER),
    "gemma": _from_config("Gemma", **_DECODER),
    "t5-encoder": T5Classifier,
    "lstm": LSTMClassifier,
}


def tiny(name: str, dtype: torch.dtype = torch.float64) -> TinyModel:
    """A random model in eval mode; the weights are spread so that words matter."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        model = ARCHITECTURES[name]().eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.15)
            embedding = word_embedding(model)
            embedding.weight.normal_()
    return TinyModel(model.to(dtype), embedding)


def spread(model: nn.Module, std: float = 0.2) -> nn.Module:
    """Random float64 weights, the same every time, large enough for words to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=std, generator=generator)
    return model.eval().double()


TEXTS = ["a gorgeous mess!", "bad", "The movie is not unbelievable, not good.", "bad movies"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "vocab_size": 300, "max_position_embeddings": 40}  # fmt: skip


def bert(**changes: object) -> nn.Module:
    """A BERT classifier of three labels."""
    names = {0: "NEGATIVE", 1: "POSITIVE", 2: "neutral"}
    config = transformers.BertConfig(**SHAPE, id2label=names, **changes)
    return spread(transformers.BertForSequenceClassification(config))


def random_ids(batch: int, length: int, seed: int = 0) -> Tensor:
    """(batch, length) ids between a CLS and a SEP, no special ones inside."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(SPECIALS), VOCAB, (batch, length), generator=generator)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return ids


def mask_baseline(ids: Tensor) -> Tensor:
    """MASK in place of every id that is not special."""
    return torch.where(ids < len(SPECIALS), ids, MASK)


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's kind: lower case, ## pieces, [CLS] … [SEP]."""
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, *PIECES])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
    )


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's kind: Ġ marks a space before, one special token in all roles, no pad."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|endoftext|>", *alphabet, "Ġm", "Ġmo", "Ġmov", "ie", "Ġg", "oo", "oog", "Ġgood"]
    pieces += ["Ġmovie", "ood"]
    merges = [("Ġ", "m"), ("Ġm", "o"), ("Ġmo", "v"), ("i", "e"), ("Ġmov", "ie")]
    merges += [("o", "o"), ("oo", "d"), ("Ġ", "g"), ("Ġg", "ood")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end
    )


def unsplit_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 2's kind: ▁ put by the normalizer, no split before the model: one `word_id` for all."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "▁",
        "▁the",
        "▁good",
        "▁mov",
        "ie",
        "s",
        "g",
        "o",
        "d",
        "<0x0A>",
    ]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


class SlowTokenizer(PreTrainedTokenizer):
    """A tokenizer in plain Python: no `word_ids`, no offsets; ## pieces of at most four letters."""

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self) -> None:
        """Every word of the corpus in pieces of four letters."""
        words = {w for text in CORPUS for w in text.split()} | set(WORDS)
        pieces = sorted({piece for word in words for piece in self._pieces(word)})
        self._ids = {piece: i for i, piece in enumerate([*SPECIALS, *pieces])}
        super().__init__(
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
            model_max_length=40,
        )

    @staticmethod
    def _pieces(word: str) -> list[str]:
        return [("##" if i else "") + word[i : i + 4] for i in range(0, len(word), 4)]

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """Piece → id."""
        return dict(self._ids)

    def _tokenize(self, text: str, **kwargs: object) -> list[str]:
        return [piece for word in text.split() for piece in self._pieces(word.lower())]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, UNK)

    def _convert_id_to_token(self, index: int) -> str:
        return {i: piece for piece, i in self._ids.items()}[index]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """[CLS] … [SEP]."""
        return [CLS, *token_ids_0, SEP]
