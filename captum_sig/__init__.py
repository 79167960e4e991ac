"""Sequential Integrated Gradients (SIG) as a Captum plugin."""

from captum_sig import baselines, contexts, corpus, faithfulness, path, quadrature, viz, words
from captum_sig.attr.dig import LayerDiscretizedIntegratedGradients
from captum_sig.attr.problem import SequentialIntegral
from captum_sig.attr.sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients
from captum_sig.generation_result import GenerationAttribution
from captum_sig.llm import TextGenerationExplainer
from captum_sig.result import WordAttribution
from captum_sig.text import TextClassificationExplainer

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
