import json
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pyro_mfcvae.data.images import Split
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.planes import FacetPlane
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs import assignments
from pyro_mfcvae.runs.assignments import (
    Assigner,
    encode_thumbnails,
    read_assignments,
    write_assignments,
)
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.runs.new_items import lowest_alike


@pytest.fixture
def pair(make_pair: Callable[..., tuple]) -> MFCVAE:
    return MFCVAE(*make_pair())  # K = 3, 4 and D = 2, 3


@pytest.fixture
def grouping(pair: MFCVAE) -> Grouping:
    """Facet 0: one group; facet 1: the first two of four clusters are one group, "round"."""
    grouping = Grouping.from_trees(pair.groups(threshold=0.0)).cut(1, 1).split(1, [2]).split(1, [3])
    return grouping.cut(0, 1).rename(1, 0, "round")


@pytest.fixture
def split() -> Split:
    return Split(torch.rand(7, 1, 2, 3), {"side": torch.arange(7) % 2}, names=tuple(f"a/{i}.png" for i in range(7)))


def write(pair: MFCVAE, grouping: Grouping, split: Split, path: Path, format: str = "parquet") -> pd.DataFrame:
    num = write_assignments(Assigner(pair, grouping).rows(split, name="train"), path, format=format)
    assert num == len(split)
    return read_assignments(path) if format == "parquet" else pd.DataFrame()


def test_rows_have_the_results_of_the_pair(pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path) -> None:
    table = write(pair, grouping, split, tmp_path / "a.parquet")
    probs = [q.detach().numpy() for q in pair.assign(split.images)]
    round_ = probs[1][:, :2].sum(1)
    of_groups = np.stack([round_, probs[1][:, 2], probs[1][:, 3]], 1)
    assert table["index"].tolist() == list(range(7))
    assert table["file"].tolist() == list(split.names or ())
    assert table["label_side"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert table["facet_1_group"].tolist() == of_groups.argmax(1).tolist()
    np.testing.assert_allclose(table["facet_1_probability"], of_groups.max(1), rtol=1e-12)
    np.testing.assert_allclose(table["facet_1_second_probability"], np.sort(of_groups, 1)[:, 1], rtol=1e-12)
    assert table["facet_1_second_group"].tolist() == np.argsort(of_groups, 1)[:, 1].tolist()
    assert [("round", "group 1", "group 2")[g] for g in table["facet_1_group"]] == table["facet_1_name"].tolist()
    for _, row in table.iterrows():
        members = np.flatnonzero(grouping.labels(1) == row["facet_1_group"])
        assert row["facet_1_cluster"] == members[probs[1][row["index"], members].argmax()]
    locations = [q.mean.detach().numpy() for q in pair.encode(split.images)]
    np.testing.assert_allclose(np.stack(table["facet_0_z"]), locations[0], rtol=1e-6)
    np.testing.assert_allclose(
        table[["facet_1_x", "facet_1_y"]], FacetPlane.of(pair.priors[1]).project(locations[1]), rtol=1e-12
    )


def test_a_single_group_has_no_second(pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path) -> None:
    table = write(pair, grouping, split, tmp_path / "a.parquet")
    assert table["facet_0_second_group"].isna().all() and table["facet_0_second_probability"].isna().all()
    np.testing.assert_allclose(table["facet_0_probability"], 1.0, rtol=1e-12)


def test_pieces_are_the_whole(
    pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(pair, grouping, split, tmp_path / "a.parquet").drop(columns="evidence")
    monkeypatch.setattr(assignments, "_BATCH_SIZE", 3)
    parts = write(pair, grouping, split, tmp_path / "b.parquet").drop(columns="evidence")
    exact = ["index", "file", "facet_0_cluster", "facet_1_group"]
    pd.testing.assert_frame_equal(whole[exact], parts[exact])
    np.testing.assert_allclose(whole["facet_1_probability"], parts["facet_1_probability"], rtol=1e-12)


def test_the_same_items_have_the_same_evidence(pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    one, other = (write(pair, grouping, split, tmp_path / name)["evidence"] for name in ("a.parquet", "b.parquet"))
    assert one.tolist() == other.tolist()
    assert torch.equal(torch.get_rng_state(), state)


def test_other_groups_are_computed_from_the_file(
    pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path
) -> None:
    write(pair, grouping, split, tmp_path / "a.parquet")
    other = grouping.merge(1, [0, 2]).split(0, [1]).rename(0, 1, "odd")
    expected = write(pair, other, split, tmp_path / "b.parquet")
    regrouped = read_assignments(tmp_path / "a.parquet", grouping=other)
    pd.testing.assert_frame_equal(regrouped, expected, rtol=1e-6)
    first = read_assignments(tmp_path / "a.parquet")
    assert first["facet_1_group"].nunique() == 3 and regrouped["facet_1_group"].nunique() <= 2
    write_assignments(iter([pa.table({"facet_0_group": [0]})]), tmp_path / "old.parquet", format="parquet")
    with pytest.raises(InputError, match=r"expected q\(c \| x\) of every facet in .*, got a file of an"):
        read_assignments(tmp_path / "old.parquet", grouping=other)


def test_csv_and_json_have_the_same_rows(pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path) -> None:
    table = write(pair, grouping, split, tmp_path / "a.parquet")
    write(pair, grouping, split, tmp_path / "a.csv", "csv")
    write(pair, grouping, split, tmp_path / "a.jsonl", "jsonl")
    csv = pd.read_csv(tmp_path / "a.csv")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for key in ("file", "facet_0_cluster", "facet_1_name", "facet_1_group"):
        assert csv[key].tolist() == table[key].tolist() == [line[key] for line in lines]
    np.testing.assert_allclose(csv["facet_1_z_2"], np.stack(table["facet_1_z"])[:, 2], rtol=1e-6)
    for columns in (csv, lines[0]):
        assert not {"image", "facet_0_probs", "facet_0_probs_0"} & set(columns)


def test_thumbnails_are_png_files_with_their_path(
    pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path
) -> None:
    write(pair, grouping, split, tmp_path / "a.parquet")
    images = read_assignments(tmp_path / "a.parquet", images=True)["image"]
    assert [image["path"] for image in images] == list(split.names or ())
    pixels = np.asarray(Image.open(BytesIO(images[3]["bytes"])))
    np.testing.assert_array_equal(pixels, (split.images[3, 0] * 255).round())


@pytest.mark.parametrize(
    ("images", "mode", "size"),
    [
        (torch.zeros(2, 3, 128, 64, dtype=torch.uint8), "RGB", (32, 64)),
        (torch.zeros(2, 4, 5, 6, dtype=torch.uint8), "RGB", (6, 5)),
        (torch.full((2, 1, 5, 6), math.nan), "L", (6, 5)),
    ],
)
def test_thumbnails_fit_a_square(images: torch.Tensor, mode: str, size: tuple[int, int]) -> None:
    pictures = [Image.open(BytesIO(file)) for file in encode_thumbnails(images)]
    assert [(picture.mode, picture.size) for picture in pictures] == [(mode, size)] * 2
    if images.isnan().any():
        assert np.asarray(pictures[0]).min() == 255


def test_items_with_less_evidence_than_training_are_unlike(
    pair: MFCVAE, grouping: Grouping, split: Split, tmp_path: Path
) -> None:
    table = write(pair, grouping, split, tmp_path / "a.parquet")
    lowest = lowest_alike(tmp_path / "a.parquet")
    assert lowest == pytest.approx(np.quantile(table["evidence"], 0.001))
    rows = list(Assigner(pair, grouping, lowest=float(table["evidence"].median())).rows(split, name="new"))
    assert rows[0]["unlike"].to_pylist() == (table["evidence"] < table["evidence"].median()).tolist()
    assert lowest_alike(tmp_path / "none.parquet") == -math.inf


def test_other_formats_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the format csv, parquet, jsonl, got 'xlsx'"):
        write_assignments(iter(()), tmp_path / "a", format="xlsx")
    with pytest.raises(InputError, match=r"expected the assignments .*none.parquet, got no such file"):
        read_assignments(tmp_path / "none.parquet")
