"""The provenance of a figure: package version, commit, date, machine."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def machine() -> str:
    """A description of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {instructions}), torch {torch.__version__}"


def commit() -> str:
    """The commit of the checkout, with ``+`` if files other than results differ from it; ``unknown`` outside a
    checkout.
    """
    try:
        found = _git("describe", "--always", "--abbrev=10", "--exclude=*")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found + "+" * bool(changed)


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def provenance() -> dict[str, Any]:
    """The first fields of every record in benchmarks/results."""
    try:
        package = version("pyro-mfcvae")
    except PackageNotFoundError:  # a source checkout on PYTHONPATH
        package = "not installed"
    return {
        "version": package,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
    }
