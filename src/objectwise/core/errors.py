"""Errors that are meant for users: one clear sentence each, exit code 2 on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot work; the message is one sentence that says what would.

    The command line prints the message and exits with code 2. It is a ``ValueError``, so that
    Python callers can treat it as one.
    """


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'num_steps'?`` or the list of choices where nothing is near.

    Args:
        name: what the user wrote.
        candidates: every name that would have been right.
    """
    names = sorted(set(candidates))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    if len(names) <= 12:
        return "; there is " + ", ".join(names) if names else ""
    return ""
