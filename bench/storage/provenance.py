"""Where a number comes from: code revision, packages, hardware, threads."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "mlflow",
    "numpy",
    "scipy",
    "pandas",
    "lightning-fabric",
)


def git_revision() -> str:
    """Name the checked-out commit, with `+changes` when the tree differs; `unknown` outside git."""
    try:
        revision = _git("rev-parse", "HEAD")
        return f"{revision}+changes" if _git("status", "--porcelain") else revision
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def device_name(device: Any) -> str:
    """Name a torch device for people: a GPU by its number and model."""
    import torch

    model = f" {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{device}{model}"


@cache
def environment() -> dict[str, Any]:
    """Describe what a run was made with; no environment variables, so no secrets."""
    return {
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


@cache
def training_packages() -> str:
    """Name the packages that decide what a model learns: torch by minor version, timm whole."""
    torch_version = ".".join(_version("torch").split(".")[:2])
    return f"torch {torch_version}, timm {_version('timm')}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
