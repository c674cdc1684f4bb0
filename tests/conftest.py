"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def shared_data_folder() -> Path:
    """Where the real data for tests lies, if anywhere."""
    chosen = os.environ.get("OBJECTWISE_TEST_DATA")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data; tests that ask for it are skipped where it is absent."""
    folder = shared_data_folder()
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder.name}/ is absent (set OBJECTWISE_TEST_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("OBJECTWISE_CACHE", str(tmp_path / "cache"))
