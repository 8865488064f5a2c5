"""Where a result came from: versions, source commit, machine and devices, for a run's `environment.json`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("londi", "torch", "transformers", "tokenizers", "gymnasium", "minigrid", "numpy", "scipy")


def describe(devices: Iterable[str] = ("cpu",)) -> dict[str, Any]:
    """Return versions, commit, machine, and what each of `devices` (torch names) is."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": sys.version.split()[0],
        "packages": packages,
        "commit": commit(Path(__file__).parent),
        "machine": {"system": platform.system(), "processor": _processor(), "cpus": os.cpu_count()},
        "devices": {device: _device(device) for device in sorted(set(devices))},
    }


def commit(folder: Path) -> str | None:
    """Return the commit of the checkout that `folder` belongs to, `-dirty` where tracked files differ from it.

    None where it belongs to none, as in an installed package.
    """
    try:
        if not _git(folder, "ls-files", "."):
            return None
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
        return _git(folder, "rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _device(name: str) -> str:
    if not name.startswith("cuda"):
        return _processor() if name == "cpu" else name
    import torch

    try:
        return torch.cuda.get_device_name(name)
    except (RuntimeError, AssertionError):
        return "not available"
