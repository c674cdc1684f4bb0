"""The tables of planted bugs keep up with the code they are planted in; `make mutants` plants them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLES = sorted((ROOT / "tests" / "mutants").glob("*.toml"))


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_every_bug_can_be_planted(table: Path) -> None:
    for mutant in tomllib.loads(table.read_text(encoding="utf-8"))["mutant"]:
        text = (ROOT / mutant["file"]).read_text(encoding="utf-8")
        assert text.count(mutant["find"]) == 1, (mutant["file"], mutant["find"])
        assert mutant["replace"] != mutant["find"]
        assert (ROOT / mutant["test"].partition("::")[0]).is_file(), mutant["test"]
