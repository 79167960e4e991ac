r"""Make models for the paper's table: a DistilBERT, and classifiers of Rotten Tomatoes.

    python -m tests.benchmarks.paper_models distilbert --start captum_sig/demo_model \
        --data sst2 --output models/distilbert-sst2
    python -m tests.benchmarks.paper_models rotten --start models/distilbert-sst2 \
        --data rotten-tomatoes --sst2 sst2 --output models/distilbert-rotten

DistilBERT begins as its authors' did, with the words, the positions and every other layer of a BERT
(fine-tuned on SST-2 already), and is fine-tuned on SST-2's phrases. Classifiers of Rotten Tomatoes
begin as one of SST-2. No words are masked in training, as in the models of the paper.

Sentences of Rotten Tomatoes and of SST-2 are the same collection, cut differently. So accuracy is
reported on `unseen` sentences of its development set, of which SST-2's training set holds no phrase
of `MIN_LETTERS` letters; `unseen_records` has them for the table too.
"""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from captum_sig.data.records import Record
from tests.benchmarks.train_classifiers import LABELS, NUMBERS, accuracy, fit
from tests.demo_model.train import read, save

MIN_LETTERS = 15  # of a phrase: shorter ones stand in many sentences
LEARNING_RATES = {"distilbert": 1e-4, "rotten": 5e-5}


def distilbert(bert: PreTrainedModel) -> PreTrainedModel:
    """A DistilBERT with every other layer of a BERT classifier, its words, positions and head."""
    shape, layers = bert.config, bert.bert.encoder.layer[::2]
    config = transformers.DistilBertConfig(
        vocab_size=shape.vocab_size,
        dim=shape.hidden_size,
        n_layers=len(layers),
        n_heads=shape.num_attention_heads,
        hidden_dim=shape.intermediate_size,
        max_position_embeddings=shape.max_position_embeddings,
        pad_token_id=shape.pad_token_id,
        id2label=LABELS,
        label2id=NUMBERS,
    )
    model = transformers.DistilBertForSequenceClassification(config)
    ours, theirs = model.distilbert.embeddings, bert.bert.embeddings
    for layer, source in zip(model.distilbert.transformer.layer, layers, strict=True):
        attention, output = source.attention, source.output
        copy_weights(layer.attention.q_lin, attention.self.query)
        copy_weights(layer.attention.k_lin, attention.self.key)
        copy_weights(layer.attention.v_lin, attention.self.value)
        copy_weights(layer.attention.out_lin, attention.output.dense)
        copy_weights(layer.sa_layer_norm, attention.output.LayerNorm)
        copy_weights(layer.ffn.lin1, source.intermediate.dense)
        copy_weights(layer.ffn.lin2, output.dense)
        copy_weights(layer.output_layer_norm, output.LayerNorm)
    copy_weights(ours.word_embeddings, theirs.word_embeddings)
    copy_weights(ours.LayerNorm, theirs.LayerNorm)
    with torch.no_grad():  # it has no token types
        types = theirs.token_type_embeddings.weight[0]
        ours.position_embeddings.weight.copy_(theirs.position_embeddings.weight + types)
    copy_weights(model.pre_classifier, bert.bert.pooler.dense)
    copy_weights(model.classifier, bert.classifier)
    return model


def copy_weights(module: nn.Module, source: nn.Module) -> None:
    """Give a module the weights of one of the same shape."""
    module.load_state_dict(source.state_dict())


def unseen(sentences: Sequence[str], phrases: Sequence[str]) -> list[int]:
    """The numbers of the sentences that contain none of the phrases of `MIN_LETTERS` letters."""
    known = {phrase for phrase in map(_letters, phrases) if len(phrase) >= MIN_LETTERS}
    lengths = sorted({len(phrase) for phrase in known})

    def is_known(text: str) -> bool:
        return any(
            text[start : start + length] in known
            for length in lengths
            for start in range(len(text) - length + 1)
        )

    return [number for number, text in enumerate(sentences) if not is_known(_letters(text))]


def _letters(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


def unseen_records(rotten: Path, sst2: Path) -> list[Record]:
    """Rotten Tomatoes' development sentences that SST-2's training set does not know."""
    sentences, labels = read(rotten / "dev.tsv")
    phrases, _ = read(sst2 / "train.tsv")
    return [Record(sentences[i], str(labels[i])) for i in unseen(sentences, phrases)]


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.paper_models", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("model", choices=LEARNING_RATES)
    add("--start", type=Path, required=True, help="a classifier of SST-2; for distilbert, a BERT")
    add("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    add("--sst2", type=Path, help="SST-2's folder: do not test on what the start was trained on")
    add("--output", type=Path, required=True, help="folder of the model")
    add("--epochs", type=int, default=1)
    add("--limit", type=int, help="train on the first so many texts only")
    add("--seed", type=int, default=0)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, report the accuracy on unseen sentences."""
    options = parser().parse_args(arguments)
    torch.manual_seed(options.seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(options.start)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.start)
    if options.model == "distilbert":
        model = distilbert(model)
    texts, labels = (part[: options.limit] for part in read(options.data / "train.tsv"))
    started = time.process_time()
    fit(
        model, tokenizer(texts, truncation=True)["input_ids"], torch.tensor(labels),
        mask=tokenizer.mask_token_id, most_masked=0.0, exact=False,
        learning_rate=LEARNING_RATES[options.model], epochs=options.epochs,
    )  # fmt: skip
    seconds = time.process_time() - started
    save(model, tokenizer, options.output)
    if options.sst2 is None:
        tested, gold = read(options.data / "dev.tsv")
    else:
        records = unseen_records(options.data, options.sst2)
        tested, gold = [x.text for x in records], [int(str(x.label)) for x in records]
    rows = tokenizer(tested, truncation=True)["input_ids"]
    correct = accuracy(model, rows, torch.tensor(gold))
    print(
        f"{options.output.name}: {correct:.1%} of {len(rows)} unseen sentences, "
        f"{len(texts)} texts in {seconds:.0f} s of CPU",
        flush=True,
    )


if __name__ == "__main__":
    main()
