"""Tables of vectors whose texts need more memory than the file suggests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.errors import InputError


def test_a_text_that_is_long_in_many_rows_is_refused_before_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is tiny, because Parquet stores a text once. A NumPy array has space for the longest text in every
    row.
    """
    monkeypatch.setenv("MFCVAE_MAX_GIB", "0.01")
    table = pa.table({"a": np.zeros(30_000), "kind": ["x" * 1000] * 30_000})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=["kind"])
    (tmp_path / "a.csv").write_text("a,kind\n" + "1.5,b\n" * 1_000 + f"2.5,{'x' * 10_000}\n")
    for name in ("a.parquet", "a.csv"):
        with pytest.raises(InputError, match=rf"at most 0.01 GiB of data in \S*{name}, .*: shorten the longest text"):
            load_dataset(str(tmp_path / name))


def test_too_many_columns_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(map(str, range(100_001))) + "\n")
    with pytest.raises(InputError, match=r"expected a table of 1 to 100000 columns in \S*a.csv, got 100001: save"):
        load_dataset(str(path))


def test_a_value_that_is_not_finite_is_refused_and_its_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,inf\n3,4\n")
    with pytest.raises(InputError, match=r"^\S*a.csv: expected finite numbers, got 1 of the values"):
        load_dataset(str(path))


def test_dictionary_texts_and_missing_texts_are_labels(tmp_path: Path) -> None:
    kinds = ["b", None, "a", "b"]
    column = pa.array(kinds)
    for kind in (column, column.dictionary_encode(), column.cast(pa.large_string())):
        pq.write_table(pa.table({"x": [1.0, 2.0, 3.0, 4.0], "kind": kind}), tmp_path / "a.parquet")
        labels = load_dataset(str(tmp_path / "a.parquet")).train.labels["kind"]
        assert labels[0] == labels[3] != labels[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,a,a\n0.png,1,2\n", r"expected columns of different names in .*labels\.csv, got 'a' twice: rename one"),
        ("file" + ",a" * 1_000, r"expected a table of 1 to 1000 columns in .*labels\.csv, got 1001: save another"),
    ],
)
def test_a_table_of_labels_with_odd_columns_is_refused(tmp_path: Path, text: str, message: str) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "0.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_dataset(tmp_path)
