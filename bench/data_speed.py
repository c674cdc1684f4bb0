"""Images per second of every dataset on one thread, one JSON line each: python bench/data_speed.py [--batch-size 64]."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from objectwise.core import Dataset
from objectwise.data.digits import DigitsConfig
from objectwise.data.folder import FolderConfig, write_folder
from objectwise.data.sprites import SpritesConfig

ROUNDS = 5


def images_per_second(dataset: Dataset, batch_size: int, seconds: float) -> float:
    """The fastest of several rounds of fresh batches of the training split, so that other work on the machine counts less."""
    size, start, best = dataset.splits["train"], 0, 0.0
    for _ in range(ROUNDS):
        began, images = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds / ROUNDS:
            dataset.batch("train", np.arange(start, start + batch_size) % size)
            start, images = start + batch_size, images + batch_size
        best = max(best, images / spent)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="per dataset")
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = DigitsConfig(source="bundled")
    with tempfile.TemporaryDirectory() as folder:
        write_folder(SpritesConfig().build(), "train", 500, Path(folder) / "sprites")
        stored = FolderConfig(root=Path(folder) / "sprites")
        datasets = {
            "digits": digits.build(),
            "digits color": digits.replaced(color="random").build(),
            "digits mnist or bundled": DigitsConfig().build(),
            "sprites": SpritesConfig().build(),
            "sprites grey": SpritesConfig(color="grey").build(),
            "sprites noise": SpritesConfig(background="noise").build(),
            "sprites grid": SpritesConfig(background="grid").build(),
            "folder kept": stored.build(),
            "folder decoded each time": stored.replaced(memory_mb=0).build(),
        }
        for name, dataset in datasets.items():
            speed = images_per_second(dataset, options.batch_size, options.seconds)
            line = {"dataset": name, "image_shape": dataset.image_shape, "batch_size": options.batch_size}
            print(json.dumps({**line, "threads": 1, "images_per_second": round(speed)}), flush=True)


if __name__ == "__main__":
    main()
