"""Images per second of every 2D generator on one thread, and two_shapes against a plain Pillow loop: JSON lines.

OMP_NUM_THREADS=1 python bench/data_2d.py
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw

from objectwise.data.multi_dsprites import MultiDspritesConfig
from objectwise.data.tetrominoes import TetrominoesConfig
from objectwise.data.two_shapes import COLORS, TwoShapesConfig
from objectwise.rendering import dsprites

BATCH, BATCHES, REPEATS = 64, 16, 5


def images_per_second(draw: Callable[[np.ndarray], object], repeats: int = REPEATS) -> tuple[float, float]:
    """Median and best over repeats of BATCHES batches of fresh images, by the processor time of this process."""
    rates = []
    draw(np.arange(BATCH))
    for repeat in range(repeats):
        start = time.process_time()
        for step in range(BATCHES):
            draw(np.arange(BATCH) + (repeat * BATCHES + step) * BATCH)
        rates.append(BATCH * BATCHES / (time.process_time() - start))
    return statistics.median(rates), max(rates)


def pillow_sample(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (64, 64, 3) and label map (64, 64) of two shapes whose boxes do not overlap, as one would write it."""
    random = np.random.default_rng(index)
    image, label = Image.new("RGB", (64, 64)), Image.new("L", (64, 64))
    placed: list[tuple[int, int, int]] = []
    while len(placed) < 2:
        size = int(random.integers(12, 21))
        x, y = (int(value) for value in random.integers(0, 64 - size, 2))
        if all(abs(x - a) > max(size, s) or abs(y - b) > max(size, s) for a, b, s in placed):
            placed.append((x, y, size))
            color, shape = list(COLORS.values())[int(random.integers(3))], int(random.integers(2))
            for canvas, fill in ((image, color), (label, len(placed))):
                pen = ImageDraw.Draw(canvas)
                (pen.ellipse if shape else pen.rectangle)((x, y, x + size, y + size), fill=fill)
    return np.array(image), np.array(label)


def pillow_lean(indices: np.ndarray) -> list[torch.Tensor]:
    """Images and label maps only, converted to tensors once per batch: the least one could ask for."""
    images, labels = zip(*(pillow_sample(int(index)) for index in indices), strict=True)
    return [torch.from_numpy(np.stack(images)).movedim(3, 1).float() / 255.0, torch.from_numpy(np.stack(labels)).long()]


def pillow_loop(indices: np.ndarray) -> list[torch.Tensor]:
    """The same record as ours (image, label map, visible pixels, boxes), one sample after the other, then stacked."""
    samples = []
    for index in indices:
        image, label = pillow_sample(int(index))
        boxes, pixels = [], []
        for entity in range(3):
            rows, columns = np.nonzero(label == entity)
            pixels.append(len(rows))
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        samples.append(
            (
                torch.from_numpy(image).permute(2, 0, 1).float() / 255.0,
                torch.from_numpy(label).long(),
                torch.tensor(pixels),
                torch.tensor(np.array(boxes), dtype=torch.float32),
            )
        )
    return [torch.stack(parts) for parts in zip(*samples, strict=True)]


def single_sprites(indices: np.ndarray) -> np.ndarray:
    """Canvases of dSprites of random factors."""
    random = np.random.default_rng(int(indices[0]))
    count = len(indices)
    factors = (random.uniform(low, high, count) for low, high in ((0.5, 1), (0, 2 * np.pi), (0, 1), (0, 1)))
    return dsprites.draw(random.integers(1, 4, count), *factors)


def measurements() -> Iterator[dict[str, object]]:
    """One row per dataset, then the ratio."""
    configs = {
        "multi_dsprites": [
            MultiDspritesConfig(variant="binarized"),
            MultiDspritesConfig(variant="colored_on_grayscale"),
            MultiDspritesConfig(variant="colored_on_colored"),
            MultiDspritesConfig(min_visible=30),
            MultiDspritesConfig(no_overlap=True),
        ],
        "tetrominoes": [TetrominoesConfig()],
        "two_shapes": [TwoShapesConfig(), TwoShapesConfig(mode="faithful"), TwoShapesConfig(image_size=32)],
    }
    median, best = images_per_second(single_sprites)
    yield {"bench": "data_2d", "what": "dsprites.draw", "images_per_s": round(median), "best": round(best)}
    for name, members in configs.items():
        for config in members:
            data = config.build()
            median, best = images_per_second(lambda indices, data=data: data.batch("train", indices))
            yield {
                "bench": "data_2d",
                "what": name,
                "settings": config.model_dump(exclude_defaults=True, mode="json"),
                "image_shape": data.image_shape,
                "images_per_s": round(median),
                "best": round(best),
            }
    scenes = TwoShapesConfig(train_size=10**6).build()
    for name, loop in (("the same record", pillow_loop), ("image and label map only", pillow_lean)):
        pairs = []  # measured in turn, so that a busy machine slows both
        for _ in range(REPEATS):
            ours, _best = images_per_second(lambda indices: scenes.batch("train", indices), repeats=2)
            pairs.append((ours, images_per_second(loop, repeats=1)[0]))
        yield {
            "bench": "data_2d",
            "what": f"two_shapes / Pillow loop, {name}",
            "ratio": round(statistics.median(ours / theirs for ours, theirs in pairs), 1),
            "loop_images_per_s": round(statistics.median(theirs for _, theirs in pairs)),
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in measurements():
        print(json.dumps(row), flush=True)
