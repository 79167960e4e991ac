"""What replaces the words of a text: one baseline or several, bound to a model's embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from captum_sig.baselines.families import Family, family

Names = str | Sequence[str]  # of one baseline or several, in `captum_sig.baselines.BASELINES`


@dataclass(frozen=True)
class ChosenBaseline:
    """A baseline, drawn several times if it is random."""

    families: tuple[Family, ...]  # for each embedding in which words move
    n_draws: int

    @property
    def name(self) -> str:
        """Its name in `BASELINES`; if "mask" fell back to another token, that token's."""
        return self.families[0].name


def chosen_baselines(
    names: Names,
    tokenizer: Any,
    embeddings: Sequence[nn.Module],
    *,
    masked_lm: Any,
    n_draws: int,
) -> tuple[ChosenBaseline, ...]:
    """Bind baselines to a tokenizer and a model's word embeddings.

    Args:
        names: one name or several.
        tokenizer: a transformers tokenizer.
        embeddings: in which words move.
        masked_lm: the masked language model that "blurred" needs.
        n_draws: number of draws of each random baseline.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if there is no name, or the same baseline twice; and as
            `captum_sig.baselines.families.family`.
    """
    if not isinstance(names, (str, list, tuple)):
        raise TypeError(f"baseline must be a name or a list of names, got {names!r}")
    several = [names] if isinstance(names, str) else list(names)
    if not several:
        raise ValueError("baseline is an empty list: name at least one, such as 'mask'")
    chosen = []
    for name in several:
        if not isinstance(name, str):
            raise TypeError(f"baseline must be a name or a list of names, got {names!r}")
        first = family(name, tokenizer, embedding=embeddings[0], masked_lm=masked_lm)
        others = [
            family(first.name, tokenizer, embedding=layer, masked_lm=masked_lm)
            for layer in embeddings[1:]
        ]
        chosen.append(ChosenBaseline((first, *others), n_draws if first.is_random else 1))
    twice = [name for name, n in Counter(one.name for one in chosen).items() if n > 1]
    if twice:
        raise ValueError(
            f"baseline {several!r} is {twice[0]!r} more than once (another token replaces one that "
            "the tokenizer lacks): name each once"
        )
    return tuple(chosen)
