"""A generation's matrix by a plain loop, from ids and word positions that are found by hand."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_sig import GenerationAttribution
from tests import oracle
from tests.tiny_language_models import END, logits_of

Spans = Sequence[tuple[int, int]]  # of characters


def prompt_ids(tokenizer: Any, text: str, plain: bool = False) -> list[int]:
    """The ids of a prompt; a special token that would end the text is left out."""
    ids = list(tokenizer(text, add_special_tokens=not plain)["input_ids"])
    while not plain and ids[-1] in (tokenizer.sep_token_id, tokenizer.eos_token_id):
        ids.pop()
    return ids


def word_positions(
    tokenizer: Any, text: str, level: str = "word", within: Spans | None = None
) -> list[list[int]]:
    """The tokens of each run of letters and each other sign, by the characters they show.

    Args:
        tokenizer: a fast tokenizer.
        text: what it reads.
        level: "word", or "token" for every token alone.
        within: the parts of a rendered chat that are its messages.
    """
    parts = [(0, len(text))] if within is None else within
    words = [
        (found.start() + start, found.end() + start)
        for start, end in parts
        for found in re.finditer(r"\w+|[^\w\s]", text[start:end])
    ]
    encoding = tokenizer(text, add_special_tokens=within is None, return_offsets_mapping=True)
    tokens: list[list[int]] = [[] for _ in words]
    for position, (token, (start, end)) in enumerate(
        zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    ):
        start += len(text[start:end]) - len(text[start:end].lstrip(" "))
        owner = next((n for n, (first, last) in enumerate(words) if first <= start < last), None)
        if owner is not None and token not in tokenizer.all_special_ids:
            tokens[owner].append(position)
    found = [positions for positions in tokens if positions]
    return found if level == "word" else [[p] for positions in found for p in positions]


def plain_loop(
    explain: Any,
    result: GenerationAttribution,
    words: Sequence[Sequence[int]] | None = None,
    baseline: int = END,
    plain: bool = False,
    kept: Sequence[bool] | None = None,
) -> Tensor:
    """The matrix for the prompt and target of a result, (T, W), while some words are kept."""
    tokenizer = explain.tokenizer
    if words is None:
        words = word_positions(tokenizer, result.prompt, explain.level)
    prompt = torch.tensor([prompt_ids(tokenizer, result.prompt, plain)])
    target = torch.tensor([token.id for token in result.target_tokens])
    logits = logits_of(explain.model)
    return oracle.target_differences(logits, prompt, target, words, baseline, kept)


def sequence_at_prompt(
    explain: Any, result: GenerationAttribution
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """Log p of the whole target as a function of the prompt's embeddings, input and baseline."""
    target = torch.tensor([token.id for token in result.target_tokens])
    ids = torch.tensor([prompt_ids(explain.tokenizer, result.prompt)])
    embedding = explain.model.get_input_embeddings()
    behind = embedding(target[None, :-1]).detach()

    def f(x):
        logits = explain.model(inputs_embeds=torch.cat([x, behind], 1)).logits
        last = logits[0, -len(target) :].log_softmax(-1)
        return last[torch.arange(len(target)), target].sum()

    x, b = embedding(ids).detach(), embedding(torch.full_like(ids, END)).detach()
    return f, x, b


def assert_equal(found: Tensor, expected: Tensor, atol: float) -> None:
    """Equal entries, up to `atol`."""
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=atol)
