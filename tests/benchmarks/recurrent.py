"""A recurrent classifier in transformers' form: nothing in it is a transformer's."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput


class RecurrentConfig(PreTrainedConfig):
    """The shape of a `RecurrentClassifier`."""

    model_type = "bidirectional-lstm"

    def __init__(
        self,
        vocab_size: int = 8000,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        dropout: float = 0.3,
        pad_token_id: int = 0,
        **kwargs: object,
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.dropout = num_hidden_layers, dropout


class RecurrentClassifier(PreTrainedModel):
    """Word vectors, a bidirectional LSTM, the mean over the tokens, a linear layer.

    Padding, at the right, is neither read by the LSTM nor part of the mean.
    """

    config_class = RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.lstm = nn.LSTM(
            width, width, config.num_hidden_layers,
            batch_first=True, bidirectional=True, dropout=config.dropout,
        )  # fmt: skip
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave every module as torch makes it."""

    def get_input_embeddings(self) -> nn.Embedding:
        """Where words enter."""
        return self.embedding

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """(B, L) ids and 1 where they are no padding → logits (B, C)."""
        is_token = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        n_tokens = is_token.sum(1)
        packed = pack_padded_sequence(
            self.dropout(self.embedding(input_ids)), n_tokens.cpu(), True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.lstm(packed)[0], True)  # padding is 0, (B, L, 2 D)
        mean = states.sum(1) / n_tokens[:, None]
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(mean)))


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig, exist_ok=True)
AutoModelForSequenceClassification.register(RecurrentConfig, RecurrentClassifier, exist_ok=True)
