from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import TINY, Run, make_images, names, save_data
from PIL import Image
from small_runs import replace_assignments

from pyro_mfcvae.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("place")


def make_photos(folder: Path, num: int = 40) -> Path:
    for i, pixels in enumerate(make_images(num)):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.usefixtures("fitted")
def test_every_item_of_a_run_is_assigned(mfcvae: Run) -> None:
    code, out, err = mfcvae("assign", "run")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "80 items of data: run/assignments.csv"
    table = pd.read_csv("run/assignments.csv")
    kept = pd.read_parquet("run/assignments.parquet")
    assert len(table) == 80
    assert table["facet_1_cluster"].tolist() == kept["facet_1_cluster"].tolist()
    assert "unlike" not in table
    num_groups = RunFolder(Path("run")).read_grouping().num_groups
    assert [table[f"facet_{j}_group"].nunique() <= num_groups[j] for j in range(2)] == [True, True]


def test_photos_are_named_and_sorted_and_strange_ones_are_distinguished(mfcvae: Run, place: Path) -> None:
    make_photos(place / "photos")
    assert mfcvae("fit", "--data", "photos", "--out", "run", "--set", *TINY)[0] == 0
    run = RunFolder(Path("run"))
    run.write_grouping(run.read_grouping().cut(0, 1).rename(0, 0, "all of them"))
    code, out, err = mfcvae("assign", "run", "--sort-into", "sorted", "--link")
    assert (code, err) == (0, "")
    assert "facet 0: all of them 40" in out
    assert names(Path("sorted")) == {"facet-0", "facet-1"}
    assert names(Path("sorted/facet-0")) == {"group-0-all_of_them"}
    linked = Path("sorted/facet-0/group-0-all_of_them/a-00.png")
    assert linked.is_symlink() and linked.resolve() == place / "photos" / "a" / "00.png"
    assert sum(len(names(group)) for group in Path("sorted/facet-1").iterdir()) == 40

    new = make_photos(place / "new", num=4)
    Image.fromarray(np.tile(np.uint8([0, 255]), (6, 3))).save(new / "a" / "stripes.png")
    kept = pd.read_parquet("run/assignments.parquet")
    kept["evidence"] = 1e6  # as if the run had described its items very well
    replace_assignments(run, kept)
    code, out, err = mfcvae("assign", "run", "new", "--format", "jsonl", "--sort-into", "distinguished")
    assert (code, err) == (0, "")
    assert "5 items of new: run/assignments-new.jsonl" in out
    assert "Unlike the training items, so do not rely on their groups: a/00.png, a/02.png, a/stripes.png, b/01" in out
    assert names(Path("distinguished")) == {"unlike"}
    assert "b-03.png" in names(Path("distinguished/unlike"))


@pytest.mark.usefixtures("fitted")
def test_items_of_arrays_are_sorted_as_png_files(mfcvae: Run) -> None:
    assert mfcvae("assign", "run", "--sort-into", "sorted")[0] == 0
    files = sorted(Path("sorted/facet-0").rglob("*.png"))
    assert len(files) == 80
    run = RunFolder(Path("run"))
    run.write_grouping(run.read_grouping().cut(0, 1).rename(0, 0, "../../../../up").cut(1, 1).rename(1, 0, ".."))
    before = names(Path(".."))
    assert mfcvae("assign", "run", "--sort-into", "inside")[0] == 0
    assert names(Path("inside/facet-0")) == {"group-0-_.._.._.._up"}
    assert names(Path("inside/facet-1")) == {"group-0-"} and names(Path("..")) == before
    shown = next(file for file in files if file.name == "train-7.png")
    np.testing.assert_array_equal(np.asarray(Image.open(shown)), make_images()[7])


@pytest.mark.usefixtures("fitted")
def test_invalid_data_and_options_of_assign_are_refused(mfcvae: Run) -> None:
    save_data(Path("wide.npz"), make_images(size=7))
    assert mfcvae("assign", "run", "wide.npz")[0] == 0  # they are resized to the size of the run's images
    Path("full").mkdir()
    Path("full/x").touch()
    code, _, err = mfcvae("assign", "run", "--sort-into", "full")
    assert (code, err) == (2, "mfcvae: expected --sort-into a new or empty folder, got full: choose another one\n")
    code, _, err = mfcvae("assign", "run", "--sort-into", "new", "--link")
    assert (code, "expected image files to link to, got an array" in err) == (2, True)
