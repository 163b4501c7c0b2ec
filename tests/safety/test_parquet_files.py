from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.assignments import read_assignments, write_assignments
from pyro_mfcvae.runs.new_items import lowest_alike
from pyro_mfcvae.safety.parquet_files import check_parquet


def write(path: Path, model: str = "abc") -> Path:
    rows = pa.table({"index": np.arange(50), "evidence": np.linspace(-3.0, 2.0, 50)})
    assert write_assignments(iter([rows, rows]), path, format="parquet", model=model) == 100
    return path


def test_any_reader_reads_a_file_with_a_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    check_parquet(path, cure="")
    assert pd.read_parquet(path).equals(read_assignments(path, model="abc"))
    assert lowest_alike(path) == pytest.approx(-3.0)


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    content = write(tmp_path / "a.parquet").read_bytes()
    path = tmp_path / "b.parquet"
    generator = np.random.default_rng(0)
    for place in generator.choice(8 * len(content), 400, replace=False):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.unlink(missing_ok=True)  # ext4 waits for the disk if a file is overwritten
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="mfcvae assign RUN --format parquet writes it again"):
            read_assignments(path)
    for length in range(0, len(content), 7):
        path.unlink(missing_ok=True)
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            lowest_alike(path)


def test_assignments_of_another_model_or_program_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet for the model abd, got a file for the model 'abc': mfcvae"):
        read_assignments(path, model="abd")
    pd.DataFrame({"evidence": [1.0]}).to_parquet(path)
    with pytest.raises(InputError, match=r"expected a table that mfcvae wrote, got .*a.parquet without a checksum"):
        read_assignments(path)
