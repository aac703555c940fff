"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from tests.tiny_bundle import write_tiny_bundle

# No deadline: how long an example takes says more about the machine than about the code.
settings.register_profile("aitems", deadline=None)
settings.load_profile("aitems")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a bundle with random weights (tests/tiny_bundle.py); do not write into it."""
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    write_tiny_bundle(path)
    return path
