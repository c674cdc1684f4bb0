"""Which arithmetic a run uses."""

from __future__ import annotations

import platform
from typing import Literal

import torch

Arithmetic = Literal["bf16", "float32"]


def resolve_precision(wanted: str, device_type: str) -> Arithmetic:
    """Decide ``"auto"``: bfloat16 autocast where the hardware computes in it, float32 elsewhere.

    Args:
        wanted: ``auto``, ``bf16`` or ``float32``.
        device_type: ``cpu`` or ``cuda``.
    """
    if wanted == "bf16":
        return "bf16"
    return "bf16" if wanted == "auto" and has_bf16(device_type) else "float32"


def has_bf16(device_type: str) -> bool:
    """Whether bfloat16 matrix products run in hardware: AMX or AVX512-BF16 on CPUs, Ampere and later GPUs."""
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    flags = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, flag, lambda: False)()) for flag in flags)


def hardware_class(device_type: str) -> str:
    """A short description for result files: never a host name.

    Args:
        device_type: ``cpu`` or ``cuda``.
    """
    if device_type == "cuda":
        return str(torch.cuda.get_device_name())
    extras = [
        name
        for name, flag in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported"))
        if bool(getattr(torch.cpu, flag, lambda: False)())
    ]
    kind = "+".join(extras) or torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU ({kind}), {threads} thread{'s' if threads > 1 else ''}"
