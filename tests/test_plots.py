import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.plots import image_grid, plot_cluster_examples, plot_facets, save_figure


def plain(*levels: float, channels: int = 1) -> NDArray[np.float64]:
    """One 14×14 image of even grey per level: (N, C, 14, 14). Tiles of this width have a gap of one pixel."""
    return np.broadcast_to(np.reshape(levels, (-1, 1, 1, 1)), (len(levels), channels, 14, 14)).astype(float)


def levels(axes: Axes) -> list[list[float]]:
    """The grey of each tile of a panel, row by row."""
    mosaic = axes.images[0].get_array()
    assert mosaic is not None
    return np.asarray(mosaic)[7::15, 7::15, 0].tolist()


def row_labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def texts(axes: Axes) -> list[str]:
    return [axes.get_title(loc="left").strip(), *(text.get_text() for text in axes.texts)]


def test_cluster_examples_put_the_populous_and_the_confident_first() -> None:
    figure = plot_cluster_examples(
        plain(0.1, 0.2, 0.3, 0.4),
        [4, 2, 2, 2],
        [0.9, 0.5, 0.8, 0.6],
        title="facet 0",
        num_per_cluster=2,
        num_clusters=6,
    )
    (axes,) = figure.axes
    assert levels(axes) == [[0.3, 0.4], [0.1, 1.0]]  # 1.0 is white, where cluster 4 has no second item
    assert row_labels(axes) == ["cluster 2 · 3 items (75.0 %)", "cluster 4 · 1 item (25.0 %)"]
    assert texts(axes) == ["facet 0", "2 of 6 clusters in use · 4 empty · surest items first"]


def test_the_title_says_if_clusters_are_left_out() -> None:
    figure = plot_cluster_examples(plain(0, 0, 0.5, 1), [0, 0, 1, 2], np.ones(4), title="deep", max_clusters=1)
    assert levels(figure.axes[0]) == [[0.0, 0.0]]
    assert texts(figure.axes[0]) == ["deep", "3 clusters in use · the 1 largest shown · surest items first"]


def test_bytes_are_shares_of_255() -> None:
    pixels = np.array([0, 51, 255], dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 14, 14), dtype=np.uint8)
    figure = plot_cluster_examples(pixels, [0, 1, 2], np.ones(3), title="deep")
    assert levels(figure.axes[0]) == [[0.0], [0.2], [1.0]]


def test_facets_stand_side_by_side_under_their_names() -> None:
    images, assignments = plain(0.2, 0.4, channels=3), np.array([[0, 1], [0, 3]])
    figure = plot_facets(images, assignments, np.ones((2, 2)), num_clusters=(1, 5))
    assert [texts(axes) for axes in figure.axes] == [
        ["facet 0", "1 of 1 clusters in use · surest items first"],
        ["facet 1", "2 of 5 clusters in use · 3 empty · surest items first"],
    ]
    assert [levels(axes) for axes in figure.axes] == [[[0.2, 0.4]], [[0.2], [0.4]]]
    named = plot_facets(images, assignments, np.ones((2, 2)), names=("hue", "shape"))
    assert [texts(axes)[0] for axes in named.axes] == ["hue", "shape"]


def test_image_grid_keeps_colours_and_separates_tiles_by_white() -> None:
    red = np.zeros((1, 2, 3, 14, 14))
    red[0, :, 0] = 1.0
    mosaic = np.asarray(image_grid(red).axes[0].images[0].get_array())
    assert mosaic.shape == (14, 29, 3)
    np.testing.assert_array_equal(mosaic[:, 14], np.ones((14, 3)))
    np.testing.assert_array_equal(np.delete(mosaic, 14, axis=1), np.broadcast_to([1.0, 0.0, 0.0], (14, 28, 3)))


def test_image_grid_clips_and_leaves_nan_empty() -> None:
    figure = image_grid(plain(-0.5, 0.5, 1.5, np.nan).reshape(2, 2, 1, 14, 14))
    assert levels(figure.axes[0]) == [[0.0, 0.5], [1.0, 1.0]]


def test_image_grid_labels() -> None:
    images = np.zeros((2, 1, 1, 14, 14))
    figure = image_grid(images, row_labels=["a", "b"], column_labels=["pair"], title="Swaps")
    assert row_labels(figure.axes[0]) == ["a", "b"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["pair"]
    assert figure.get_suptitle() == "Swaps"
    with pytest.raises(InputError, match="Expected 2 row labels, one per row of images, but got 1"):
        image_grid(images, row_labels=["a"])


def test_pictures_must_fit() -> None:
    with pytest.raises(InputError, match=r"as uint8, or as floats in \[0, 1\], but got int64: convert them"):
        image_grid(np.zeros((1, 1, 1, 4, 4), dtype=np.int64))
    with pytest.raises(InputError, match=r"\(N, C, H, W\) with C = 1 .* but got \(2, 14, 14, 3\)"):
        plot_facets(np.zeros((2, 14, 14, 3)), np.zeros((2, 1), dtype=int), np.ones((2, 1)))
    with pytest.raises(InputError, match=r"each of 2 images, .* the shapes \(3, 1\) and \(3, 1\)"):
        plot_cluster_examples(plain(0, 1), [0, 0, 0], [1, 1, 1], title="")


def test_a_saved_figure_is_a_png_without_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "figures" / "grid.png"
    save_figure(image_grid(np.zeros((1, 2, 1, 14, 14))), path)
    pixels = imread(path)
    assert pixels.min() == 0.0 and pixels.max() == 1.0
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.png"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")

    def fail(self: Figure, target: Path, **kwargs: object) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(Figure(), path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("grid.png", b"old")]


def test_a_notebook_shows_a_figure_without_pyplot() -> None:
    figure = image_grid(plain(0.0, 1.0)[None])
    png = vars(figure)["_repr_png_"]()
    assert png.startswith(b"\x89PNG") and imread(io.BytesIO(png)).ndim == 3
    copied = pickle.loads(pickle.dumps(figure))
    assert vars(copied)["_repr_png_"]() == png
