"""Sequential Integrated Gradients (SIG) as a Captum plugin."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_sig import baselines, contexts, corpus, faithfulness, path, quadrature, viz, words
    from captum_sig.attr.dig import LayerDiscretizedIntegratedGradients
    from captum_sig.attr.problem import SequentialIntegral
    from captum_sig.attr.sig import (
        LayerSequentialIntegratedGradients,
        SequentialIntegratedGradients,
    )
    from captum_sig.explainers.automatic import explainer
    from captum_sig.explainers.classification import TextClassificationExplainer
    from captum_sig.explainers.fill_mask import FillMaskExplainer
    from captum_sig.explainers.generation import TextGenerationExplainer
    from captum_sig.explainers.generation_result import GenerationAttribution
    from captum_sig.explainers.matrix_results import MatrixAttribution, TargetsAttribution
    from captum_sig.explainers.question_answering import QuestionAnsweringExplainer
    from captum_sig.explainers.results import WordAttribution
    from captum_sig.explainers.similarity import SimilarityExplainer
    from captum_sig.explainers.token_classification import TokenClassificationExplainer
    from captum_sig.explainers.zero_shot import ZeroShotClassificationExplainer
    from captum_sig.explainers.zoom_result import ZoomAttribution

__all__ = [
    "FillMaskExplainer",
    "GenerationAttribution",
    "LayerDiscretizedIntegratedGradients",
    "LayerSequentialIntegratedGradients",
    "MatrixAttribution",
    "QuestionAnsweringExplainer",
    "SequentialIntegral",
    "SequentialIntegratedGradients",
    "SimilarityExplainer",
    "TargetsAttribution",
    "TextClassificationExplainer",
    "TextGenerationExplainer",
    "TokenClassificationExplainer",
    "WordAttribution",
    "ZoomAttribution",
    "ZeroShotClassificationExplainer",
    "baselines",
    "contexts",
    "corpus",
    "explainer",
    "faithfulness",
    "path",
    "quadrature",
    "viz",
    "words",
]

# Where each class or function is defined; all other public names are modules.
_MODULE_OF = {
    "FillMaskExplainer": "explainers.fill_mask",
    "GenerationAttribution": "explainers.generation_result",
    "LayerDiscretizedIntegratedGradients": "attr.dig",
    "LayerSequentialIntegratedGradients": "attr.sig",
    "MatrixAttribution": "explainers.matrix_results",
    "QuestionAnsweringExplainer": "explainers.question_answering",
    "SequentialIntegral": "attr.problem",
    "SequentialIntegratedGradients": "attr.sig",
    "SimilarityExplainer": "explainers.similarity",
    "TargetsAttribution": "explainers.matrix_results",
    "TextClassificationExplainer": "explainers.classification",
    "TextGenerationExplainer": "explainers.generation",
    "TokenClassificationExplainer": "explainers.token_classification",
    "WordAttribution": "explainers.results",
    "ZoomAttribution": "explainers.zoom_result",
    "ZeroShotClassificationExplainer": "explainers.zero_shot",
    "explainer": "explainers.automatic",
}


def __getattr__(name: str) -> Any:
    """Import a public name at first use: the command line starts without PyTorch (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("captum_sig")
    if name not in __all__:
        raise AttributeError(f"module 'captum_sig' has no attribute {name!r}")
    module = importlib.import_module(f"captum_sig.{_MODULE_OF.get(name, name)}")
    value = getattr(module, name) if name in _MODULE_OF else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
