"""Sequential Integrated Gradients (SIG) as a Captum plugin."""

from captum_sig import baselines, contexts, corpus, faithfulness, path, quadrature, viz, words
from captum_sig.attr.dig import LayerDiscretizedIntegratedGradients
from captum_sig.attr.problem import SequentialIntegral
from captum_sig.attr.sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.explainers.generation import TextGenerationExplainer
from captum_sig.explainers.results import GenerationAttribution, WordAttribution

__version__ = "0.1.0"

__all__ = [
    "GenerationAttribution",
    "LayerDiscretizedIntegratedGradients",
    "LayerSequentialIntegratedGradients",
    "SequentialIntegral",
    "SequentialIntegratedGradients",
    "TextClassificationExplainer",
    "TextGenerationExplainer",
    "WordAttribution",
    "baselines",
    "contexts",
    "corpus",
    "faithfulness",
    "path",
    "quadrature",
    "viz",
    "words",
]
