"""One tiny base for all tests of training, loaded once for reading and anew for changing."""

import pytest
import torch

from potluck.client.training.bases import Base, load, resolve
from tiny import tiny_base

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    return resolve(str(tiny_base(folder / "tiny", chat=True)), cache=folder / "cache")


@pytest.fixture
def loaded(base):
    """(model, tokenizer) in float32; each test may change the model."""
    return load(base, CPU, torch.float32)


@pytest.fixture(scope="session")
def shared(base):
    """(model, tokenizer) in float32 that no test changes."""
    return load(base, CPU, torch.float32)
