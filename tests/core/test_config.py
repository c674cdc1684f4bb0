from __future__ import annotations

from typing import Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from objectwise.core import Config, UserError, nearest


class Optics(Config):
    sigma: float = Field(0.3, gt=0, le=1)
    """Width."""
    kind: Literal["flat", "round"] = "flat"
    """Kind."""


class Scene(Config):
    num_slots: int = Field(4, ge=1, le=16)
    """Slots."""
    size: tuple[int, int] = (8, 8)
    """Size."""
    name: str
    """Name."""
    optics: Optics = Optics()
    """Optics."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.size[0] % 2:
            raise ValueError(f"size {self.size} must be even")
        return self


BAD = [
    ({"name": "a", "num_slot": 3}, "Scene has no 'num_slot'; did you mean 'num_slots'?"),
    ({"name": "a", "num_slots": 17}, "num_slots = 17: input should be less than or equal to 16"),
    ({"name": "a", "num_slots": 2.5}, "num_slots = 2.5: input should be a valid integer"),
    ({"name": "a", "num_slots": "many"}, "num_slots = 'many': input should be a valid integer"),
    ({}, "Scene needs 'name'"),
    ({"nmae": "a"}, "Scene has no 'nmae'; did you mean 'name'?"),
    ({"name": "a", "size": (3, 4)}, "size (3, 4) must be even"),
    ({"name": "a", "optics": {"sigma": 2}}, "sigma = 2: input should be less than or equal to 1"),
    ({"name": "a", "optics": {"sigm": 1}}, "Optics has no 'sigm'; did you mean 'sigma'?"),
    ({"name": "a", "optics": {"kind": "square"}}, "kind = 'square': input should be 'flat' or 'round'"),
    ({"name": "a", "optics": {"sigma": float("nan")}}, "sigma = nan: input should be"),
]


@pytest.mark.parametrize(("values", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_values_give_one_sentence(values: dict[str, object], sentence: str) -> None:
    for build in (lambda: Scene(**values), lambda: Scene.parse(values)):
        with pytest.raises(UserError) as caught:
            build()
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_where_is_named() -> None:
    with pytest.raises(UserError, match=r"^my\.yaml: Scene has no 'nmae'"):
        Scene.parse({"nmae": 1}, where="my.yaml")
    with pytest.raises(UserError, match=r"^my\.yaml must be a mapping of names to values, not list$"):
        Scene.parse([1], where="my.yaml")
    with pytest.raises(UserError, match=r"^Scene must be a mapping"):
        Scene.parse(None)


def test_frozen_and_replaced() -> None:
    scene = Scene(name="a")
    with pytest.raises(ValidationError):
        scene.num_slots = 5  # type: ignore[misc]
    changed = scene.replaced(num_slots=5, optics={"sigma": 0.5})
    assert (changed.num_slots, changed.optics.sigma, scene.num_slots) == (5, 0.5, 4)
    assert changed == Scene(name="a", num_slots=5, optics=Optics(sigma=0.5))
    with pytest.raises(UserError, match="did you mean 'num_slots'"):
        scene.replaced(num_slotz=5)
    with pytest.raises(UserError, match="must be even"):
        scene.replaced(size=(5, 5))


@given(slots=st.integers(1, 16), sigma=st.floats(0.01, 1), name=st.text())
def test_json_round_trip(slots: int, sigma: float, name: str) -> None:
    scene = Scene(name=name, num_slots=slots, optics=Optics(sigma=sigma))
    assert Scene.parse(scene.model_dump(mode="json")) == scene


def test_nearest() -> None:
    assert nearest("iodin", ["iodine", "monet"]) == "; did you mean 'iodine'?"
    assert nearest("xyz", ["monet", "air"]) == "; there is air, monet"
    assert nearest("xyz", []) == ""
    assert nearest("qqq", [f"field_{n}" for n in range(20)]) == ""
