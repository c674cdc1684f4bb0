"""Datasets: one file per dataset and one per file format; this table names them all.

Adding one: its file, its test, and a line here.
"""

from __future__ import annotations

from typing import Any

from objectwise.core.imports import from_table

DATASETS: dict[str, str] = {
    "air_3d_single": "objectwise.data.table_scenes:SingleObjectConfig",
    "air_3d_table": "objectwise.data.table_scenes:TableScenesConfig",
    "balls": "objectwise.data.balls:BallsConfig",
    "clevr": "objectwise.data.clevr_folder:ClevrFolderConfig",
    "clevr_like": "objectwise.data.clevr_like:ClevrLikeConfig",
    "dsprites": "objectwise.data.dsprites:DspritesConfig",
    "dsprites_official": "objectwise.data.dsprites_official:DspritesOfficialConfig",
    "four_arm": "objectwise.data.four_arm:FourArmConfig",
    "digits": "objectwise.data.digits:DigitsConfig",
    "sprites": "objectwise.data.sprites:SpritesConfig",
    "folder": "objectwise.data.folder:FolderConfig",
    "multi_dsprites": "objectwise.data.multi_dsprites:MultiDspritesConfig",
    "tetrominoes": "objectwise.data.tetrominoes:TetrominoesConfig",
    "two_shapes": "objectwise.data.two_shapes:TwoShapesConfig",
    "tetrominoes_official": "objectwise.data.multi_object_datasets:TetrominoesOfficialConfig",
    "multi_dsprites_official": "objectwise.data.multi_object_datasets:MultiDSpritesOfficialConfig",
    "clevr_with_masks": "objectwise.data.multi_object_datasets:ClevrWithMasksConfig",
    "omniglot": "objectwise.data.omniglot:OmniglotConfig",
    "objects_room": "objectwise.data.multi_object_datasets:ObjectsRoomConfig",
}
"""Name -> configuration class; ``Config().build()`` gives the dataset."""


def config_class(name: str) -> Any:
    """The configuration class of a dataset of the table.

    Raises:
        UserError: for an unknown name, with the nearest right one.
    """
    return from_table("dataset", name, DATASETS)
