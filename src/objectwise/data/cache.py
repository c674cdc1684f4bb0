"""Where downloads and decoded data live."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``OBJECTWISE_CACHE``, or the platform's cache folder for this user; not created here."""
    chosen = os.environ.get("OBJECTWISE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("objectwise"))
