import os
from pathlib import Path

import pytest
import torch

from pyro_mfcvae.data.datasets import DATASETS, Dataset, load_dataset
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.data.shapes import draw_shapes
from pyro_mfcvae.errors import InputError

needs_data = pytest.mark.skipif(
    not os.environ.get("MFCVAE_DATA"), reason="MFCVAE_DATA does not name the folder that holds the published data sets"
)


def test_the_two_splits_of_a_data_set_must_agree() -> None:
    train = Split(torch.zeros(3, 1, 2, 2), {"kind": torch.arange(3)})
    with pytest.raises(InputError, match=r"test images of shape \(1, 2, 2\) as in training, got \(1, 2, 3\)"):
        Dataset("x", train, Split(torch.zeros(3, 1, 2, 3), train.labels), DATASETS["mnist"])
    with pytest.raises(InputError, match=r"label sets \['kind'\] in the test split as in training, got \[\]"):
        Dataset("x", train, Split(train.images), DATASETS["mnist"])


def test_an_unknown_name_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"data set \(shapes, mnist, .*\.parquet file or of a folder of images, got 'mnits'"
    ):
        load_dataset("mnits")
    with pytest.raises(InputError, match=r"got '.*gone.npz', which is not there"):
        load_dataset(tmp_path / "gone.npz")
    (tmp_path / "table.xls").write_text("1,2")
    with pytest.raises(InputError, match=r"expected an .npz or .*h5.* file or a folder of images, got .*table.xls"):
        load_dataset(tmp_path / "table.xls")


def test_the_test_set_of_shapes_is_no_part_of_a_training_set() -> None:
    data = load_dataset("shapes")
    assert (len(data.train), len(data.test)) == (20_000, 4_000)
    assert data.info == DATASETS["shapes"]
    for seed in (0, 1):
        _, labels = draw_shapes(20_000, seed=seed, size=8)
        assert torch.equal(data.train.labels["hue"], labels["hue"]) == (seed == 0)
        assert not torch.equal(data.test.labels["hue"], labels["hue"][:4_000])


def test_fingerprints_differ_between_values_shapes_and_types() -> None:
    def fingerprint(images: torch.Tensor) -> str:
        return Dataset("x", Split(images), Split(images), DATASETS["mnist"]).fingerprint()

    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    changed = images.clone()
    changed[1, 0, 3, 3] = 1
    others = [changed, images.reshape(1, 1, 8, 4), images.to(torch.int8)]
    assert fingerprint(images) == fingerprint(images.clone())
    assert len({fingerprint(images), *map(fingerprint, others)}) == 4


@needs_data
@pytest.mark.parametrize(
    ("name", "num", "counts"),
    [
        ("mnist", (60_000, 10_000), {"digit": 10}),
        ("fashion_mnist", (60_000, 10_000), {"class": 10}),
        ("stickfigures", (900, 900), {"upper": 3, "lower": 3}),
        ("nrletters", (10_000, 10_000), {"letter": 6, "colour": 3, "corner": 4}),
    ],
)
def test_published_sets_agree_with_the_table(
    name: str, num: tuple[int, int], counts: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFCVAE_CACHE", str(tmp_path / "cache"))
    data = load_dataset(name)
    assert (len(data.train), len(data.test)) == num
    assert data.info == DATASETS[name]  # event shape and label names are those found in the files
    assert {key: int(label.max()) + 1 for key, label in data.train.labels.items()} == counts
