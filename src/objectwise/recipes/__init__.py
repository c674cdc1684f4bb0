"""Complete experiments by name.

Adding one: a function that returns an :class:`Experiment`, and its line in the table. The first line of its docstring
is what ``objectwise recipes`` shows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args, get_type_hints

from objectwise.core import UserError
from objectwise.core.imports import from_table, is_import_path

if TYPE_CHECKING:
    from objectwise.recipes.experiment import Experiment

RECIPES: dict[str, str] = {
    "air-digits": "objectwise.recipes.air:air_digits",
    "dair-digits": "objectwise.recipes.air:dair_digits",
    "air-omniglot": "objectwise.recipes.air:air_omniglot",
    "air-sprites": "objectwise.recipes.air:air_sprites",
    "dair-sprites": "objectwise.recipes.air:dair_sprites",
    "air": "objectwise.recipes.air:air",
    "dair": "objectwise.recipes.air:dair",
    "air-3d-single": "objectwise.recipes.air_3d:air_3d_single",
    "air-3d-table": "objectwise.recipes.air_3d:air_3d_table",
    "beta-vae-balls": "objectwise.recipes.beta_vae:beta_vae_balls",
    "beta-vae-dsprites": "objectwise.recipes.beta_vae:beta_vae_dsprites",
    "beta-vae": "objectwise.recipes.beta_vae:beta_vae",
    "iodine-tetrominoes": "objectwise.recipes.iodine:iodine_tetrominoes",
    "iodine-multi-dsprites": "objectwise.recipes.iodine:iodine_multi_dsprites",
    "iodine-clevr6": "objectwise.recipes.iodine:iodine_clevr6",
    "iodine": "objectwise.recipes.iodine:iodine",
    "monet-two-shapes": "objectwise.recipes.monet:monet_two_shapes",
    "monet-multi-dsprites": "objectwise.recipes.monet:monet_multi_dsprites",
    "monet-objects-room": "objectwise.recipes.monet:monet_objects_room",
    "monet-clevr6": "objectwise.recipes.monet:monet_clevr6",
    "monet": "objectwise.recipes.monet:monet",
    "iterative-vae-mnist": "objectwise.recipes.iterative_vae:iterative_vae_mnist",
    "standard-vae-mnist": "objectwise.recipes.iterative_vae:standard_vae_mnist",
    "iterative-vae": "objectwise.recipes.iterative_vae:iterative_vae",
    "vae-digits": "objectwise.recipes.vae:vae_digits",
    "vae": "objectwise.recipes.vae:vae",
}
"""Name -> function. A recipe named after a model alone takes any data: ``--data NAME``."""


def recipe_function(name: str) -> Callable[..., Experiment]:
    """The function of a recipe.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    function: Callable[..., Experiment] = from_table("recipe", name, RECIPES)
    return function


def preset_names(name: str) -> tuple[str, ...]:
    """The sets of settings a recipe has, its default first; none for most.

    Raises:
        UserError: for an unknown name.
    """
    function = recipe_function(name)
    parameter = inspect.signature(function).parameters.get("preset")
    if parameter is None:
        return ()
    names: tuple[str, ...] = get_args(get_type_hints(function)["preset"])
    return (parameter.default, *(other for other in names if other != parameter.default))


def recipe(name: str, data_name: str | None = None, preset: str | None = None) -> Experiment:
    """A complete experiment.

    Args:
        name: of the table, or the import path ``package.module:Class`` of a model of the user's own.
        data_name: other data than the recipe's, by name or import path, with their defaults.
        preset: which of the recipe's sets of settings, e.g. ``paper``; None: the recipe's default.

    Raises:
        UserError: for an unknown name or preset, or a model of one's own without data.
    """
    from objectwise.recipes.experiment import Experiment

    if is_import_path(name):
        if preset is not None:
            raise UserError(f"a model of your own has no presets, so --preset {preset} says nothing")
        if data_name is None:
            raise UserError(f"say what '{name}' is to be trained on with --data NAME")
        return Experiment.of(name.partition(":")[2].lower(), name, data_name)
    function = recipe_function(name)
    if preset is not None and not preset_names(name):
        raise UserError(f"{name} has no presets")
    experiment = function() if preset is None else function(preset)
    if data_name is None or data_name == experiment.data_name:
        return experiment
    return Experiment.of(
        name,
        experiment.model_name,
        data_name,
        model=experiment.model,
        training=experiment.training,
        seed=experiment.seed,
    )
