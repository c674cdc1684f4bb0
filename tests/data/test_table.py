from __future__ import annotations

import pytest

from objectwise.core import Config, Dataset, UserError
from objectwise.data import DATASETS, config_class


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_of_the_table(name: str) -> None:
    """Settings can be made without arguments; what needs none builds a dataset, the rest says what it needs."""
    config = config_class(name)()
    assert isinstance(config, Config)
    try:
        dataset = config.build()
    except UserError as error:
        assert "--data." in str(error)  # noqa: PT017
    else:
        assert isinstance(dataset, Dataset)
        assert list(dataset.splits) == ["train", "val", "test"]


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="there is no dataset 'sprits'; did you mean 'sprites'"):
        config_class("sprits")
