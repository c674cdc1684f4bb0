"""Flags from words."""

from __future__ import annotations

import pytest

from objectwise.cli.parsing import parse
from objectwise.core import Config, UserError


class Inner(Config):
    """Nested settings."""

    sharp: bool | None = None


class Outer(Config):
    """Settings."""

    bright: bool = True
    inner: Inner = Inner()
    name: str = "a"
    words: tuple[str, ...] = ()


def parsed(*words: str) -> Outer:
    return parse(Outer, words, program="test")


@pytest.mark.parametrize("false", ["false", "False"])
def test_truths_may_be_written_as_in_yaml(false: str) -> None:
    """In both ways of giving a value, for optional ones too; other values are left as they are."""
    assert parsed("--bright", false) == parsed(f"--bright={false}") == Outer(bright=False)
    assert parsed("--inner.sharp", false).inner.sharp is False
    assert parsed("--inner.sharp", "true", "--bright", false) == Outer(bright=False, inner=Inner(sharp=True))
    assert parsed("--inner.sharp", "None").inner.sharp is None
    assert parsed("--name", "true").name == "true"
    assert parsed("--name=false").name == "false"
    assert parsed("--bright", false, "--words", "true", "other").words == ("true", "other")


def test_other_words_are_no_truths() -> None:
    with pytest.raises(UserError, match="invalid choice 'yes' for argument '--bright'"):
        parsed("--bright", "yes")
