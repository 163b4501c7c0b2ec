"""Compare the folders of two runs (see kills.py)."""

import json
from pathlib import Path
from typing import Any

from pyro_mfcvae.atomic_io import is_temporary


def differences(here: Path, there: Path) -> list[str]:
    """The differences between the files of two runs, except times."""
    found = []
    for name in ("config.toml", "model.safetensors", "groups.json"):
        found += [name] * (_bytes(here / name) != _bytes(there / name))
    found += ["checkpoint"] * (_tensors(here) != _tensors(there))
    found += ["assignments.parquet"] * (_rows(here) != _rows(there))
    found += ["metrics.jsonl"] * (_records(here / "metrics.jsonl") != _records(there / "metrics.jsonl"))
    found += ["summary.json"] * (_records(here / "summary.json") != _records(there / "summary.json"))
    found += [f"figures/{name}.png" for name in ("clusters", "curves") if not (here / f"figures/{name}.png").is_file()]
    return found


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _tensors(run: Path) -> dict[str, bytes]:
    """The tensors of the checkpoint. Its metadata have a digest of ``metrics.jsonl``, which contains times."""
    from safetensors.numpy import load_file

    path = run / "checkpoint/training.safetensors"
    return {name: array.tobytes() for name, array in load_file(path).items()} if path.is_file() else {}


def _rows(run: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    path = run / "assignments.parquet"
    return pq.read_table(path, use_threads=False).to_pylist() if path.is_file() else []


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON file, without times and names of folders."""
    if not path.is_file():
        return []
    text = path.read_text()
    records = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in record.items() if key not in _CLOCKS} for record in records]


_CLOCKS = frozenset({"seconds", "sha256", "metrics_digest"})


def leftovers(folder: Path) -> list[str]:
    """Temporary files and locks that are still there."""
    names = [
        path.name for path in folder.rglob("*") if is_temporary(path) or path.name in (".lock", "next.safetensors")
    ]
    return sorted(names)
