"""Prompts and targets of a language model as token ids, with the prompt's words.

*The boundary.* A prompt keeps the tokens that it has alone, since the model reads it so when it
generates. A target's tokens are those that follow the prompt's when both are tokenized as one text.
If the tokenizer merges the prompt's end and the target's start into one token, the target is
tokenized on its own, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from captum_sig._numbers import checked_integer
from captum_sig._warnings import warn
from captum_sig.words.chat import Message, render_chat
from captum_sig.words.encoding import UNITS_WITHOUT_OFFSETS, warn_of_bos
from captum_sig.words.given_units import checked_units, has_units, join_units
from captum_sig.words.grouping import Grouping, Offsets, Span, grouping_of, spans, within
from captum_sig.words.inputs import TextInput, and_advice, checked_texts, in_python, is_list
from captum_sig.words.tokenize import decode, tokenize

REPLACEMENT_CHARACTER = "\ufffd"  # decoded from a token that is part of a character


@dataclass(frozen=True)
class Prompt:
    """A prompt's tokens and words."""

    text: str
    ids: list[int]  # (P,)
    groups: Grouping  # (P,): the word of each token; None for special, template, skipped tokens
    spans: list[Span]  # the words
    plain: bool  # special tokens are part of the text, as in a chat, and are not added
    level: str  # of the words: one of `Level`, or "unit" for those of the caller
    source: TextInput  # the text, with its messages and units

    def positions(self) -> list[list[int]]:
        """Return the tokens of each word, in the order of the words."""
        of_word: dict[int | None, list[int]] = {}
        for position, word in enumerate(self.groups):
            of_word.setdefault(word, []).append(position)
        return [of_word[self.groups[span.position]] for span in self.spans]


class PromptEncoder:
    """Encodes prompts and targets with a tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        level: what moves as one: "word", "token", or a unit's.
        one_text: True if the target follows the prompt in one text (a decoder alone), False for an
            encoder's source and a decoder's target, each with its own special tokens.
    """

    def __init__(self, tokenizer: Any, level: str, one_text: bool) -> None:
        self.tokenizer = tokenizer
        grouping_of(level)  # which checks it
        self.level = level
        self.one_text = one_text

    def prompt(
        self,
        prompt: str | Sequence[Message],
        skip_tokens: Sequence[int | str] = (),
        *,
        level: str | None = None,
        units: Any = None,
    ) -> Prompt:
        """Encode a text, or the messages of a chat.

        Args:
            prompt: text, or messages with "role" and "content".
            skip_tokens: ids, or tokens as the tokenizer spells them, that are not words.
            level: in place of the encoder's.
            units: the caller's, in the text that the model reads; in place of the level's.

        Raises:
            TypeError: if the prompt is neither, or units are no spans.
            ValueError: if it has no word, a chat cannot be rendered, or units do not fit.
        """
        level = level or self.level
        contents: Offsets | None = None
        roles: tuple[str, ...] | None = None
        if isinstance(prompt, str):
            text = prompt
        else:
            text, contents = self._rendered(prompt)
            roles = tuple(message["role"] for message in prompt)
        checked_texts([text])
        if not text:
            raise ValueError("the prompt is empty: pass text with at least one word")
        plain = contents is not None or self._has_bos(text)
        encoding, ids = self._encode(text, plain)
        word_ids = encoding.word_ids(0)[: len(ids)] if self.tokenizer.is_fast else None
        offsets = encoding[0].offsets[: len(ids)] if self.tokenizer.is_fast else None
        skipped = self._skipped(skip_tokens)
        groups = grouping_of(level)(self.tokenizer, ids, word_ids, text, offsets)
        groups = [None if token in skipped else g for g, token in zip(groups, ids, strict=True)]
        if contents is not None and offsets is not None:
            groups = within(text, groups, offsets, contents)
        words = spans(self.tokenizer, text, ids, groups, offsets)
        if not words:
            raise ValueError(
                f"the prompt {text!r} has no word left to explain, only special, template and "
                "skipped tokens"
            )
        one = TextInput(text, contents=contents, roles=roles)
        if units is not None:
            one = replace(one, units=checked_units(units, one, "the prompt"))
        if has_units(one, level):
            if offsets is None:
                raise ValueError(UNITS_WITHOUT_OFFSETS)
            groups, words = join_units(one, level, groups, words, "the prompt")
        of_words = level if one.units is None or level == "auto" else "unit"
        return Prompt(text, ids, groups, words, plain, of_words, one)

    def _rendered(self, messages: Sequence[Message]) -> tuple[str, Offsets]:
        if not self.tokenizer.is_fast:
            raise ValueError(
                "a slow tokenizer keeps no offsets, so a chat's words cannot be distinguished from "
                "its template's: use a fast tokenizer, or pass the text that the model reads"
            )
        return render_chat(self.tokenizer, messages)

    def target(self, prompt: Prompt, target: Any, n_ids: int, name: str = "target") -> list[int]:
        """Encode a target given as text or ids, by the rule of the boundary.

        Args:
            prompt: the prompt that it follows.
            target: text, or ids in a sequence or tensor.
            n_ids: number of ids that the model knows.
            name: its name in error messages.

        Raises:
            TypeError, ValueError: if it is empty, or neither text nor ids of the model.
        """
        if isinstance(target, str):
            checked_texts([target])
            if not target:
                raise ValueError(f"the {name} is empty: pass at least one token, or leave it out")
            ids = self._after(prompt, target)
        else:
            ids = _checked_ids(target, name)
        if not ids:
            raise ValueError(f"the {name} has no token: pass at least one, or leave it out")
        unknown = [token for token in ids if not 0 <= token < n_ids]
        if unknown:
            raise ValueError(f"{name} id {unknown[0]} is not among the model's 0 … {n_ids - 1}")
        return ids

    def _after(self, prompt: Prompt, target: str) -> list[int]:
        if not self.one_text:
            return list(tokenize(self.tokenizer, text_target=target, verbose=False)["input_ids"])
        joint = self._encode(prompt.text + target, prompt.plain)[1]
        if joint[: len(prompt.ids)] == prompt.ids:
            return joint[len(prompt.ids) :]
        warn(
            "the tokenizer merges the prompt's end and the target's start, "
            f"{prompt.text[-12:] + '|' + target[:12]!r}, into one token: each keeps the tokens "
            "that it has alone; start the target with a word of its own (and the space before it) "
            "to get the tokens that the model is used to"
        )
        return self._alone(prompt, target)

    def _alone(self, prompt: Prompt, target: str) -> list[int]:
        """Encode a target on its own, if possible without a space before it.

        Sentencepiece adds a space before whatever comes first, so something else comes first here.
        """
        whole = self.decode(prompt.ids) + target
        candidates = []
        for before in ("", "\n", "."):
            first = tokenize(self.tokenizer, before, add_special_tokens=False)["input_ids"]
            both = tokenize(self.tokenizer, before + target, add_special_tokens=False)["input_ids"]
            if both[: len(first)] == first:
                candidates.append(list(both[len(first) :]))
        exact = (ids for ids in candidates if self.decode(prompt.ids + ids) == whole)
        return next(exact, candidates[0])

    def _encode(self, text: str, plain: bool) -> tuple[Any, list[int]]:
        """Return the encoding, and its ids without special tokens after the text.

        A tokenizer may end a text with a special token, which must not stand between prompt and
        target. An encoder's tokenizer keeps it.
        """
        encoding = tokenize(self.tokenizer, text, add_special_tokens=not plain, verbose=False)
        ids = list(encoding["input_ids"])
        if plain or not self.one_text:
            return encoding, ids
        bare = tokenize(self.tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(len(ids) - len(bare) + 1):
            if ids[start : start + len(bare)] == bare:
                return encoding, ids[: start + len(bare)]
        return encoding, ids

    def _has_bos(self, text: str) -> bool:
        """Whether a prompt begins with the token that the tokenizer adds; warn if so."""
        bos = self.tokenizer.bos_token_id
        if bos is None or not self.one_text or not text.startswith(self.tokenizer.bos_token):
            return False
        if self._encode(text, False)[1][:2] != [bos, bos]:
            return False
        if self._encode(text, True)[1][:2] == [bos, bos]:  # both are the caller's
            return False
        warn_of_bos(self.tokenizer, "the prompt begins")
        return True

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text."""
        return decode(self.tokenizer, ids)

    def _skipped(self, tokens: Sequence[int | str]) -> set[int]:
        if isinstance(tokens, str) or not isinstance(tokens, Iterable):
            raise TypeError(f"skip_tokens must be a list of ids or tokens, got {tokens!r}")
        skipped = [
            token if isinstance(token, str) else checked_integer("skip_tokens", token, least=0)
            for token in tokens
        ]
        if not skipped:
            return set()
        vocabulary = self.tokenizer.get_vocab()
        ids = set(vocabulary.values())
        for token in skipped:
            if token not in (vocabulary if isinstance(token, str) else ids):
                raise ValueError(
                    f"skip_tokens has {token!r}, which is not a token of the tokenizer: spell it "
                    "as tokenizer.convert_ids_to_tokens does, or pass ids"
                )
        return {vocabulary[token] if isinstance(token, str) else token for token in skipped}

    def labels(self, ids: Sequence[int]) -> list[str]:
        """Decode each token; a part of a character stays as the tokenizer spells it."""
        texts = [self.decode([token]) for token in ids]
        tokens = self.tokenizer.convert_ids_to_tokens(list(ids))
        return [
            token if not text or REPLACEMENT_CHARACTER in text else text
            for text, token in zip(texts, tokens, strict=True)
        ]


def _checked_ids(ids: Any, name: str) -> list[int]:
    values = in_python(ids)
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        (values,) = values  # a batch of one, as tokenizers return it
    if not isinstance(values, (list, tuple)) or not all(map(_is_id, values)):
        raise TypeError(f"{name} must be text or a sequence of ids, got {ids!r}")
    return [int(value) for value in values]


def _is_id(value: Any) -> bool:
    number = in_python(value)
    return isinstance(number, int) and not isinstance(number, bool)


def is_single_prompt(prompt: Any) -> bool:
    """Whether this is one prompt, text or the messages of a chat, and not a list of prompts.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(prompt, str):
        return True
    wanted = "prompt must be text, the messages of a chat, or a list of such"
    if not is_list(prompt):
        raise TypeError(f"{wanted}, got {and_advice(prompt)}")
    for part in prompt:
        if not isinstance(part, (str, list, dict)):
            raise TypeError(f"{wanted}, got {part!r} in a list")
    return len(prompt) > 0 and isinstance(prompt[0], dict)


def for_each_prompt(name: str, target: Any, n_prompts: int) -> list[Any]:
    """Return one target per prompt, from one for all (text, ids, None) or one for each.

    Raises:
        ValueError: for another number of targets.
    """
    several = isinstance(target, Sequence) and not isinstance(target, str)
    if not several or (target and all(map(_is_id, target))):
        return [target] * n_prompts
    if len(target) != n_prompts:
        raise ValueError(f"{name} has {len(target)} entries; wanted one, or {n_prompts}")
    return list(target)
