"""Tables of vectors in .csv and .parquet files, with one item per row."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mfcvae.data.images import Loaded, Split, validate_vectors
from pyro_mfcvae.data.labels import Labels, compact, read_labels
from pyro_mfcvae.data.limits import check_bytes, check_regular, reading
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    import pyarrow

LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
"""Columns of numbers with these names, or with names that start with ``label_``, are label sets, not features."""

_NAME_COLUMNS = ("", "id", "name", "file", "filename", "path", "index")
_MAX_COLUMNS = 100_000
_MAX_LABEL_SETS = 1_000
# A number takes at least two bytes as text and eight in memory; while it is copied, twice eight.
_BYTES_PER_TEXT_BYTE = 8


def read_csv(path: Path) -> Loaded:
    """Read a table of text: comma-separated, in UTF-8, with or without a first line of names."""
    from pyarrow import csv

    check_regular(path)
    check_bytes(path.stat().st_size * _BYTES_PER_TEXT_BYTE, path)
    with reading(path, "save the table again, comma-separated and in UTF-8"):
        options = csv.ReadOptions(autogenerate_column_names=not _has_names(path))
        return _split_of(csv.read_csv(path, read_options=options), path)


def read_parquet(path: Path) -> Loaded:
    """Read a Parquet table."""
    from pyarrow import parquet, types

    check_regular(path)
    with reading(path, "write the table again"):
        fields = parquet.read_schema(path)
        # One long text in a million rows is tiny in the file; as a dictionary it is also small in memory.
        texts = [field.name for field in fields if types.is_string(field.type) or types.is_large_string(field.type)]
    with reading(path, "write the table again"), parquet.ParquetFile(path, read_dictionary=texts) as file:
        metadata = file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        # A column with one repeated value is tiny in the file but takes eight bytes per row in memory.
        check_bytes(max(unpacked, 8 * metadata.num_rows * metadata.num_columns), path, packed_bytes=path.stat().st_size)
        return _split_of(file.read(), path)


def read_label_table(path: Path, names: Sequence[str]) -> Labels:
    """Read label sets from the file ``labels.csv`` in a folder of images: a column of file names, and a column per
    label set.

    Args:
        path: path of the table. Its first column that is called file, filename, path, name or id has the names of the
            images.
        names: paths of the images below the folder, in order.

    Returns:
        The label sets in the order of ``names``, with −1 (unknown) for images without a row; and a note if there are
        such images, or if no column names images.
    """
    from pyarrow import csv

    check_bytes(path.stat().st_size * _BYTES_PER_TEXT_BYTE, path)
    _first_line(path, _MAX_LABEL_SETS)
    with reading(path, "save the table again, comma-separated and in UTF-8"):
        table = csv.read_csv(path)
    if len(set(table.column_names)) < table.num_columns:
        twice = next(name for name, num in Counter(table.column_names).items() if num > 1)
        raise InputError(f"expected columns of different names in {path}, got {twice!r} twice: rename one of them")
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    files = next((name for name in columns if name and name.lower() in _NAME_COLUMNS), None)
    rows = {} if files is None else {str(file): row for row, file in enumerate(columns.pop(files))}
    found = np.array([rows.get(name, -1) for name in names])
    if not (found >= 0).any():
        return Labels(notes=[f"passed over {path}: no column names the images (call it file)"])
    labels = Labels()
    for name, values in columns.items():
        texts = _as_array(["" if value is None else str(value) for value in values], path)
        numbers = np.unique(texts[found[found >= 0]], return_inverse=True)[1]
        column = np.full(len(names), -1)
        column[found >= 0] = np.where(texts[found[found >= 0]] == "", -1, numbers)
        labels.sets[name] = torch.from_numpy(column)
    if missing := int((found < 0).sum()):
        labels.notes.append(f"{path} has no row for {missing} of {len(names)} images")
    return labels


def _has_names(path: Path) -> bool:
    """Whether the first line has names, that is, one of its entries is not a number."""
    return not all(_is_number(entry) for entry in _first_line(path, _MAX_COLUMNS).strip().split(","))


def _first_line(path: Path, max_columns: int) -> str:
    """The first line of a table of text. A table of too many columns, which takes long to read, is refused."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(10_000_000)
    if (num_columns := first.count(",") + 1) > max_columns:
        raise InputError(f"expected a table of 1 to {max_columns} columns in {path}, got {num_columns}: save another")
    return first


def _is_number(text: str) -> bool:
    try:
        float(text.strip().strip('"') or "nan")
    except ValueError:
        return False
    return True


def _split_of(table: "pyarrow.Table", path: Path) -> Loaded:
    """Make a split with one item per row. Columns of numbers are features, texts and columns named as labels are
    label sets, and notes name all other columns.
    """
    if table.num_columns > _MAX_COLUMNS or not table.num_rows:
        raise InputError(
            f"expected a table of 1 to {_MAX_COLUMNS} columns with at least one row in {path}, got {table.num_columns} "
            f"columns and {table.num_rows} rows: save another"
        )
    features: list[NDArray[Any]] = []
    labels: dict[str, NDArray[np.generic]] = {}
    notes: list[str] = []
    for number, name in enumerate(table.column_names):
        role, values = _column(name, table.column(number), path)
        if role == "feature":
            features.append(values)
        elif role == "passed over":
            notes.append(f"passed over column {name!r} of {path}, which holds neither numbers nor labels")
        else:
            labels[role if role == "names" else name] = values
    if not features:
        raise InputError(f"expected columns of numbers in {path}, got none: save the features as numbers")
    try:
        items = validate_vectors(np.stack(features, 1))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    found = read_labels(labels, len(items), path=path)
    compact(found.sets, None)
    split = Split(items, found.sets, names=found.names)
    return Loaded(split, split, (*notes, *found.notes))


def _as_array(texts: Sequence[str], path: Path) -> NDArray[Any]:
    """Texts as a NumPy array, in which each takes the space of the longest one."""
    check_bytes(4 * len(texts) * max(map(len, texts), default=0), path, advice="shorten the longest text, or ")
    return np.array(texts)


def _column(name: str, column: "pyarrow.ChunkedArray", path: Path) -> tuple[str, NDArray[Any]]:
    """The use of a column, and its values."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
        if not (types.is_string(kind) or types.is_large_string(kind)):
            column = column.cast(kind)
    is_label = name.lower() in LABEL_COLUMNS or name.lower().startswith("label_")
    is_name = name.lower() in _NAME_COLUMNS
    if types.is_string(kind) or types.is_large_string(kind):
        texts = _as_array(_texts_of(column), path)
        return ("names" if is_name else "label"), texts
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        values = column.cast(pyarrow.float64(), safe=False).to_numpy().astype(np.float64)
        if is_label:
            return "label", values
        if is_name and types.is_integer(kind):
            return "passed over", values
        return "feature", values
    return "passed over", np.zeros(0)


def _texts_of(column: "pyarrow.ChunkedArray") -> list[str]:
    """The texts of a column; equal texts of a dictionary share one string in memory."""
    texts: list[str] = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            known = [value or "" for value in chunk.dictionary.to_pylist()]
            texts += ["" if index is None else known[index] for index in chunk.indices.to_pylist()]
        else:
            texts += [value or "" for value in chunk.to_pylist()]
    return texts
