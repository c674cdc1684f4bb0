from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from toys import settings, trained

from objectwise.training import allocator, module

GLIBC = platform.libc_ver()[0] == "glibc"

# Page faults while the same 64 MiB come and go: each new mapping faults all of its 16,384 pages, kept memory none. Aligned blocks
# leave small pieces between them until glibc's caches of those are full, so that it takes some rounds.
_FAULTS = """
import resource
import torch
from objectwise.training.allocator import keep_freed_memory

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults(1)
left = faults(2)
kept = keep_freed_memory()
faults(15)
print(left, int(kept), faults(2))
"""


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_freed_memory_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    left, kept, after = map(int, done.stdout.split())
    assert left > 2 * 16_000
    assert kept == 1
    assert after < 100


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert not allocator.keep_freed_memory()


@pytest.mark.parametrize("wanted", [True, False])
def test_training_asks_for_it_only_if_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    calls: list[int] = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: calls.append(1) or True)
    trained(tmp_path / "run", settings(1, keep_freed_memory=wanted))
    assert len(calls) == int(wanted)
