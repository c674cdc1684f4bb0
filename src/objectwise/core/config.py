"""Configuration: frozen, validated, typed objects that live next to what they configure."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from objectwise.core.errors import UserError, nearest


class Config(BaseModel):
    """Base of every configuration object.

    Frozen, and strict about names: an unknown field is an error that names the nearest right one.
    Field docstrings become the help text of the command line.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def parse(cls, values: Any, *, where: str = "") -> Self:
        """Build from plain values (YAML, JSON).

        Args:
            values: a mapping of field names to plain values.
            where: what to call the values in an error message, e.g. a file name.

        Raises:
            UserError: in one sentence, for an unknown name, a wrong type or a value out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(first_sentence(error, cls, where)) from None

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with some fields changed.

        Raises:
            UserError: for an unknown field or an impossible value.
        """
        return type(self).parse({**dict(self), **changes}, where=type(self).__name__)


def first_sentence(error: ValidationError, cls: type[BaseModel], where: str = "") -> str:
    """The first problem pydantic found, as one sentence in the user's words.

    Args:
        error: what pydantic raised.
        cls: the configuration class that was being built.
        where: what to call the source of the values, e.g. a file name.
    """
    problem = error.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    prefix = f"{where}: " if where else ""
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        owner = _owner(cls, path[:-1])
        return f"{prefix}{owner.__name__} has no '{path[-1]}'{nearest(path[-1], owner.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message.startswith("Input") else message
    if problem["type"] in ("value_error", "missing"):
        if problem["type"] == "missing":
            message = "is required"
        return (
            f"{prefix}{name + ' ' if name and problem['type'] == 'missing' else name + ': ' if name else ''}{message}"
        )
    return f"{prefix}{name} = {problem['input']!r}: {message}"


def _owner(cls: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for part in path:
        field = cls.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        cls = field.annotation
    return cls
