"""The files that fuzzers change."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import make_files


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("models"))
