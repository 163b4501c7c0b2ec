"""Tables of vectors: .csv and .parquet files, one item a row."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.data.images import Loaded, Split, validate_vectors
from pyro_mfcvae.data.labels import compact, read_labels
from pyro_mfcvae.data.limits import check_bytes, check_regular, reading
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    import pyarrow

LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
"""Columns of numbers that are called so, or start with ``label_``, are label sets and no features."""

_NAME_COLUMNS = ("", "id", "name", "file", "filename", "path", "index")
_MAX_COLUMNS = 100_000
# A number in a text takes two bytes or more, and eight in memory, twice while it is copied.
_BYTES_PER_TEXT_BYTE = 8


def read_csv(path: Path) -> Loaded:
    """Read a table of text: comma-separated, in UTF-8, with or without a line of names."""
    from pyarrow import csv

    check_regular(path)
    check_bytes(path.stat().st_size * _BYTES_PER_TEXT_BYTE, path)
    with reading(path, "save the table again, comma-separated and in UTF-8"):
        options = csv.ReadOptions(autogenerate_column_names=not _has_names(path))
        return _split_of(csv.read_csv(path, read_options=options), path)


def read_parquet(path: Path) -> Loaded:
    """Read a Parquet table."""
    from pyarrow import parquet

    check_regular(path)
    with reading(path, "write the table again"), parquet.ParquetFile(path) as file:
        metadata = file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        # A column of one value takes next to nothing in the file, and eight bytes a row in memory.
        check_bytes(max(unpacked, 8 * metadata.num_rows * metadata.num_columns), path)
        return _split_of(file.read(), path)


def _has_names(path: Path) -> bool:
    """Whether the first line is of names: one of its entries is no number."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(10_000_000)
    return not all(_is_number(entry) for entry in first.strip().split(","))


def _is_number(text: str) -> bool:
    try:
        float(text.strip().strip('"') or "nan")
    except ValueError:
        return False
    return True


def _split_of(table: "pyarrow.Table", path: Path) -> Loaded:
    """One item a row: numbers are features; texts, and what is called a label, label sets; the rest is named."""
    if table.num_columns > _MAX_COLUMNS or not table.num_rows:
        raise InputError(
            f"expected a table of 1 to {_MAX_COLUMNS} columns with at least one row in {path}, got {table.num_columns} "
            f"columns and {table.num_rows} rows: save another"
        )
    features: list[NDArray[Any]] = []
    labels: dict[str, NDArray[np.generic]] = {}
    notes: list[str] = []
    for number, name in enumerate(table.column_names):
        role, values = _column(name, table.column(number))
        if role == "feature":
            features.append(values)
        elif role == "passed over":
            notes.append(f"passed over column {name!r} of {path}, which is no number and no label")
        else:
            labels[role if role == "names" else name] = values
    if not features:
        raise InputError(f"expected columns of numbers in {path}, got none: save the features as numbers")
    items = validate_vectors(np.stack(features, 1))
    found = read_labels(labels, len(items), path=path)
    compact(found.sets, None)
    split = Split(items, found.sets, names=found.names)
    return Loaded(split, split, (*notes, *found.notes))


def _column(name: str, column: "pyarrow.ChunkedArray") -> tuple[str, NDArray[Any]]:
    """What a column is for, and its values."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    is_label = name.lower() in LABEL_COLUMNS or name.lower().startswith("label_")
    is_name = name.lower() in _NAME_COLUMNS
    if types.is_string(kind) or types.is_large_string(kind):
        texts = np.array([value or "" for value in column.to_pylist()])
        return ("names" if is_name else "label"), texts
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        values = column.cast(pyarrow.float64(), safe=False).to_numpy().astype(np.float64)
        if is_label:
            return "label", values
        if is_name and types.is_integer(kind):
            return "passed over", values
        return "feature", values
    return "passed over", np.zeros(0)
