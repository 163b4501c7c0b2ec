import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pyro_mfcvae.data.datasets import DATASETS, Dataset, load_dataset
from pyro_mfcvae.data.images import Split, as_float, check_complete, validate_images
from pyro_mfcvae.data.shapes import draw_shapes
from pyro_mfcvae.errors import InputError

needs_data = pytest.mark.skipif(
    not os.environ.get("MFCVAE_DATA"), reason="MFCVAE_DATA does not name the folder that holds the published data sets"
)


def grey(num: int = 3, size: int = 4) -> NDArray[np.uint8]:
    return np.arange(num * size * size, dtype=np.uint8).reshape(num, size, size)


# --- images in memory -----------------------------------------------------------------------------------------------


def test_as_float_scales_bytes_and_passes_floats() -> None:
    assert torch.equal(as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0.0, 0.2, 1.0]))
    half = torch.tensor([0.5], dtype=torch.float16)
    assert as_float(half) is half


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5, 6), (2, 1, 5, 6)),
        ((2, 3, 5, 6), (2, 3, 5, 6)),
        ((2, 5, 6, 3), (2, 3, 5, 6)),
        ((2, 3, 6, 3), (2, 3, 6, 3)),
    ],
)
def test_images_come_out_channels_first(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert validate_images(torch.zeros(shape)).shape == expected


def test_channels_last_are_moved_not_reshaped() -> None:
    images = np.random.default_rng(0).random((2, 5, 6, 3))
    assert torch.equal(validate_images(images)[1, 2], torch.tensor(images[1, :, :, 2]).to(torch.get_default_dtype()))


def test_bytes_stay_bytes_and_floats_take_the_default_dtype() -> None:
    assert validate_images(grey()).dtype == torch.uint8
    assert validate_images(np.ones((1, 2, 2), dtype=np.float16)).dtype == torch.get_default_dtype()


def test_arrays_that_torch_refuses_are_taken() -> None:
    turned = np.array([[[0.0, 0.25], [0.5, 1.0]]], dtype=">f4")[:, ::-1]
    turned.flags.writeable = False
    assert torch.equal(validate_images(turned), torch.tensor([[[[0.5, 1.0], [0.0, 0.25]]]]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3)), r"shape \(N, H, W\).* got \(2, 3\)"),
        (np.zeros((2, 5, 6, 7)), r"1, 3 or 4 channels in axis 1 or 3, got images of shape \(2, 5, 6, 7\)"),
        (np.zeros((0, 5, 6)), r"at least one image .*\(0, 5, 6\)"),
        (np.zeros((2, 5, 6), dtype=np.int64), "uint8 or floats, got int64"),
        (torch.eye(5, 6, dtype=torch.uint8)[None], r"expected bytes 0\.\.255, got none above 1, which is black: multi"),
        (np.full((2, 5, 6), 255.0), r"in \[0, 1\], got values from 255 to 255; rescale"),
        (np.linspace(-0.5, 1, 8).reshape(2, 2, 2), "values from -0.5 to 1"),
    ],
)
def test_what_is_no_image_is_refused(images: NDArray[np.generic], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate_images(images)


@pytest.mark.parametrize("of", [np.asarray, torch.as_tensor])
def test_truth_is_white(of: Callable[[Any], Any]) -> None:
    images = validate_images(of(np.eye(4, dtype=bool)[None]))
    assert images.dtype == torch.uint8
    assert torch.equal(images[0, 0], 255 * torch.eye(4, dtype=torch.uint8))


def test_values_that_are_not_finite_are_counted_and_placed() -> None:
    images = torch.zeros(4, 3, 3)
    images[2, 0, :2] = torch.inf
    images[3, 1, 1] = -torch.inf
    with pytest.raises(InputError, match="expected finite pixels, got 3 of the values, the first in image 2; remove"):
        validate_images(images)


def test_missing_pixels_pass_and_are_found_where_nobody_expects_them() -> None:
    images = torch.zeros(4, 3, 3)
    images[1, 0, :2] = torch.nan
    valid = validate_images(images)
    assert valid.isnan().sum() == 2
    with pytest.raises(InputError, match="expected no missing pixels, got NaN for 2 of the values, the first in"):
        check_complete(valid)
    check_complete(valid[2:])
    check_complete(torch.zeros(2, 1, 3, 3, dtype=torch.uint8))


def test_a_split_wants_one_label_per_image() -> None:
    assert len(Split(torch.zeros(3, 1, 2, 2), {"kind": torch.arange(3)})) == 3
    with pytest.raises(InputError, match=r"one 'kind' label for each of 3 images, got labels of shape \(4,\)"):
        Split(torch.zeros(3, 1, 2, 2), {"kind": torch.arange(4)})


def test_a_split_wants_one_name_per_image() -> None:
    with pytest.raises(InputError, match="expected a name for each of 3 images, got 2"):
        Split(torch.zeros(3, 1, 2, 2), names=("a", "b"))


def test_a_label_set_labels_something() -> None:
    assert Split(torch.zeros(2, 1, 2, 2), {"kind": torch.tensor([-1, 0])}).labels
    with pytest.raises(InputError, match="'kind' to label at least one image, but every label is negative"):
        Split(torch.zeros(2, 1, 2, 2), {"kind": torch.tensor([-1, -1])})


def test_the_two_splits_of_a_data_set_must_agree() -> None:
    train = Split(torch.zeros(3, 1, 2, 2), {"kind": torch.arange(3)})
    with pytest.raises(InputError, match=r"test images of shape \(1, 2, 2\) as in training, got \(1, 2, 3\)"):
        Dataset("x", train, Split(torch.zeros(3, 1, 2, 3), train.labels), DATASETS["mnist"])
    with pytest.raises(InputError, match=r"label sets \['kind'\] in the test split as in training, got \[\]"):
        Dataset("x", train, Split(train.images), DATASETS["mnist"])


# --- npz files ------------------------------------------------------------------------------------------------------


def test_npz_without_test_arrays_scores_on_the_training_items(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, images=grey(), kind=np.array([2, 0, 1], dtype=np.int16), weight=np.ones(3) / 2)
    data = load_dataset(path)
    assert data.name == data.info.name == "mine"
    assert data.test is data.train
    assert data.event_shape == data.info.event_shape == (1, 4, 4)
    assert data.info.label_names == ("kind",)  # other floats are no labels
    assert data.info.likelihood is None
    assert torch.equal(data.train.labels["kind"], torch.tensor([2, 0, 1]))
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(grey()))


def test_texts_and_truths_are_labels(tmp_path: Path) -> None:
    """Texts have the same numbers in both splits, even where one does not have them all."""
    path = tmp_path / "a.npz"
    kinds = {"kind": np.array(["cat", "ant", "dog"]), "test_kind": np.array(["dog", "cat"])}
    truths = {"is_big": np.array([True, False, True]), "test_is_big": np.array([False, False])}
    np.savez(path, images=grey(3), test_images=grey(2), **kinds, **truths)
    data = load_dataset(path)
    labels = [{name: values.tolist() for name, values in split.labels.items()} for split in (data.train, data.test)]
    assert labels == [{"kind": [1, 0, 2], "is_big": [1, 0, 1]}, {"kind": [2, 1], "is_big": [0, 0]}]


def test_npz_with_test_arrays_has_a_split_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=grey(3), y=np.arange(3), test_x=grey(2), test_y=np.array([7, 8]))
    data = load_dataset(str(path))
    assert (len(data.train), len(data.test)) == (3, 2)
    assert torch.equal(data.test.labels["y"], torch.tensor([7, 8]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": grey(), "y": np.arange(3)}, r"'images' or 'x' in .*mine.npz, which has pixels, y"),
        ({"x": grey(), "test_y": np.arange(3)}, "'test_images' or 'test_x'"),
        ({"x": grey(), "y": np.arange(4)}, r"mine.npz, array 'x': expected one 'y' label for each of 3 images"),
        ({"x": grey(), "test_x": grey(size=5)}, r"test images of shape \(1, 4, 4\) as in training, got \(1, 5, 5\)"),
        ({"x": np.full((1, 2, 2), np.inf)}, "mine.npz, array 'x': expected finite pixels, got 4 of"),
        ({"x": grey(), "note": np.array([{"a": 1}], dtype=object)}, "array 'note' in .* holds Python objects"),
    ],
)
def test_npz_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, NDArray[np.generic]], message: str) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(InputError, match=message):
        load_dataset(path)


def test_npz_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_text("no zip file")
    with pytest.raises(InputError, match=r"expected an .npz file as np.savez writes it, but .*mine.npz is not one"):
        load_dataset(path)
    np.savez(path, x=grey())
    broken = bytearray(path.read_bytes())
    broken[150] ^= 0xFF  # one pixel, so that the checksum fails
    path.write_bytes(broken)
    with pytest.raises(InputError, match=r"cannot read array 'x' in .*mine.npz"):
        load_dataset(path)


# --- folders of images ----------------------------------------------------------------------------------------------


def test_folder_is_read_in_sorted_order_and_sub_folders_are_a_label(tmp_path: Path) -> None:
    for name, value in {"b/2.png": 40, "a/1.PNG": 10, "b/1.png": 30, "a/deep/0.png": 20}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 5), value, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b" / ".hidden.png").write_text("passed over")
    (tmp_path / "notes.txt").write_text("passed over")
    data = load_dataset(tmp_path)
    assert data.event_shape == (1, 3, 5)
    assert data.train.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert data.train.labels["folder"].tolist() == [0, 0, 1, 1]
    assert data.test is data.train
    assert data.train.names == ("a/1.PNG", "a/deep/0.png", "b/1.png", "b/2.png")


def test_one_coloured_file_makes_the_folder_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 5), 7, dtype=np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(np.full((3, 5, 3), (1, 2, 3), dtype=np.uint8)).save(tmp_path / "2.png")
    data = load_dataset(tmp_path)
    assert data.event_shape == (3, 3, 5)
    assert data.train.images[:, :, 2, 4].tolist() == [[7, 7, 7], [1, 2, 3]]
    assert data.train.labels == {}


def test_folder_of_different_sizes_names_the_first_offender(tmp_path: Path) -> None:
    for name, width in {"1.png": 5, "2.png": 5, "3.png": 6, "4.png": 7}.items():
        Image.fromarray(np.zeros((3, width), dtype=np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"5 by 3 as in .*1.png, but .*3.png is 6 by 3"):
        load_dataset(tmp_path)


def test_folder_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected image files .* found none"):
        load_dataset(tmp_path)
    picture = tmp_path / "1.png"
    picture.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"cannot read image .*1.png"):
        load_dataset(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(picture)
    picture.write_bytes(picture.read_bytes()[:1000])  # the header is whole, the pixels are not
    with pytest.raises(InputError, match=r"cannot read image .*1.png"):
        load_dataset(tmp_path)
    Image.fromarray(np.zeros((3, 5), dtype=np.uint16)).save(picture)
    with pytest.raises(InputError, match=r"8 bits per channel, but .*1.png has mode I;16"):
        load_dataset(tmp_path)


def test_folder_with_images_inside_and_outside_sub_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "loose.png"):
        Image.fromarray(np.zeros((3, 5), dtype=np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"got both \(loose.png is in no sub-folder\)"):
        load_dataset(tmp_path)


# --- names ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'mnits'; known data sets are shapes, mnist, .*\.h5 file or of a folder"):
        load_dataset("mnits")
    with pytest.raises(InputError, match=r"no data set, file or folder is called '.*gone.npz'"):
        load_dataset(tmp_path / "gone.npz")
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"expected an .npz or .*h5.* file or a folder of images, got .*table.csv"):
        load_dataset(tmp_path / "table.csv")


# --- the data sets themselves ---------------------------------------------------------------------------------------


def test_shapes_have_a_test_set_that_is_no_part_of_a_training_set() -> None:
    data = load_dataset("shapes")
    assert (len(data.train), len(data.test)) == (20_000, 4_000)
    assert data.info == DATASETS["shapes"]
    for seed in (0, 1):
        _, labels = draw_shapes(20_000, seed=seed, size=8)
        assert torch.equal(data.train.labels["hue"], labels["hue"]) == (seed == 0)
        assert not torch.equal(data.test.labels["hue"], labels["hue"][:4_000])


def test_fingerprint_tells_values_shapes_and_types_apart() -> None:
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
def test_published_sets_are_as_the_table_says(
    name: str, num: tuple[int, int], counts: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFCVAE_CACHE", str(tmp_path / "cache"))
    data = load_dataset(name)
    assert (len(data.train), len(data.test)) == num
    assert data.info == DATASETS[name]  # event shape and label names are those found in the files
    assert {key: int(label.max()) + 1 for key, label in data.train.labels.items()} == counts
