"""The command line: verbs, and what happens when something goes wrong.

Nothing heavy is imported before a verb is known, so that ``objectwise --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import objectwise

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("objectwise.cli.demo:demo", "train a small model here and now, and write a report to look at"),
    "train": ("objectwise.cli.train:train", "train a recipe: train RECIPE [--data NAME] [--config FILE] [overrides]"),
    "resume": ("objectwise.cli.train:resume", "go on with a run from its newest checkpoint: resume RUN"),
    "evaluate": (
        "objectwise.cli.evaluate:evaluate",
        "score a run on held-out data: evaluate RUN [--data NAME] [--json]",
    ),
    "decompose": ("objectwise.cli.decompose:decompose", "split your own images: decompose RUN PATH... --out DIR"),
    "figures": ("objectwise.cli.evaluate:figures", "draw a run's figures and report again: figures RUN"),
    "reproduce": ("objectwise.cli.reproduce:reproduce", "run a published experiment: reproduce STUDY --scale quick"),
    "data": ("objectwise.cli.data:data", "write samples of a dataset as images and masks: data NAME --out DIR"),
    "fetch": ("objectwise.cli.data:fetch", "download a dataset, with checksums: fetch NAME"),
    "recipes": ("objectwise.cli.listing:recipes", "list the recipes"),
    "show": ("objectwise.cli.listing:show", "print every setting of a recipe as YAML: show RECIPE"),
    "models": ("objectwise.cli.listing:models", "list the models"),
}
"""Verb -> function taking the remaining arguments, and its line of help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None: those of this process.

    Returns:
        exit code: 0; 2 for bad input; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(_help())
            return 0
        if words[0] == "--version":
            print(objectwise.__version__)
            return 0
        return _run(words)
    except KeyboardInterrupt:
        print("objectwise: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    with _importing():
        from objectwise.core.errors import UserError, nearest

    warnings.showwarning = _show_warning
    try:
        if words[0] not in VERBS:
            raise UserError(f"there is no command '{words[0]}'{nearest(words[0], VERBS)}")
        module, name = VERBS[words[0]][0].split(":")
        with _importing():
            verb = getattr(importlib.import_module(module), name)
        return int(verb(words[1:]) or 0)
    except UserError as error:
        print(f"objectwise: {_one_line(error)}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Ctrl-C while libraries load ends the process here: raised inside one of them it would come out as an ImportError."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        print("objectwise: interrupted", file=sys.stderr, flush=True)
        os._exit(130)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(
        [
            "usage: objectwise COMMAND ...",
            "",
            "Learns, without labels, what the objects in images are.",
            "",
            *lines,
            "",
            "objectwise COMMAND --help tells more. Results go to --out, or to runs/.",
        ]
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
    """Our own warnings as one line; those of the libraries beneath concern us, not the user."""
    if f"{os.sep}objectwise{os.sep}" in filename:
        print(f"objectwise: warning: {' '.join(str(message).split())}", file=sys.stderr)
