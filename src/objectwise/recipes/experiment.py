"""A complete experiment: what is learned, on what, and how."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import tyro
import yaml
from pydantic import Field, SerializeAsAny, create_model

from objectwise.core import Config, Dataset, UserError
from objectwise.core.files import write_text
from objectwise.core.imports import import_class, is_import_path
from objectwise.data import config_class
from objectwise.models import model_class
from objectwise.training.config import TrainingConfig


class Experiment(Config):
    """Everything that determines a run."""

    name: str
    """Name of the experiment, and of its run folder."""
    model_name: tyro.conf.Suppress[str]
    """Which model: a name of the table, or the import path package.module:Class of your own."""
    data_name: tyro.conf.Suppress[str]
    """Which data: a name of the table, or the import path package.module:Config of your own."""
    seed: int = Field(0, ge=0)
    """Seed of the weights, the order of the data and the noise."""
    out: Path | None = None
    """Run folder; None: runs/NAME-N."""
    model: SerializeAsAny[Config]
    """The model."""
    data: SerializeAsAny[Config]
    """The data."""
    training: TrainingConfig = TrainingConfig()
    """The training."""

    @classmethod
    def of(cls, name: str, model_name: str, data_name: str, **parts: Any) -> Experiment:
        """An experiment with concrete types for its model and data.

        Args:
            name: of the experiment.
            model_name: of the table, or an import path.
            data_name: of the table, or an import path.
            parts: ``model``, ``data``, ``training`` (configs or plain mappings), ``seed``, ``out``; absent ones are
                defaults.

        Raises:
            UserError: for an unknown name, a misspelt field or an impossible value.
        """
        model, data = model_config_class(model_name), data_config_class(data_name)
        concrete = cls.typed(model, data)
        values = {"name": name, "model_name": model_name, "data_name": data_name, **parts}
        for part, kind in (("model", model), ("data", data), ("training", TrainingConfig)):
            given = values.get(part, {})
            values[part] = given if isinstance(given, kind) else kind.parse(_mapping(given, part), where=part)
        return concrete.parse(values, where=name)

    @classmethod
    def typed(cls, model: type[Config], data: type[Config]) -> type[Experiment]:
        """The experiment type whose model and data fields have exactly these types, with their defaults."""
        return create_model(
            "Experiment",
            __base__=Experiment,
            model=(model, Field(description="The model.")),
            data=(data, Field(description="The data.")),
        )

    def resolved(self, dataset: Dataset) -> Self:
        """Settings that depend on the data filled in, and the two checked against each other.

        Raises:
            UserError: for images of another shape, or more objects than the model has room for.
        """
        model: Any = self.model
        if model.image_shape is None:
            model = model.replaced(image_shape=tuple(dataset.image_shape))
        self.check_fit(model, dataset)
        return self.model_copy(update={"model": model, "data": dataset.config})

    @staticmethod
    def check_fit(model: Any, dataset: Dataset) -> None:
        """Check a model's configuration against data.

        Raises:
            UserError: for images of another shape, or more objects than the model has room for.
        """
        shape = tuple(dataset.image_shape)
        if tuple(model.image_shape) != shape:
            raise UserError(
                f"the model is for images of shape {tuple(model.image_shape)} (channels, height, width), "
                f"but the data have {shape}"
            )
        room = getattr(model, "max_objects", None)
        if room is not None and dataset.max_objects is not None and dataset.max_objects > room:
            raise UserError(
                f"the data have up to {dataset.max_objects} objects but the model finds at most {room}; "
                f"give it room with {_room_flag(model)}, or choose data with fewer objects"
            )

    def build_data(self) -> Dataset:
        """The dataset."""
        data: Any = self.data
        dataset: Dataset = data.build()
        return dataset

    def build_model(self) -> Any:
        """The model, untrained; call :meth:`resolved` first."""
        return named_model_class(self.model_name)(self.model)


def _room_flag(model: Any) -> str:
    fields = type(model).model_fields
    return next((f"--model.{n.replace('_', '-')}" for n in ("num_slots", "num_steps") if n in fields), "a larger model")


def named_model_class(name: str) -> Any:
    """A model class by name or import path."""
    return import_class(name) if is_import_path(name) else model_class(name)


def model_config_class(name: str) -> type[Config]:
    """The configuration class of a model by name or import path."""
    config = getattr(named_model_class(name), "Config", None)
    if not (isinstance(config, type) and issubclass(config, Config)):
        raise UserError(f"'{name}' has no Config that derives from objectwise.core.Config")
    return config


def data_config_class(name: str) -> type[Config]:
    """The configuration class of a dataset by name or import path."""
    config = import_class(name) if is_import_path(name) else config_class(name)
    if not (isinstance(config, type) and issubclass(config, Config) and hasattr(config, "build")):
        raise UserError(
            f"'{name}' is not a configuration of data: it needs a build() and objectwise.core.Config as base"
        )
    return config


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write an experiment as YAML."""
    write_text(path, experiment_text(experiment))


def experiment_text(experiment: Experiment) -> str:
    """An experiment as YAML: the same text for the same settings."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a YAML file.

    Raises:
        UserError: if there is no such file, or it holds no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    values = _mapping(values, str(path))
    _check_keys(values, str(path))
    for key in ("recipe", "name", "model_name", "data_name"):
        if not isinstance(values.get(key, ""), str):
            raise UserError(f"{path}: {key} must be a name, not {values[key]!r}")
    return values


def _check_keys(values: dict[Any, Any], where: str) -> None:
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{where}: {key!r} is not the name of a setting")
        if isinstance(value, dict):
            _check_keys(value, where)


def _mapping(values: Any, where: str) -> dict[str, Any]:
    if isinstance(values, Config):
        raise UserError(f"{where} is a {type(values).__name__}, which belongs to another model or other data")
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a mapping of names to values, not {type(values).__name__}")
    return values


def load_experiment(path: Path, *, allowed: Collection[str | None] | None = None) -> Experiment:
    """Read an experiment that :func:`save_experiment` wrote, or that a user wrote with the same fields.

    Args:
        path: the YAML file.
        allowed: import paths that may be imported; None: all, for a file of the user's own.

    Raises:
        UserError: for a missing file, misspelt names, impossible values, or a class that is not allowed.
    """
    values = read_yaml(path)
    missing = [name for name in ("model_name", "data_name") if name not in values]
    if missing:
        raise UserError(f"{path} lacks {' and '.join(missing)} (or begin it with `recipe: NAME`)")
    for key, flag in (("model_name", "--model-class"), ("data_name", "--data-class")):
        name = str(values[key])
        if is_import_path(name) and allowed is not None and name not in allowed:
            raise UserError(
                f"{path} names a class of its own, '{name}', as {key}; pass it with {flag} to allow its import"
            )
    values.setdefault("name", path.stem)
    try:
        return Experiment.of(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
