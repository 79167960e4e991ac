"""Make the demo model: a small BERT that imitates a larger classifier, also on masked words.

A phrase is a list of word numbers; a masked word is the complement `~number`. Both models spell the
same list, each with its own pieces and one [MASK] for each piece of a masked word. The teacher
judges many altered copies of the training phrases (joined, words patched, words masked) once; the
student then learns these logits by least squares. The development set is only reported on.

    python -m tests.demo_model.train --data sst2 --teacher minilm-sst2 --output demo_model
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor
from torch.nn import Embedding
from torch.nn.functional import mse_loss, normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

Phrase = list[int]  # numbers of words; ~number where the word is masked
Batch = tuple[list[int], Tensor, Tensor]  # numbers of the rows, ids (B, L), attention mask (B, L)
LENGTH = 128  # tokens, with [CLS] and [SEP]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # the student's ids 0 to 4
WORD = r"[a-z]+(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|\w+|[^\w\s]"  # "doesn't" is "does" and "n't"
TYPOGRAPHY = dict(zip("\u2018\u2019\u201c\u201d\u2013\u2014\u2026", "''\"\"--.", strict=True))
CORPUS = {"``": '"', "''": '"', "-lrb-": "(", "-rrb-": ")"}  # how the data writes ASCII signs
OPTIONS = {"limit": 10**9, "copies": 6, "epochs": 2, "vocabulary": 8000, "width": 192, "layers": 4}


@dataclass(frozen=True)
class Spelling:
    """How one model writes each word: `pieces[number]`, between its own special tokens."""

    pieces: list[list[int]]
    cls: int
    sep: int
    mask: int

    def __call__(self, phrase: Phrase) -> list[int]:
        """The phrase as token ids, at most `LENGTH` of them."""
        words = (self.pieces[w] if w >= 0 else [self.mask] * len(self.pieces[~w]) for w in phrase)
        return [self.cls, *[i for ids in words for i in ids][: LENGTH - 2], self.sep]


def read(path: Path) -> tuple[list[str], list[int]]:
    """Sentences and labels of a `sentence<TAB>label` file with a header."""
    text = path.read_text(encoding="utf-8")
    for old, new in CORPUS.items():
        text = text.replace(old, new)
    rows = [line.rsplit("\t", 1) for line in text.splitlines()[1:]]
    return [sentence for sentence, _ in rows], [int(label) for _, label in rows]


def train_tokenizer(sentences: list[str], size: int) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer that reads "it 's" and "it's" alike."""
    draft = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    signs = [normalizers.Replace(old, new) for old, new in TYPOGRAPHY.items()]
    draft.normalizer = normalizers.Sequence([normalizers.BertNormalizer(), *signs])
    draft.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    characters = sorted({c for text in sentences for c in draft.normalizer.normalize_str(text)})
    fixed = SPECIAL + [f"##{c}" for c in characters if c != " "]  # else numbered in random order
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=fixed, show_progress=False)
    draft.train_from_iterator(sentences, trainer)
    tokenizer = Tokenizer(models.WordPiece(draft.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = draft.normalizer, draft.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    roles = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **roles)


def split(tokenizer: PreTrainedTokenizerFast, sentence: str) -> list[str]:
    """The words that the tokenizer sees."""
    raw = tokenizer.backend_tokenizer
    text = raw.normalizer.normalize_str(sentence)
    return [word for word, _ in raw.pre_tokenizer.pre_tokenize_str(text)]


def spell_all(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> Spelling:
    """The pieces of every word and the special tokens of this tokenizer."""
    pieces = tokenizer(words, add_special_tokens=False)["input_ids"]
    known = tokenizer.get_vocab()
    return Spelling(pieces, known["[CLS]"], known["[SEP]"], known["[MASK]"])


def mean_vectors(pieces: list[list[int]], table: Tensor) -> Tensor:
    """Mean of the rows of `table` that belong to each word, (words, width)."""
    return torch.stack([table[torch.tensor(ids)].mean(0) for ids in pieces])


def shrink(
    pieces: list[str], teacher: PreTrainedTokenizerBase, table: Tensor, width: int
) -> Tensor:
    """The teacher's vector of each of our pieces, reduced to `width` by PCA, its spread kept."""
    known, parts = teacher.get_vocab(), []
    for piece in pieces:
        bare = teacher.tokenize(piece.removeprefix("##")) or [teacher.unk_token]
        parts.append([known[part] for part in ([piece] if piece in known else bare)])
    vectors = mean_vectors(parts, table)
    centred = vectors - vectors.mean(0)
    reduced = centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -width:]
    return reduced * (table.std() / reduced.std())


def neighbours(vectors: Tensor, count: int) -> list[list[int]]:
    """The `count` words nearest to each word by cosine."""
    units = normalize(vectors, dim=1)
    found = [(rows @ units.T).topk(count + 1).indices[:, 1:] for rows in units.split(1024)]
    return torch.cat(found).tolist()


def mask(phrase: Phrase, share: float, rng: Random) -> Phrase:
    """The phrase with about this share of its words masked."""
    return [~word if rng.random() < share else word for word in phrase]


def alter(phrase: Phrase, other: Phrase, similar: list[list[int]], rng: Random) -> Phrase:
    """A copy for the teacher to judge: perhaps joined, with words patched, with words masked."""
    if rng.random() < 0.15:
        phrase = phrase + other
    if rng.random() < 0.5:
        phrase = [rng.choice(similar[w]) if rng.random() < 0.2 else w for w in phrase]
    kind = rng.random()
    if kind < 0.02:
        return mask(phrase, 1.0, rng)
    return mask(phrase, rng.uniform(0.0, 0.7), rng) if kind < 0.65 else phrase


def lessons(phrases: list[Phrase], k: int, similar: list[list[int]], rng: Random) -> list[Phrase]:
    """Every phrase, then `k` altered copies, long phrases more often: whole sentences are few."""
    drawn = rng.choices(phrases, weights=[len(p) for p in phrases], k=k)
    return phrases + [alter(phrase, rng.choice(phrases), similar, rng) for phrase in drawn]


def batches(rows: list[list[int]], size: int) -> Iterator[Batch]:
    """Batches of rows of about equal length, shortest first; both models pad with 0."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        lengths = torch.tensor([len(rows[i]) for i in chosen])
        width = int(lengths.max())
        ids = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in chosen])
        yield chosen, ids, (torch.arange(width) < lengths[:, None]).long()


def shuffled(rows: list[list[int]], size: int) -> Iterator[Batch]:
    """All rows once, in batches from random pools of fifty batches sorted by length."""
    order = torch.randperm(len(rows)).tolist()
    for start in range(0, len(order), 50 * size):
        pool = order[start : start + 50 * size]
        sorted_batches = list(batches([rows[i] for i in pool], size))
        for number in torch.randperm(len(sorted_batches)).tolist():
            chosen, ids, attention = sorted_batches[number]
            yield [pool[i] for i in chosen], ids, attention


@torch.inference_mode()
def predict(model: PreTrainedModel, rows: list[list[int]], exact: bool = True) -> Tensor:
    """Logits of every row, (rows, 2); in bfloat16 where they need not be exact."""
    logits = torch.empty(len(rows), 2)
    model.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
        for chosen, ids, attention in batches(rows, 128):
            logits[chosen] = model(input_ids=ids, attention_mask=attention).logits.float()
    return logits


def teach(teacher: PreTrainedModel, spell: Spelling, phrases: list[Phrase], exact: bool) -> Tensor:
    """The teacher's logits, less its liking for [MASK]: nothing but masks comes out as (0, 0)."""
    logits = predict(teacher, [spell(phrase) for phrase in phrases], exact)
    blank = predict(teacher, [[spell.cls, *[spell.mask] * n, spell.sep] for n in range(LENGTH - 1)])
    lengths = [len(spell(phrase)) - 2 for phrase in phrases]
    shares = torch.tensor([sum(w < 0 for w in p) / max(len(p), 1) for p in phrases])
    return logits - shares[:, None] ** 2 * blank[lengths]


def new_student(vectors: Tensor, layers: int) -> transformers.BertForSequenceClassification:
    """An untrained BERT around these word embeddings."""
    vocabulary, width = vectors.shape
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    student = transformers.BertForSequenceClassification(config)
    student.set_input_embeddings(Embedding.from_pretrained(vectors, freeze=False, padding_idx=0))
    return student


def fit(student: PreTrainedModel, rows: list[list[int]], targets: Tensor, epochs: int) -> None:
    """Least squares on the logits: AdamW, warm-up and linear decay, batches of 128."""
    steps, step, running = epochs * -(-len(rows) // 128), 0, 0.0
    optimizer = torch.optim.AdamW(student.parameters(), lr=8e-4, weight_decay=0.01, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    student.train()
    for _ in range(epochs):
        for chosen, ids, attention in shuffled(rows, 128):
            with torch.autocast("cpu", torch.bfloat16):
                logits = student(input_ids=ids, attention_mask=attention).logits
            loss = mse_loss(logits.float(), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step, running = step + 1, running + loss.item()
            if step % 500 == 0:
                print(f"step {step} of {steps}, loss {running / 500:.3f}", flush=True)
                running = 0.0


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write transformers' files: weights as float16 that load as float32."""
    tokenizer.save_pretrained(folder)
    model.to(torch.float16).save_pretrained(folder)  # type: ignore[arg-type]
    fast = {"tokenizer_class": "PreTrainedTokenizerFast"}  # the name in every version
    changes = {"config.json": {"dtype": "float32"}, "tokenizer_config.json": fast}
    for name, change in changes.items():
        entries = json.loads((folder / name).read_text(encoding="utf-8")) | change
        (folder / name).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)
    model.to(torch.float32)  # type: ignore[arg-type]


def report(ours: Tensor, theirs: Tensor, labels: list[int], percent: int) -> None:
    """Print how student and teacher do with this share of words masked."""
    gold, guess, aim = torch.tensor(labels), ours.argmax(1), theirs.argmax(1)
    positive, wanted = ours.softmax(1)[:, 1], theirs.softmax(1)[:, 1]
    gap, mean = (positive - wanted).abs().mean(), positive.mean()
    hits = {"accuracy": guess == gold, "teacher": aim == gold, "same label": guess == aim}
    shares = ", ".join(f"{name} {hit.float().mean():.3f}" for name, hit in hits.items())
    print(f"{percent} % masked: {shares}, P(POSITIVE) {mean:.3f}, off the teacher's by {gap:.3f}")


def parse() -> argparse.Namespace:
    """The command line; all but the folders can stay as they are."""
    parser = argparse.ArgumentParser(description="Make the demo model.")
    for name in ("data", "teacher", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="folder")
    for name, value in ({"seed": 0, "threads": 2} | OPTIONS).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main() -> None:
    """Tokenizer, lessons, training, files, report."""
    options, started = parse(), time.perf_counter()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = Random(options.seed)
    train, _ = read(options.data / "train.tsv")
    dev, labels = read(options.data / "dev.tsv")
    tokenizer = train_tokenizer(train, options.vocabulary)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(options.teacher)
    teacher = transformers.AutoModelForSequenceClassification.from_pretrained(options.teacher)
    table = teacher.get_input_embeddings().weight.detach()
    texts = [split(tokenizer, sentence) for sentence in train[: options.limit] + dev]
    number = {word: i for i, word in enumerate(dict.fromkeys(w for text in texts for w in text))}
    phrases = [[number[word] for word in text] for text in texts if text]
    phrases, unseen = phrases[: -len(dev)], phrases[-len(dev) :]
    ours, theirs = (spell_all(each, list(number)) for each in (tokenizer, their_tokenizer))
    known = 1 + max(max(phrase) for phrase in phrases)  # the words of dev alone come after these
    similar = neighbours(mean_vectors(theirs.pieces[:known], table), 10)
    copies = lessons(phrases, (options.copies - 1) * len(phrases), similar, rng)
    targets = teach(teacher, theirs, copies, exact=False)
    print(f"{len(copies)} lessons after {time.perf_counter() - started:.0f} s", flush=True)
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    vectors = shrink(pieces, their_tokenizer, table, options.width)
    student = new_student(vectors, options.layers)
    fit(student, [ours(copy) for copy in copies], targets, options.epochs)
    save(student, tokenizer, options.output)
    for percent in (0, 15, 30, 50, 70, 100):
        masked = [mask(phrase, percent / 100, rng) for phrase in unseen]
        guesses = predict(student, [ours(phrase) for phrase in masked])
        report(guesses, teach(teacher, theirs, masked, exact=True), labels, percent)
    size = sum(path.stat().st_size for path in options.output.iterdir() if path.is_file())
    print(f"{size} bytes in {options.output}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
