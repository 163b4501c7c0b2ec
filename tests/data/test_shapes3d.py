import subprocess
import sys
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from files_as_published import write_shapes3d

from pyro_mfcvae.data.datasets import DATASETS, Dataset, load_dataset
from pyro_mfcvae.data.rendered3d import FACTORS
from pyro_mfcvae.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shapes3d(folder, walls=(4, 5), objects=(6,))
    return folder


@pytest.fixture(scope="module")
def floor(folder: Path) -> Dataset:
    return load_dataset("shapes3d-floor", root=folder, seed=7)


def test_the_floor_selection_has_every_combination_once_in_a_split_of_four_to_one(floor: Dataset) -> None:
    data = floor
    assert data.info == DATASETS["shapes3d-floor"]
    assert (len(data.train), len(data.test)) == (3840, 960)
    images = torch.cat([data.train.images, data.test.images])
    assert images.shape == (4800, 3, 32, 32)
    assert (images == images[..., :1, :1]).all()  # each pixel is the mean of 2 × 2
    floor, shape, scale = (images[:, :, 0, 0].long() - 4).T
    labels = {name: torch.cat([data.train.labels[name], data.test.labels[name]]) for name in data.train.labels}
    assert torch.equal(labels["floor_hue"], floor)
    assert torch.equal(10 * labels["shape"], shape)
    combinations, counts = torch.stack([floor, shape, scale], -1).unique(dim=0, return_counts=True)
    assert len(combinations) == 10 * 4 * 8
    assert (counts == 15).all()


def test_the_split_is_that_of_numpys_legacy_generator_with_seed_0(floor: Dataset) -> None:
    """The seed of the data does not change it."""
    data = floor
    np.random.seed(0)
    train = np.random.choice(4800, 3840, replace=False)
    rows = np.array(list(product(range(10), range(8), range(4), range(15))))
    assert data.train.labels["floor_hue"].tolist() == rows[train, 0].tolist()
    assert data.test.labels["shape"].tolist() == np.delete(rows, np.sort(train), axis=0)[:, 2].tolist()


@pytest.mark.slow
def test_rendered_sets_have_the_same_labels_and_split_as_the_file(floor: Dataset) -> None:
    published, rendered = floor, load_dataset("rendered3d-floor")
    for ours, theirs in ((rendered.train, published.train), (rendered.test, published.test)):
        assert ours.images.shape == theirs.images.shape
        assert ours.labels.keys() == theirs.labels.keys()
        for name, labels in theirs.labels.items():
            assert torch.equal(ours.labels[name], labels)


@pytest.mark.slow
def test_the_wall_selection_varies_the_wall() -> None:
    data = load_dataset("rendered3d-wall")
    assert data.info == DATASETS["rendered3d-wall"]
    assert data.train.labels.keys() == {"shape", "wall_hue"}
    assert len(data.train.labels["wall_hue"].unique()) == 10


@pytest.mark.slow
def test_all_factors_vary_in_rendered3d() -> None:
    data = load_dataset("rendered3d")
    assert data.info == DATASETS["rendered3d"]
    assert {name: len(labels.unique()) for name, labels in data.test.labels.items()} == FACTORS


def test_a_missing_or_wrong_file_is_refused_with_its_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected 3dshapes.h5 in .* \(fetch 3dshapes.h5 .*3d-shapes says where"):
        load_dataset("shapes3d-wall", root=tmp_path)
    (tmp_path / "3dshapes.h5").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"3dshapes.h5: cannot read it \(.*\); fetch 3dshapes.h5"):
        load_dataset("shapes3d-wall", root=tmp_path)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((5, 8, 8, 3), np.uint8), np.zeros((5, 6))
    with pytest.raises(
        InputError, match=r"expected images \(N, 64, 64, 3\) of uint8 and labels .* got \[\(\(5, 8, 8, 3\)"
    ):
        load_dataset("shapes3d-wall", root=tmp_path)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["pictures"] = np.zeros(3)
    with pytest.raises(InputError, match=r"expected images .* got neither"):
        load_dataset("shapes3d-wall", root=tmp_path)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((5, 64, 64, 3), np.uint8), np.full((5, 6), b"0.1")
    with pytest.raises(InputError, match=r"labels \(N, 6\) of float64 in .*\(5, 6\), '\|S3'"):
        load_dataset("shapes3d-wall", root=tmp_path)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file.create_dataset("images", (10**9, 64, 64, 3), "u1", chunks=(1, 64, 64, 3))
        file.create_dataset("labels", (10**9, 6), "f8", chunks=(1_000, 6))
    with pytest.raises(InputError, match=r"expected at most 2 GiB .* got 44.7 GiB"):
        load_dataset("shapes3d-wall", root=tmp_path)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"] = h5py.ExternalLink("other.h5", "images")
    with pytest.raises(InputError, match="'images' is an external link to another file"):
        load_dataset("shapes3d-wall", root=tmp_path)


def test_a_file_without_the_selected_images_is_refused(tmp_path: Path) -> None:
    write_shapes3d(tmp_path, walls=(1,), objects=(2,))
    with pytest.raises(InputError, match=r"expected images with \{'wall_hue': 5, 'object_hue': 6\}"):
        load_dataset("shapes3d-floor", root=tmp_path)


@pytest.mark.slow
def test_the_file_is_never_in_memory_as_a_whole(folder: Path) -> None:
    """The file has 19,200 images (236 MB). Reading the 4,800 selected images (15 MB) must need less than 150 MB of
    memory.
    """
    program = """
import resource, sys
from pathlib import Path
import h5py, torch
from pyro_mfcvae.data.catalogue import FLOOR
from pyro_mfcvae.data.shapes3d import read_shapes3d
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_shapes3d(FLOOR, Path(sys.argv[1]), 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(result.stdout) * unit < 150e6
