"""Fixtures; no test touches the network, and none leaves global settings changed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _no_file_in_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _settings_stay_as_they_were() -> Iterator[None]:
    torch.manual_seed(0)
    before = torch.is_grad_enabled(), torch.backends.cudnn.enabled, torch.get_num_threads()
    yield
    assert (
        torch.is_grad_enabled(),
        torch.backends.cudnn.enabled,
        torch.get_num_threads(),
    ) == before


@pytest.fixture(scope="session")
def demo():
    """The demo model's explainer."""
    from captum_sig import TextClassificationExplainer
    from captum_sig.demo_model import PATH

    return TextClassificationExplainer.from_pretrained(PATH)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with a fine-tuned BERT, a GPT-2 and SST-2."""
    if not SHARED.exists():
        pytest.skip("no folder `shared` with real models and data beside the project")
    return SHARED
