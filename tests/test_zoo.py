"""Trained models that come with the source: each is small, complete, and still does what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

import objectwise
from objectwise.recipes.runs import run_experiment
from objectwise.training.evaluation import evaluate

ZOO = Path(__file__).resolve().parents[1] / "zoo"
LEAST = {"iodine-tetrominoes": 0.8}
"""Folder -> foreground ARI that the first 32 test images have at least."""


def test_the_page_names_every_model_and_all_are_small() -> None:
    folders = sorted(path.name for path in ZOO.iterdir() if path.is_dir())
    assert folders == sorted(LEAST)
    page = (ZOO / "README.md").read_text(encoding="utf-8")
    for folder in folders:
        assert f"| `{folder}` |" in page
        files = {str(path.relative_to(ZOO / folder)) for path in (ZOO / folder).rglob("*") if path.is_file()}
        assert files == {"config.yaml", "results.json", "model/model.json", "model/model.safetensors"}
        assert sum(path.stat().st_size for path in (ZOO / folder).rglob("*")) < 4e6


@pytest.mark.parametrize("name", LEAST)
def test_trained_models_find_the_objects(name: str) -> None:
    """With today's code and today's data."""
    found = evaluate(objectwise.load(ZOO / name), run_experiment(ZOO / name).build_data(), split="test", limit=32)
    assert found.scores["foreground_ari"] >= LEAST[name]
