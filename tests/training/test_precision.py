from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import settings, trained

from objectwise.core import UserError
from objectwise.training import precision
from objectwise.training.callbacks import read_metrics
from objectwise.training.precision import hardware_class, resolve_precision


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "float32")])
def test_auto_resolves_by_the_hardware(monkeypatch: pytest.MonkeyPatch, has: bool, expected: str) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda _: has)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("float32", "cpu") == "float32"


def test_bf16_stays_close_to_float32(tmp_path: Path) -> None:
    """The same 30 steps: losses within 1 %, weights float32 and finite, and the result says which arithmetic it was."""
    losses = {}
    for kind in ("bf16", "float32"):
        model, result = trained(tmp_path / kind, settings(30, precision=kind))
        assert result.precision == kind
        assert all(p.dtype == torch.float32 for p in model.parameters())
        rows = read_metrics(tmp_path / kind / "metrics.jsonl")
        losses[kind] = sum(row["loss"] for row in rows[-6:-1]) / 5
    assert losses["bf16"] != losses["float32"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PyTorch sees no GPU here"):
        trained(tmp_path / "run", settings(1, accelerator="gpu"))


@pytest.mark.parametrize(("threads", "words"), [(1, ", 1 thread"), (2, ", 2 threads")])
def test_the_hardware_is_described_without_a_host_name(
    threads: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert "CPU" in hardware_class("cpu")
    assert hardware_class("cpu").endswith(words)
    assert socket.gethostname() not in hardware_class("cpu").split()
