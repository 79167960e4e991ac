"""What a language model is asked: the prompt's words, and the target's tokens behind it.

*The boundary.* A prompt has the tokens that it has alone, for so the model reads it when it
generates. A target's tokens are what the tokenizer makes of prompt and target as one text, after
the prompt's; where it joins the prompt's end and the target's start into one token, the target
is tokenized behind the prompt on its own, with a warning.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from captum_sig._warnings import warn
from captum_sig.words.encoding import checked_texts, grouping
from captum_sig.words.grouping import Grouping, Span, spans

Message = dict[str, str]  # "role" and "content"


@dataclass(frozen=True)
class Rendered:
    """A chat as one text; `contents` are the character offsets of the messages in it."""

    text: str
    contents: tuple[tuple[int, int], ...]


def rendered(tokenizer: Any, messages: Sequence[Message]) -> Rendered:
    """The messages by the tokenizer's chat template, up to where the model's answer begins.

    A last message of the role "assistant" is left open: the model is to go on with it.

    Raises:
        TypeError: if a message is not a role and a text.
        ValueError: if there is no message or no template, or it refuses or changes them.
    """
    if not messages:
        raise ValueError("the chat has no message: pass at least one")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise TypeError(f'message {number} must be {{"role": …, "content": …}} with strings')
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "the tokenizer has no chat template: set tokenizer.chat_template, or pass the text "
            "that the model reads"
        )
    text = _by_template(tokenizer, messages)
    return Rendered(text, _located(tokenizer, messages, text))


def _by_template(tokenizer: Any, messages: Sequence[Message]) -> str:
    from jinja2 import TemplateError

    is_open = messages[-1]["role"] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=not is_open,
            continue_final_message=is_open,
        )  # fmt: skip
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from error


def _located(tokenizer: Any, messages: Sequence[Message], text: str) -> tuple[tuple[int, int], ...]:
    """Where each message stands: between the template's own pieces, which placeholders show.

    To search the text for a message would find "user" in the template's own words.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    marked = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    pieces = re.split("|".join(marks), _by_template(tokenizer, marked))
    pattern = re.escape(pieces[0]) + "".join(
        f"({'|'.join(map(re.escape, _spellings(message['content'])))}){re.escape(piece)}"
        for message, piece in zip(messages, pieces[1:], strict=False)
    )
    found = re.fullmatch(pattern, text) if len(pieces) == len(messages) + 1 else None
    if found is None:
        raise ValueError(
            "the chat template changes what the messages say, so their words cannot be found in "
            "it: pass the text that the model reads"
        )
    return tuple(found.span(number + 1) for number in range(len(messages)))


def _spellings(content: str) -> Iterator[str]:
    """As it is, or without the white space around it, as most templates have it."""
    yield from dict.fromkeys([content, content.strip(), content.lstrip(), content.rstrip()])


HALF_A_CHARACTER = "\ufffd"  # what a token that is one of a character's bytes is decoded to


@dataclass(frozen=True)
class Prompt:
    """A prompt's tokens and words."""

    text: str
    ids: list[int]  # (P,)
    groups: Grouping  # (P,): the word of each token; None of special, template, skipped ones
    spans: list[Span]  # the words
    plain: bool  # special tokens are part of the text, as in a chat; none is to be added

    def positions(self) -> list[list[int]]:
        """The tokens of each word, in the words' order."""
        of_word: dict[int | None, list[int]] = {}
        for position, word in enumerate(self.groups):
            of_word.setdefault(word, []).append(position)
        return [of_word[self.groups[span.position]] for span in self.spans]


class Prompter:
    """A tokenizer, what a word is, and whether a target follows in the same text.

    Args:
        tokenizer: a transformers tokenizer.
        level: "word" or "token".
        one_text: the target follows the prompt (a decoder alone); False for an encoder's source
            and a decoder's target, each with its own special tokens.
    """

    def __init__(self, tokenizer: Any, level: str, one_text: bool) -> None:
        """Check the level."""
        self.tokenizer = tokenizer
        self.grouped = grouping(level)
        self.one_text = one_text

    def prompt(self, given: str | Sequence[Message], skip_tokens: Sequence[int | str]) -> Prompt:
        """Tokens and words of a text, or of the messages of a chat.

        Args:
            given: text, or messages with "role" and "content".
            skip_tokens: ids, or tokens as the tokenizer spells them, that are no words.

        Raises:
            TypeError: if it is neither.
            ValueError: if there is no word, or a chat cannot be rendered.
        """
        chat = None if isinstance(given, str) else self._rendered(given)
        text = str(given) if chat is None else chat.text
        checked_texts([text])
        if not text:
            raise ValueError("the prompt is empty: pass text with at least one word")
        encoding, ids = self._encode(text, chat is not None)
        word_ids = encoding.word_ids(0)[: len(ids)] if self.tokenizer.is_fast else None
        offsets = encoding[0].offsets[: len(ids)] if self.tokenizer.is_fast else None
        skipped = self._skipped(skip_tokens)
        groups = self.grouped(self.tokenizer, ids, word_ids, text, offsets)
        groups = [None if token in skipped else g for g, token in zip(groups, ids, strict=True)]
        if chat is not None and offsets is not None:
            groups = _within(text, groups, offsets, chat.contents)
        found = spans(self.tokenizer, text, ids, groups, offsets)
        if not found:
            raise ValueError(
                f"no word of the prompt {text!r} is left to explain: it has special, template and "
                "skipped tokens only"
            )
        return Prompt(text, ids, groups, found, chat is not None)

    def _rendered(self, messages: Sequence[Message]) -> Rendered:
        if not self.tokenizer.is_fast:
            raise ValueError(
                "a slow tokenizer keeps no offsets, so a chat's words cannot be told from its "
                "template's: use a fast tokenizer, or pass the text that the model reads"
            )
        return rendered(self.tokenizer, messages)

    def target(self, prompt: Prompt, given: Any, n_ids: int, name: str = "target") -> list[int]:
        """The ids of a target given as text or ids, by the rule of the boundary.

        Args:
            prompt: what it follows.
            given: text, or ids in a sequence or tensor.
            n_ids: ids that the model knows.
            name: what errors call it.

        Raises:
            TypeError, ValueError: if it is empty, or no text or ids of the model.
        """
        if isinstance(given, str):
            checked_texts([given])
            if not given:
                raise ValueError(f"the {name} is empty: pass at least one token, or leave it out")
            ids = self._behind(prompt, given)
        else:
            ids = _checked_ids(given, name)
        if not ids:
            raise ValueError(f"the {name} has no token: pass at least one, or leave it out")
        wrong = [token for token in ids if not 0 <= token < n_ids]
        if wrong:
            raise ValueError(f"{name} id {wrong[0]} is none of the model's 0 … {n_ids - 1}")
        return ids

    def _behind(self, prompt: Prompt, target: str) -> list[int]:
        if not self.one_text:
            return list(self.tokenizer(text_target=target, verbose=False)["input_ids"])
        joint = self._encode(prompt.text + target, prompt.plain)[1]
        if joint[: len(prompt.ids)] == prompt.ids:
            return joint[len(prompt.ids) :]
        warn(
            "the tokenizer joins the prompt's end and the target's start, "
            f"{prompt.text[-12:] + '|' + target[:12]!r}, into one token: each keeps the tokens "
            "that it has alone; let the target start with its own word (and the space before it) "
            "for the tokens that the model is used to"
        )
        return self._alone(prompt, target)

    def _alone(self, prompt: Prompt, target: str) -> list[int]:
        """A target's own tokens; if possible those that spell it without a space before it.

        Sentencepiece puts a space before whatever stands first, so something else stands there.
        """
        whole = self.spelt(prompt.ids) + target
        found = []
        for before in ("", "\n", "."):
            first = self.tokenizer(before, add_special_tokens=False)["input_ids"]
            both = self.tokenizer(before + target, add_special_tokens=False)["input_ids"]
            if both[: len(first)] == first:
                found.append(list(both[len(first) :]))
        return next((ids for ids in found if self.spelt(prompt.ids + ids) == whole), found[0])

    def _encode(self, text: str, plain: bool) -> tuple[Any, list[int]]:
        """The encoding, and its ids up to the special tokens behind the text.

        A tokenizer may end a text with a special token; a target that follows the text would
        follow that. Where the tokenizer is an encoder's, it stays.
        """
        encoding = self.tokenizer(text, add_special_tokens=not plain, verbose=False)
        ids = list(encoding["input_ids"])
        if plain or not self.one_text:
            return encoding, ids
        bare = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(len(ids) - len(bare) + 1):
            if ids[start : start + len(bare)] == bare:
                return encoding, ids[: start + len(bare)]
        return encoding, ids

    def spelt(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _skipped(self, tokens: Sequence[int | str]) -> set[int]:
        if isinstance(tokens, str) or not isinstance(tokens, Iterable):
            raise TypeError(f"skip_tokens must be a list of ids or tokens, got {tokens!r}")
        wanted = [token if isinstance(token, str) else int(token) for token in tokens]
        if not wanted:
            return set()
        vocabulary = self.tokenizer.get_vocab()
        ids = set(vocabulary.values())
        for token in wanted:
            if token not in (vocabulary if isinstance(token, str) else ids):
                raise ValueError(
                    f"skip_tokens has {token!r}, which is no token of the tokenizer: spell it as "
                    "tokenizer.convert_ids_to_tokens does, or pass ids"
                )
        return {vocabulary[token] if isinstance(token, str) else token for token in wanted}

    def shown(self, ids: Sequence[int]) -> list[str]:
        """Each token as text; one that is half a character as the tokenizer spells it."""
        texts = [self.spelt([token]) for token in ids]
        pieces = self.tokenizer.convert_ids_to_tokens(list(ids))
        return [
            piece if not text or HALF_A_CHARACTER in text else text
            for text, piece in zip(texts, pieces, strict=True)
        ]


def _within(
    text: str,
    groups: Grouping,
    offsets: Sequence[tuple[int, int]],
    contents: Sequence[tuple[int, int]],
) -> Grouping:
    """The words of the contents alone; none goes from one into the next.

    A token belongs to a content if it shows any of it, the white space around it aside.
    """
    first: dict[tuple[int, int], int] = {}  # where each content's part of a word starts
    found: Grouping = []
    for position, (group, (start, end)) in enumerate(zip(groups, offsets, strict=True)):
        bare = text[start:end].strip()
        if bare:
            start += text[start:end].index(bare)
            end = start + len(bare)
        numbers = (n for n, (begin, stop) in enumerate(contents) if start < stop and end > begin)
        number = next(numbers, None)
        if group is None or number is None:
            found.append(None)
        else:
            found.append(first.setdefault((number, group), position))
    return found


def _checked_ids(given: Any, name: str) -> list[int]:
    values = given.tolist() if hasattr(given, "tolist") else given  # tensors, NumPy's arrays
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        (values,) = values  # a batch of one, as tokenizers give it
    if not isinstance(values, (list, tuple)) or not all(map(_is_id, values)):
        raise TypeError(f"{name} must be text or a sequence of ids, got {given!r}")
    return [int(value) for value in values]


def _is_id(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_one(prompt: Any) -> bool:
    """Whether it is one prompt, text or the messages of a chat, and no list of them.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(prompt, str):
        return True
    kinds = (str, list, tuple, dict)
    if not isinstance(prompt, Sequence) or not all(isinstance(one, kinds) for one in prompt):
        raise TypeError(
            "prompt must be text, the messages of a chat, or a list of such, got "
            f"{type(prompt).__name__}"
        )
    return len(prompt) > 0 and isinstance(prompt[0], dict)


def for_each(name: str, given: Any, n_prompts: int) -> list[Any]:
    """One target for all prompts (text, ids, None), or one for each of them.

    Raises:
        ValueError: for another number of them.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str)
    if not several or (given and all(map(_is_id, given))):
        return [given] * n_prompts
    if len(given) != n_prompts:
        raise ValueError(f"{name} has {len(given)} entries; wanted one, or {n_prompts}")
    return list(given)
