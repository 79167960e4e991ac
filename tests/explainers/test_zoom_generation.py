"""Level "auto" for prompts: units, and the words of those that matter, by target token."""

import json
import random
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from captum_sig import GenerationAttribution, TextGenerationExplainer
from captum_sig.explainers.zoom_result import ZoomAttribution
from tests.tiny_language_models import bpe_tokenizer
from tests.tiny_models import spread
