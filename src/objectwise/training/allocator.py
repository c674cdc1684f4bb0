"""What the C library does with memory that a training step has freed.

A training step frees and asks for the same large tensors again and again. glibc returns each to the system and has every page
of it faulted in and zeroed anew, which costs CPU trainings 10 to 40 % of their time. ``training.keep_freed_memory`` (on unless
switched off) tells glibc to keep it. The setting is one of the whole process, lasts until it ends, changes no number, and costs
as much memory as the process ever held at once.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameter numbers of <malloc.h>
_NEVER = 2**31 - 1
_AHEAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed: no separate mapping for large blocks, no trimming, growth in steps of 64 MiB.

    The environment variables ``MALLOC_MMAP_MAX_=0`` and ``MALLOC_TRIM_THRESHOLD_`` do the same from outside.

    Returns:
        whether the C library took the settings; False on others than glibc (macOS, musl), where nothing happens.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
        library.gnu_get_libc_version  # noqa: B018 - other C libraries have a mallopt that does nothing
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _AHEAD))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])
