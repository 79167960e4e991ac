"""Train a small Llama to answer from passages, in minutes on one core.

    python -m tests.benchmarks.train_retriever --output retriever

It learns to answer from a few passages, then from more, until 98 % of the tokens are right at each
number. All questions on the passages of `tests.benchmarks.retrieval_data` follow one another in
training. Some words, and some passages, are `<unk>`, so that the model knows texts with words
removed.
"""

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from tests.benchmarks import retrieval_data
from tests.benchmarks.retrieval_data import Retrieval

IGNORED = -100  # a token without a label
ENOUGH = 0.98  # of the codes answered
BATCH_TOKENS = 1536
LONGEST = 1024  # positions of the model
HEADS = 8
NEAR = 6  # of them look back as far as from a code to its name in a passage
FILLERS = [0, 0, 1], [0, 1, 2]  # sentences beside the fact, of few passages and of more
OTHER = 16  # features of words that are in no fact
SPECIAL = ["<unk>", "<end>"]


def new_tokenizer(n_passages: int) -> transformers.PreTrainedTokenizerFast:
    """One token for each word and sign."""
    words = [*SPECIAL, *retrieval_data.vocabulary(n_passages)]
    backend = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<end>", model_max_length=LONGEST
    )


def new_model(tokenizer: Any, width: int, head_width: int) -> transformers.LlamaForCausalLM:
    """A Llama of two layers whose attention begins as what takes long to learn."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width,
        num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        head_dim=head_width, max_position_embeddings=LONGEST, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=1, attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    words = [*retrieval_data.NAMES, *retrieval_data.CODES, *map(str, retrieval_data.NUMBERS)]
    is_content = torch.zeros(len(tokenizer), dtype=torch.bool)
    is_content[tokenizer.convert_tokens_to_ids(words)] = True
    begin(model, is_content)
    return model


@torch.no_grad()
def begin(model: Any, is_content: Tensor) -> None:
    """Set embeddings and attention so that the model begins with a rough answer.

    A token's features are its own, what is near before it, what is far before it, and those of
    words that are not content, (V,): names and codes. The first layer writes the content of the
    last tokens as near and far; of a question only the name is content, and far. The second attends
    from what is far, and from the token itself, to tokens that are near the same, and copies these.
    """
    embedding, frequencies = model.get_input_embeddings().weight, model.model.rotary_emb.inv_freq
    width, size = embedding.shape[1], model.config.head_dim
    own = width - OTHER - 2 * size
    embedding.normal_(0, width**-0.5)
    embedding[:, own:-OTHER] = 0
    embedding[is_content, -OTHER:] = 0
    embedding[~is_content, :own] *= 0.01
    embedding[~is_content, -OTHER:] *= 6
    first, second = (layer.self_attn for layer in model.model.layers)
    look_back(first, frequencies)
    seen = torch.zeros(size, width)
    seen[:, :own] = orthonormal(own, size).T
    near, far = torch.eye(width)[:, own:-OTHER].split(size, 1)
    first.v_proj.weight.copy_(seen.repeat(HEADS, 1))
    first.o_proj.weight.copy_(
        0.15 * torch.cat([near.repeat(1, NEAR), far.repeat(1, HEADS - NEAR)], 1)
    )
    is_slow = (frequencies < 0.006).float().repeat(2)[:, None]  # else a rotation hides the content
    for head in range(HEADS):
        mix = 2 * is_slow * orthonormal(size, size)
        rows = slice(head * size, (head + 1) * size)
        second.k_proj.weight[rows] = mix @ near.T
        second.q_proj.weight[rows] = mix @ (far.T + 4 * seen)
    second.v_proj.weight.normal_(0, width**-0.5)
    second.v_proj.weight[:, own:] = 0
    second.o_proj.weight.copy_(2 * second.v_proj.weight.T)


def orthonormal(rows: int, columns: int) -> Tensor:
    """Random columns."""
    return torch.linalg.qr(torch.randn(rows, columns))[0]


def look_back(attention: Any, frequencies: Tensor) -> None:
    """Set the biases so that head h attends h + 1 tokens back.

    A rotation turns pair f of a query at m and of a key at n by θ_f m and θ_f n. So their product,
    Σ_f c² cos(θ_f (m − n − d)), is largest at m − n = d if the query's bias begins at −θ_f d.
    """
    back = torch.arange(1, HEADS + 1)[:, None] * frequencies  # (H, F)
    size = 9.0 * (frequencies > 0.05)
    queries = torch.cat([back.cos(), -back.sin()], 1) * torch.cat([size, size])
    keys = torch.cat([size, torch.zeros_like(size)]).expand(HEADS, -1)
    attention.q_proj.bias.copy_(queries.flatten())
    attention.k_proj.bias.copy_(keys.flatten())


def gaps(ids: list[int], rng: random.Random) -> list[int]:
    """A passage with some of its words unknown, or all of it."""
    share = rng.choice([0.0, 0.0, 0.0, 0.1, 0.3, 1.0])
    return [0 if rng.random() < share else token for token in ids]


def example(
    tokenizer: Any, told: Retrieval, rng: random.Random, n_questions: int, with_gaps: bool
) -> tuple[list[int], list[int]]:
    """Ids and labels: passages, then questions with their codes, the only labels.

    A code is no label where a gap hides its name or part of it in all passages that hold it.
    """
    ids: list[int] = []
    known: set[str] = set()
    for passage, fact in zip(told.passages, told.facts, strict=True):
        whole = tokenizer(passage)["input_ids"]
        shown = gaps(whole, rng) if with_gaps else whole
        needed = set(tokenizer(f"{fact.name} {fact.code}")["input_ids"])
        if needed <= set(shown):
            known.add(fact.name)
        ids += shown
    labels = [IGNORED] * len(ids)
    asked = sorted(set(told.facts), key=lambda fact: fact.name)
    for fact in rng.sample(asked, min(n_questions, len(asked))):
        question, code = (tokenizer(text)["input_ids"] for text in (fact.question, fact.code))
        ids += question + code
        is_known = fact.name in known
        labels += [IGNORED] * len(question) + (code if is_known else [IGNORED] * len(code))
    return ids, labels


def batch(
    tokenizer: Any, rng: random.Random, n_passages: int, n_questions: int, rows: int, *, gaps: bool
) -> tuple[Tensor, Tensor]:
    """Ids and labels of so many prompts, (rows, L) each, padded at the right."""
    columns = []
    for _ in range(rows):
        n_twice, n_fillers = rng.randrange(n_passages // 4 + 1), rng.choice(FILLERS[n_passages > 5])
        told = retrieval_data.retrieval(rng, n_passages, n_twice, n_fillers)
        columns.append(example(tokenizer, told, rng, n_questions, gaps))
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in side], True, padding)
        for side, padding in zip(zip(*columns, strict=True), (1, IGNORED), strict=True)
    )
    return ids, labels


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, seed: int, n_passages: int, rows: int) -> float:
    """The share of questions whose whole code comes first, each after its passages alone."""
    rng, right = random.Random(seed), 0
    for _ in range(rows // 20):
        ids, labels = batch(tokenizer, rng, n_passages, 1, 20, gaps=False)
        right += int(is_right(model(input_ids=ids).logits, labels).all(1).sum())
    return right / (rows // 20 * 20)


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each token that is a label comes first, (B, L − 1); True where there is none."""
    return (logits[:, :-1].argmax(-1) == labels[:, 1:]) | (labels[:, 1:] == IGNORED)


def fit(
    model: Any, tokenizer: Any, output: Path, *, lengths: Sequence[int], seed: int, seconds: float,
    learning_rate: float,
) -> None:  # fmt: skip
    """AdamW, at each length until enough tokens are right; saves every 50 steps."""
    rng = random.Random(seed)
    model.get_input_embeddings().weight.requires_grad_(False)  # small features must stay small
    model.model.layers[0].self_attn.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    start = time.perf_counter()
    stage, step, running, right = 0, 0, 0.0, 0.0
    while stage < len(lengths) and time.perf_counter() - start < seconds:
        step += 1
        n = lengths[stage]
        rows = max(4, BATCH_TOKENS // (30 * n + 1))
        ids, labels = batch(tokenizer, rng, n, n, rows, gaps=stage > 0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, step / 50)
        output_of = model(input_ids=ids, labels=labels)
        output_of.loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        known = labels[:, 1:] != IGNORED
        right += float(is_right(output_of.logits, labels)[known].float().mean()) / 50
        running += output_of.loss.item() / 50
        if step % 50 == 0:
            print(
                f"{time.perf_counter() - start:.0f} s, step {step}, {n} passages: "
                f"loss {running:.3f}, {right:.1%} of the tokens", flush=True,
            )  # fmt: skip
            save(model, tokenizer, output)
            stage, running, right = stage + (right >= ENOUGH), 0.0, 0.0


def save(model: Any, tokenizer: Any, output: Path) -> None:
    """As transformers loads them."""
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, report the accuracy on prompts that were not trained on."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.train_retriever", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--output", type=Path, required=True, help="folder for the model")
    add("--width", type=int, default=128)
    add("--head-width", type=int, default=32)
    add("--weights", type=Path, help="also a file with weights in float16, and the words")
    add("--passages", type=int, nargs="+", default=[5, 20], help="how many, in turn")
    add("--learning-rate", type=float, default=5e-4)
    add("--minutes", type=float, default=30.0, help="the most that training takes")
    add("--start", type=Path, help="folder of a model to go on from")
    add("--seed", type=int, default=0)
    given = options.parse_args(arguments)
    torch.manual_seed(given.seed)
    tokenizer = new_tokenizer(max(given.passages))
    model = new_model(tokenizer, given.width, given.head_width)
    if given.start:
        model = transformers.LlamaForCausalLM.from_pretrained(given.start)
    fit(
        model, tokenizer, given.output, lengths=given.passages, seed=given.seed,
        seconds=60 * given.minutes, learning_rate=given.learning_rate,
    )  # fmt: skip
    save(model, tokenizer, given.output)
    if given.weights:
        words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        named = dict(model.half().named_parameters())
        save_file(named, given.weights, {"words": " ".join(words)})
        model.float()
    right = accuracy(model.eval(), tokenizer, -1, max(given.passages), 500)
    print(f"{right:.1%} of 500 questions after {max(given.passages)} passages", flush=True)


if __name__ == "__main__":
    main()
