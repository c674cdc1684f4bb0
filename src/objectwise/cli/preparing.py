"""The parts of ``data`` that make data to train on: decoding official files, and rendering CLEVR scenes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from objectwise.cli.parsing import parse
from objectwise.core import UserError

_SETS = {
    "clevr": "clevr_with_masks",
    "multi_dsprites_official": "multi_dsprites",
    "tetrominoes_official": "tetrominoes",
}
"""What people call a set, or the name of the dataset that reads it -> what the decoder calls it."""


@dataclass
class DecodeArguments:
    """Decode an official TFRecord file once into memory-mapped arrays: objectwise data NAME --tfrecords FILE --out DIR.

    NAME is tetrominoes, multi_dsprites, clevr or objects_room (or an exact variant). Every checksum is verified. Interrupted, the
    same command goes on where it stopped.
    """

    tfrecords: str
    """The official file."""
    out: str
    """Folder for the arrays; must not exist yet."""
    limit: int | None = None
    """Decode only the first so many records."""
    restart: bool = False
    """Throw away what an interrupted attempt left."""


def decode_tfrecords(name: str, words: list[str]) -> int:
    """Decode an official file."""
    from objectwise.data.decoded_cache import decode

    given = parse(DecodeArguments, words, program=f"objectwise data {name}", description=str(DecodeArguments.__doc__))
    source = Path(given.tfrecords)
    if not source.is_file():
        raise UserError(f"there is no file {source}")
    with _bar(f"decoding {source.name}") as move:
        manifest = decode(
            source,
            _SETS.get(name, name),
            Path(given.out),
            progress=lambda records, share: move(share, f"{records:,} records"),
            limit=given.limit,
            restart=given.restart,
        )
    print(f"{manifest.records:,} records of {manifest.set_name} are in {given.out}", file=sys.stderr)
    print(given.out)
    return 0


@dataclass
class RenderArguments:
    """Render CLEVR scenes with masks through Blender: objectwise data clevr --render N --out DIR.

    Blender's `bpy` runs in an environment of its own, which --install makes. Images that are there already are kept, so that the
    same command goes on where it stopped; image i depends on the seed and i alone. All settings are in manifest.json.
    """

    render: int
    """How many images the folder shall hold."""
    out: str
    """Folder for the images."""
    assets: str | None = None
    """Folder with the official CLEVR assets; the download cache (objectwise fetch clevr-assets) if not given."""
    install: bool = False
    """Make Blender's environment if it is absent: about 400 MB from the package registry."""
    python: str | None = None
    """An interpreter that has bpy, instead of our environment."""


def render(words: list[str], settings_words: list[str]) -> int:
    """Render CLEVR scenes."""
    from objectwise.data.cache import cache_folder
    from objectwise.data.clevr_blender import BlenderSettings, render_clevr

    program = "objectwise data clevr --render N --out DIR"
    settings = parse(
        BlenderSettings,
        settings_words,
        program=program,
        description=str(RenderArguments.__doc__),
        default=BlenderSettings(),
    )
    given = parse(RenderArguments, words, program=program, description=str(RenderArguments.__doc__))
    if given.render < 1:
        raise UserError(f"--render {given.render}: there must be at least one image")
    with _bar("rendering") as move:
        made = render_clevr(
            Path(given.out),
            given.render,
            Path(given.assets) if given.assets else cache_folder() / "clevr-assets",
            settings,
            python=Path(given.python) if given.python else None,
            install=given.install,
            progress=lambda done, total: move(done / total, f"{done} of {total} images"),
        )
    print(f"{made} images rendered now, {given.render} in {given.out}", file=sys.stderr)
    print(given.out)
    return 0


@contextmanager
def _bar(name: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on stderr; the function it gives takes a share in [0, 1] and a text."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(name), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=1.0, text="")
        yield lambda share, text: bar.update(task, completed=share, text=text)
