"""``data`` and ``fetch``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from objectwise.cli.parsing import parse, print_json, take_option
from objectwise.cli.preparing import decode_tfrecords, render
from objectwise.core import Batch, Dataset, UserError, nearest
from objectwise.core.files import atomic_path


@dataclass
class DataArguments:
    """Write samples of a dataset as images, masks and factors, or look at some.

    objectwise data NAME --out DIR [--count N] [--split NAME] [settings] writes a folder that --data folder --data.root DIR reads
    back. objectwise data NAME --show [settings] writes NAME-sheet.png (into --out or the current folder): the first samples with
    their masks; and prints a table of the factors.

    objectwise data NAME --tfrecords FILE --out DIR decodes an official file. objectwise data clevr --render N --out DIR renders
    scenes. The dataset's settings are flags too: objectwise data NAME --help.
    """

    out: str | None = None
    """Folder for the results."""
    count: int = 100
    """Number of samples."""
    split: str = "train"
    """Split they come from."""
    show: bool = False
    """Write a contact sheet and print factor ranges instead of writing samples."""


def data(arguments: list[str]) -> int:
    """Write samples of a dataset, or look at some."""
    from objectwise.data import DATASETS
    from objectwise.recipes.experiment import data_config_class

    words = [f"--{word.removeprefix('--data.')}" if word.startswith("--data.") else word for word in arguments]
    if not words or words[0] in ("-h", "--help"):
        print(f"{DataArguments.__doc__}\ndatasets: {', '.join(DATASETS)}")
        return 0
    if words[0].startswith("-"):
        raise UserError(f"data needs a dataset first; there is {', '.join(DATASETS)}")
    name = words.pop(0)
    if _has(words, "--tfrecords"):
        return decode_tfrecords(name, words)
    if _has(words, "--render"):
        if name != "clevr":
            raise UserError(f"--render goes with clevr, not with {name}")
        own = _taken(words, ("--render", "--out", "--assets", "--python"), ("--install",))
        return render(own, words)
    kind: Any = data_config_class(name)
    chosen = _taken(words, ("--out", "--count", "--split"), ("--show",))
    program = f"objectwise data {name} --out DIR [--count N] [--split NAME] [--show]"
    settings: Any = parse(kind, words, program=program, default=kind())
    given = parse(DataArguments, chosen, program=program)
    dataset: Dataset = settings.build()
    if given.show:
        return _show(name, dataset, given)
    if given.out is None:
        raise UserError("data needs --out DIR, a folder for the results, or --show")
    from objectwise.data.folder import write_folder

    write_folder(dataset, given.split, given.count, Path(given.out))
    print(given.out)
    return 0


def _has(words: list[str], flag: str) -> bool:
    return any(word.partition("=")[0] == flag for word in words)


def _taken(words: list[str], options: tuple[str, ...], switches: tuple[str, ...]) -> list[str]:
    """Remove options with a value and switches without one from the words and return them."""
    found = [part for flag in options if (value := take_option(words, flag)) is not None for part in (flag, value)]
    for switch in switches:
        while switch in words:
            words.remove(switch)
            found.append(switch)
    return found


def _show(name: str, dataset: Dataset, given: DataArguments) -> int:
    """Contact sheet and factor table of a dataset's first samples."""
    from objectwise.figures import figure_png, samples_figure

    if given.split not in dataset.splits:
        raise UserError(f"{name} has no split '{given.split}'{nearest(given.split, dataset.splits)}")
    folder = Path(given.out or ".")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror or error}") from None
    size = dataset.splits[given.split]
    batch = dataset.batch(given.split, np.arange(min(size, max(24, given.count))))
    with atomic_path(folder / f"{name}-sheet.png") as temporary:
        temporary.write_bytes(figure_png(samples_figure(batch)))
    if hasattr(dataset, "describe"):
        print(dataset.describe())
    print(f"{name}: {size} samples of {tuple(dataset.image_shape)} in split {given.split}")
    if batch.counts is not None:
        numbers, times = np.unique(batch.counts.numpy(), return_counts=True)
        print("objects per image: " + ", ".join(f"{n} in {t}" for n, t in zip(numbers, times, strict=True)))
    for line in _factor_lines(batch):
        print(line)
    print(folder / f"{name}-sheet.png")
    return 0


def _factor_lines(batch: Batch) -> list[str]:
    """One line per factor: name, unit, declared range and the range seen."""
    lines = []
    for name, values in batch.factors.items():
        spec = batch.factor_specs[name]
        rows = values if batch.object_present is None else values[batch.object_present]
        seen = f"{rows.min().item():.3g} to {rows.max().item():.3g}" if rows.numel() else "no object"
        bounds = "no declared range" if spec.low is None and spec.high is None else f"{spec.low:g} to {spec.high:g}"
        declared = ", ".join(spec.categories) or bounds
        lines.append(f"{name:<14} {spec.unit:<10} {spec.kind:<12} {declared}; seen {seen}")
    return lines


@dataclass
class FetchArguments:
    """Download a dataset's official files into the cache, with checksums; a broken download goes on where it stopped."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the dataset."""
    out: str | None = None
    """Folder for the files; the cache (OBJECTWISE_CACHE) if not given."""
    base_url: str | None = None
    """Ask only this place, e.g. a mirror of your own."""
    json: bool = False
    """Print JSON on stdout."""


def fetch(arguments: list[str]) -> int:
    """Download a dataset."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from objectwise.data.download import fetch as fetch_files

    given = parse(FetchArguments, arguments, program="objectwise fetch", description=str(FetchArguments.__doc__))
    bar = Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    task = bar.add_task(given.name, total=None)

    def show(done: int, total: int) -> None:
        bar.start()  # only now, so that an error before the first byte is one line
        bar.update(task, completed=done, total=total)

    try:
        folder = fetch_files(
            given.name, folder=Path(given.out) if given.out else None, base_url=given.base_url, progress=show
        )
    finally:
        if bar.live.is_started:
            bar.stop()
    if given.json:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        print_json({"name": given.name, "folder": str(folder), "files": files})
    else:
        print(folder)
    print(f"{given.name} is in {folder}", file=sys.stderr)
    return 0
