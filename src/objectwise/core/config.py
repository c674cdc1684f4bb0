"""Configuration: frozen, validated, typed objects that live next to what they configure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from objectwise.core.errors import UserError, nearest


class Config(BaseModel):
    """Base of every configuration object.

    Frozen, and a value that cannot be raises :class:`UserError` in one sentence.

    Strict about names: an unknown field is an error that names the nearest right one.
    Field docstrings become the help text of the command line.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of settings of which at most one is not None, such as one quantity on two scales."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(first_sentence(error, type(self))) from None

    @classmethod
    def parse(cls, values: Any, *, where: str = "") -> Self:
        """Build from plain values (YAML, JSON).

        Args:
            values: a mapping of field names to plain values.
            where: what to call the values in an error message, e.g. a file name.

        Raises:
            UserError: in one sentence, for an unknown name, a wrong type or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise UserError(
                f"{where or cls.__name__} must be a mapping of names to values, not {type(values).__name__}"
            )
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}" if where else str(error)) from None

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with some fields changed; where a setting is given, its alternatives are set to None.

        Raises:
            UserError: for an unknown field or an impossible value.
        """
        given = [name for name, value in changes.items() if value is not None]
        return type(self).parse({**dict(self), **self.displaced(given), **changes})

    @classmethod
    def displaced(cls, given: Collection[str]) -> dict[str, None]:
        """The settings whose place those given take, each with the value None."""
        groups = [group for group in cls.alternatives if any(name in given for name in group)]
        return {name: None for group in groups for name in group if name not in given}


def first_sentence(error: ValidationError, cls: type[BaseModel]) -> str:
    """The first problem pydantic found, as one sentence in the user's words.

    Args:
        error: what pydantic raised.
        cls: the configuration class that was being built.
    """
    problems = error.errors(include_url=False)
    # A misspelt required field is both unknown and missing; only the former has a hint.
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        owner = _owner(cls, path[:-1])
        return f"{owner.__name__} has no '{path[-1]}'{nearest(path[-1], owner.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{cls.__name__} needs '{name}'"
    if problem["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _owner(cls: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for part in path:
        field = cls.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        cls = field.annotation
    return cls
