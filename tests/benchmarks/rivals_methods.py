"""Other libraries' scores of words: each a function of a model, its tokenizer and a question.

They delete words as ours do, by the baseline's token, unless the library's own way is another:
explainkit and `context-cite` leave words out of the text. Samplers take as many rows as the
question has, or the most below it that their scheme allows; the caller counts them.

R rows of a forward pass, L tokens, W words. Nothing here imports the package, so that all of it
runs in an environment that holds a rival alone.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS_AT_ONCE = 32
VISION = ("vision_transformer", "resnet", "vgg", "densenet")  # of torchvision
Scores = Sequence[float]  # (W,)


@dataclass(frozen=True)
class Question:
    """A text as a model reads it, its words, and what is explained: a class, or the next token."""

    text: str
    ids: list[int]  # (L,)
    baseline_ids: list[int]  # (L,)
    words: list[list[int]]  # the positions of each word
    spans: list[tuple[int, int]]  # characters of each word in the text
    target: int
    rows: int  # for samplers
    seed: int

    @property
    def pieces(self) -> list[str]:
        """The text cut behind each word, so that blanks go with the word that they precede."""
        ends = [0, *(end for _, end in self.spans[:-1]), len(self.text)]
        return [self.text[start:end] for start, end in itertools.pairwise(ends)]

    def word_of_position(self) -> list[int | None]:
        """The word at each position, (L,)."""
        of_position: list[int | None] = [None] * len(self.ids)
        for word, positions in enumerate(self.words):
            for position in positions:
                of_position[position] = word
        return of_position

    def sums(self, per_position: Tensor) -> Scores:
        """Sum over the tokens of each word, (L,) → (W,)."""
        return [float(per_position[positions].sum()) for positions in self.words]


@dataclass(frozen=True)
class Game:
    """The target's value with any of the words, the others at their baseline.

    That is a class' logit, or the log-probability of the next token.
    """

    model: Any
    question: Question

    def values(self, ids: Tensor) -> Tensor:
        """(R, L) → (R,)."""
        logits = self.model(input_ids=ids).logits
        if logits.dim() == 3:
            logits = logits[:, -1].log_softmax(-1)
        return logits[:, self.question.target]

    @torch.no_grad()
    def __call__(self, keeps: Any) -> NDArray[np.float64]:
        """(R, W) of True or 1 for words to keep → (R,)."""
        question = self.question
        ids, baseline = torch.tensor(question.ids), torch.tensor(question.baseline_ids)
        kept = torch.as_tensor(np.asarray(keeps), dtype=torch.bool).view(-1, len(question.words))
        shown = torch.ones(len(kept), len(ids), dtype=torch.bool)
        for word, positions in enumerate(question.words):
            shown[:, positions] = kept[:, word, None]
        rows = torch.where(shown, ids, baseline).split(ROWS_AT_ONCE)
        return torch.cat([self.values(part) for part in rows]).double().numpy()


# Samplers of a game


def captum_samples(name: str, question: Question) -> dict[str, int]:
    """How many samples take the question's rows; a permutation takes one for each word."""
    if name == "FeatureAblation":
        return {}
    n_words = len(question.words)
    permutations = max(1, (question.rows - 1) // n_words)
    return {"n_samples": permutations if name == "ShapleyValueSampling" else question.rows}


def captum_method(name: str, model: Any, _: Any, question: Question) -> Scores:
    """Captum's perturbation methods over token ids, words as features."""
    import captum.attr

    ids, baseline = torch.tensor([question.ids]), torch.tensor([question.baseline_ids])
    # special tokens are the same in both: they join a word at no cost
    mask = torch.tensor([[word or 0 for word in question.word_of_position()]])
    seed_all(question.seed)
    found = getattr(captum.attr, name)(Game(model, question).values).attribute(
        ids, baselines=baseline, feature_mask=mask, perturbations_per_eval=ROWS_AT_ONCE,
        **captum_samples(name, question),
    )  # fmt: skip
    return [float(found[0, positions[0]]) for positions in question.words]


def shap_partition(model: Any, _: Any, question: Question) -> Scores:
    """Owen values on the tree that SHAP's text masker makes of our words."""
    import shap

    def tokenize(text: str, return_offsets_mapping: bool = True) -> dict[str, Any]:
        """Our words; SHAP also asks for those of an empty text."""
        pieces, spans = (question.pieces, question.spans) if text else ([], [])
        return {"input_ids": pieces, "offset_mapping": spans}

    class Masks(shap.maskers.Text):
        """Hands on which words are kept, in place of a text without the others."""

        def __call__(self, mask: Any, text: str) -> tuple[Any, ...]:
            return (np.asarray(self._standardize_mask(mask, text), dtype=bool)[None],)

    if len(question.words) == 1:  # SHAP makes no tree of one word
        game = Game(model, question)
        return [float(game([[True]])[0] - game([[False]])[0])]
    seed_all(question.seed)
    explainer = shap.explainers.Partition(
        Game(model, question), Masks(tokenize, mask_token="…", collapse_mask_token=False)
    )
    values = explainer([question.text], max_evals=question.rows, batch_size=4, silent=True).values
    return np.ravel(values[0]).tolist()


def shapiq_method(name: str, model: Any, _: Any, question: Question) -> Scores:
    """Approximators of `shapiq` in the budget; what they do not return is 0."""
    import shapiq

    n_words, seed = len(question.words), question.seed
    approximator: Any
    if name == "ProxySPEX":
        approximator = shapiq.approximator.ProxySPEX(n=n_words, index="SV", max_order=1,
                                                     random_state=seed)  # fmt: skip
    else:
        approximator = getattr(shapiq.approximator, name)(n=n_words, random_state=seed)
    found = approximator.approximate(question.rows, Game(model, question))
    return [float(found[(word,)]) for word in range(n_words)]


def seed_all(seed: int) -> None:
    """Seed the generators of the process, from which these libraries draw."""
    torch.manual_seed(seed)
    np.random.seed(seed)


# One backward pass


def embedded(model: Any, ids: Sequence[int]) -> Tensor:  # (1, L, D)
    """What the word embedding returns."""
    with torch.no_grad():
        return model.get_input_embeddings()(torch.tensor([ids]))


def gim_scores(model: Any, _: Any, question: Question) -> Scores:
    """Gradient with `gim-explain`'s changes, times input − baseline."""
    import gim

    x = embedded(model, question.ids).requires_grad_()
    with gim.GIM(model):
        output = model(inputs_embeds=x).logits
        (output[0, -1] if output.dim() == 3 else output[0])[question.target].backward()
    per_feature = x.grad * (x - embedded(model, question.baseline_ids))
    return question.sums(per_feature.detach()[0].sum(-1))


def lxt_scores(model: Any, _: Any, question: Question) -> Scores:
    """AttnLRP by `lxt`: gradient times input of a model whose classes it has patched."""
    x = embedded(model, question.ids).requires_grad_()
    output = model(inputs_embeds=x).logits
    (output[0, -1] if output.dim() == 3 else output[0])[question.target].backward()
    return question.sums((x * x.grad).detach()[0].sum(-1))


def patch_for_lxt(model_type: str) -> None:
    """Patch the classes of a model type, before a model is loaded."""
    if importlib.util.find_spec("torchvision") is None:  # whose models have no part here
        for name in ("", ".models", *(f".models.{kind}" for kind in VISION)):
            sys.modules[f"torchvision{name}"] = MagicMock()
    from lxt.efficient import monkey_patch

    monkey_patch(importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}"))


# Libraries that take a text


def explainkit_occlusion(model: Any, tokenizer: Any, question: Question) -> Scores:
    """Word by word left out of the text, as explainkit does by default."""
    from explainkit import Explainer
    from explainkit.schema import Span

    spans = [Span(question.text[start:end], start, end) for start, end in question.spans]

    @torch.no_grad()
    def probabilities(texts: Sequence[str]) -> Any:
        parts = [
            model(**tokenizer(texts[i : i + ROWS_AT_ONCE], padding=True, return_tensors="pt"))
            for i in range(0, len(texts), ROWS_AT_ONCE)
        ]
        return torch.cat([part.logits for part in parts]).double().softmax(-1).numpy()

    found = Explainer(probabilities, lambda _: spans).explain(
        question.text, method="occlusion", target=question.target
    )
    return found.scores


def context_cite_scores(model: Any, tokenizer: Any, question: Question) -> Scores:
    """`context-cite` with words as sources, which it leaves out of the prompt."""
    from tests.benchmarks import peers

    pieces = question.pieces

    @dataclass(frozen=True)
    class Sources:
        sentences: Sequence[str]
        context: str
        query: str
        target: str

    def without(keeps: Any) -> str:
        return "".join(piece for piece, stays in zip(pieces, keeps, strict=True) if stays)

    citer = peers.context_citer(None)
    assert citer is not None
    seed_all(question.seed)
    sources = Sources(pieces, question.text, "", tokenizer.decode([question.target]))
    return [float(score) for score in citer(model, tokenizer, sources, without, question.rows)]


def captum_llm(name: str, model: Any, tokenizer: Any, question: Question) -> Scores:
    """Captum's `LLMAttribution` with words as features, replaced by the baseline's token."""
    import captum.attr

    gaps = [
        "".join(tokenizer.convert_ids_to_tokens([question.baseline_ids[p] for p in positions]))
        for positions in question.words
    ]
    given = captum.attr.TextTemplateInput(
        lambda *pieces: "".join(pieces), question.pieces, baselines=gaps
    )
    seed_all(question.seed)
    method = captum.attr.LLMAttribution(getattr(captum.attr, name)(model), tokenizer)
    found = method.attribute(
        given, target=torch.tensor([question.target]), **captum_samples(name, question)
    )
    return found.seq_attr.tolist()


def captum_llm_gradients(model: Any, tokenizer: Any, question: Question) -> Scores:
    """Captum's `LLMGradientAttribution` with `LayerIntegratedGradients`, 50 steps."""
    import captum.attr

    method = captum.attr.LLMGradientAttribution(
        captum.attr.LayerIntegratedGradients(model, model.get_input_embeddings()), tokenizer
    )
    given = captum.attr.TextTokenInput(
        question.text, tokenizer, baselines=question.baseline_ids[question.words[0][0]]
    )
    found = method.attribute(given, target=torch.tensor([question.target]), n_steps=50)
    return question.sums(found.seq_attr)


@dataclass(frozen=True)
class Rival:
    """A library's scores, and what they need."""

    scores: Callable[[Any, Any, Question], Scores]  # model, tokenizer, question → (W,)
    package: str  # to import
    version: str  # that was measured, of `distribution`
    distribution: str
    samples: bool = False  # it takes the question's rows
    gradients: bool = False
    is_slow: bool = False  # it is asked about the first texts alone
    reads_text: bool = False
    tasks: tuple[str, ...] = ("classification",)
    before_loading: Callable[[str], None] | None = None  # of a model of this type

    @property
    def is_installed(self) -> bool:
        """Whether this process can import it."""
        return importlib.util.find_spec(self.package) is not None


BOTH = ("classification", "generation")
captum_rival = partial(Rival, package="captum", version="0.9.0", distribution="captum")
shapiq_rival = partial(
    Rival, package="shapiq", version="1.4.1", distribution="shapiq", samples=True, tasks=BOTH
)

RIVALS: dict[str, Rival] = {
    "captum FeatureAblation": captum_rival(partial(captum_method, "FeatureAblation")),
    "captum ShapleyValueSampling": captum_rival(
        partial(captum_method, "ShapleyValueSampling"), samples=True
    ),
    "captum KernelShap": captum_rival(partial(captum_method, "KernelShap"), samples=True),
    "captum Lime": captum_rival(partial(captum_method, "Lime"), samples=True),
    "shap Partition": Rival(shap_partition, "shap", "0.51.0", "shap", samples=True, tasks=BOTH),
    "shapiq KernelSHAP": shapiq_rival(partial(shapiq_method, "KernelSHAP")),
    "shapiq PermutationSamplingSV": shapiq_rival(partial(shapiq_method, "PermutationSamplingSV")),
    "shapiq ProxySPEX": shapiq_rival(
        partial(shapiq_method, "ProxySPEX"), package="lightgbm", is_slow=True
    ),
    "explainkit occlusion": Rival(
        explainkit_occlusion, "explainkit", "0.2.0", "explainkit", reads_text=True
    ),
    "gim-explain": Rival(
        gim_scores, "gim", "0.1.4", "gim-explain", gradients=True, tasks=BOTH
    ),
    "lxt AttnLRP": Rival(
        lxt_scores, "lxt", "2.1", "lxt", gradients=True, tasks=BOTH, before_loading=patch_for_lxt
    ),
    "context-cite": Rival(
        context_cite_scores, "context_cite", "0.0.4", "context-cite", samples=True,
        reads_text=True, tasks=("generation",),
    ),
    **{
        f"captum LLMAttribution {name}": captum_rival(
            partial(captum_llm, name), samples=name != "FeatureAblation", tasks=("generation",)
        )
        for name in ("FeatureAblation", "ShapleyValueSampling", "KernelShap", "Lime")
    },
    "captum LLMGradientAttribution IG": captum_rival(
        captum_llm_gradients, gradients=True, tasks=("generation",)
    ),
}  # fmt: skip
