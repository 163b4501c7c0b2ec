"""Pictures of items. Every function returns a Figure and does not change pyplot's global state. ``save_figure`` writes
a figure to a file.

Images are floats in [0, 1], channels first, with one channel (grey) or three (RGB).
"""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_mfcvae.atomic_io import write_atomically
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with colour-blindness can distinguish; facet j has colour j.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT, SHADE = "#222222", "#6B6B6B", "#F0F0F0"
TITLE_SIZE, TEXT_SIZE = 11, 9
_TILE = 0.46  # width of an image, in inches
_LETTER = 0.075  # mean width of a letter of a label, in inches
_AS_PNG: dict[str, Any] = {
    "format": "png",
    "dpi": 120,
    "facecolor": "white",
    "bbox_inches": "tight",
    "pad_inches": 0.12,
}


def make_figure(width: float, height: float) -> "Figure":
    """An empty figure of a size in inches; a notebook shows it even if pyplot was never imported."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    vars(figure)["_repr_png_"] = partial(_to_png, figure)
    return figure


def plot_cluster_examples(
    images: ArrayLike,
    assignments: ArrayLike,
    probs: ArrayLike,
    *,
    title: str,
    num_clusters: int | None = None,
    num_per_cluster: int = 10,
    max_clusters: int = 25,
) -> "Figure":
    """One row of examples per cluster of one facet. The largest cluster comes first, and in each row the most confident
    item.

    Args:
        images: (N, C, H, W), floats in [0, 1] or uint8.
        assignments: cluster of each item, (N,).
        probs: probability of that cluster, q(c|x), for each item, (N,).
        title: the title; the number of clusters in use is added to it.
        num_clusters: K of the facet; if given, the title also has the number of empty clusters.
        num_per_cluster: examples per row.
        max_clusters: largest number of rows; if there are more clusters, the title says so.
    """
    return plot_facets(
        images,
        np.asarray(assignments)[:, None],
        np.asarray(probs)[:, None],
        names=(title,),
        num_clusters=None if num_clusters is None else (num_clusters,),
        num_per_cluster=num_per_cluster,
        max_clusters=max_clusters,
    )


def plot_facets(
    images: ArrayLike,
    assignments: ArrayLike,
    confidence: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    num_clusters: Sequence[int] | None = None,
    row: str = "cluster",
    num_per_cluster: int = 10,
    max_clusters: int = 25,
) -> "Figure":
    """Examples per cluster for all facets: one block per facet, side by side, each as in ``plot_cluster_examples``.

    Args:
        images: (N, C, H, W), floats in [0, 1] or uint8.
        assignments: cluster of each item in each facet, (N, J).
        confidence: probability of that cluster, q(c_j|x), (N, J).
        names: title of each block; "facet 0", "facet 1" and so on by default.
        num_clusters: K_j of each facet; if given, the titles also have the numbers of empty clusters.
        row: the word for a row, "cluster" or "group".
        num_per_cluster: examples per row.
        max_clusters: largest number of rows per facet.
    """
    pictures, clusters, certainty = _check_images(images, ndim=4), np.asarray(assignments), np.asarray(confidence)
    if clusters.ndim != 2 or clusters.shape != certainty.shape or len(clusters) != len(pictures) or not len(clusters):
        raise InputError(
            f"Expected one row of assignments and of confidence for each of {len(pictures)} images, at least one, "
            f"but got the shapes {clusters.shape} and {certainty.shape}: pass all three for the same items."
        )
    num_facets = clusters.shape[1]
    names = names or [f"facet {j}" for j in range(num_facets)]
    sizes: Sequence[int | None] = num_clusters or [None] * num_facets
    blocks = [
        _cluster_rows(pictures, clusters[:, j], certainty[:, j], (max_clusters, num_per_cluster), row)
        for j in range(num_facets)
    ]
    width = sum(tiles.shape[1] * _TILE + _label_width(labels) + 0.3 for tiles, labels in blocks)
    height = max(len(tiles) for tiles, _ in blocks) * _TILE * pictures.shape[2] / pictures.shape[3] + 0.7
    figure = make_figure(width, height)
    for j, axes in enumerate(figure.subplots(1, num_facets, squeeze=False).flat):
        tiles, labels = blocks[j]
        _draw_tiles(axes, tiles, row_labels=labels)
        _draw_title(axes, names[j], _describe_use(len(np.unique(clusters[:, j])), sizes[j], len(tiles), row))
    return figure


def image_grid(
    images: ArrayLike,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> "Figure":
    """Images as a table, for samples, swaps and traversals.

    Args:
        images: (rows, columns, C, H, W), floats in [0, 1] or uint8; an image that is all NaN leaves its place empty.
        row_labels: one per row, at the left.
        column_labels: one per column, on top.
        title: above the table.
    """
    tiles = _rgb(_check_images(images, ndim=5))
    for name, labels, number in (("row", row_labels, tiles.shape[0]), ("column", column_labels, tiles.shape[1])):
        if labels is not None and len(labels) != number:
            raise InputError(
                f"Expected {number} {name} labels, one per {name} of images, but got {len(labels)}: "
                f"give one for each {name}, or none at all."
            )
    width = tiles.shape[1] * _TILE + _label_width(row_labels or ()) + 0.2
    height = tiles.shape[0] * _TILE * tiles.shape[3] / tiles.shape[4] + 0.3 * bool(title) + 0.2
    figure = make_figure(width, height + _label_width(column_labels or ()))
    axes = figure.subplots()
    _draw_tiles(axes, tiles, row_labels=row_labels or (), column_labels=column_labels or ())
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK)
    return figure


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure as PNG with 120 dots per inch; the file appears complete or not at all.

    Args:
        figure: the figure to write.
        path: the file to write; its folder is made if it does not exist.
    """
    write_atomically(Path(path), lambda unfinished: figure.savefig(unfinished, **_AS_PNG))


def _to_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **_AS_PNG)
    return buffer.getvalue()


def _check_images(values: ArrayLike, *, ndim: int) -> NDArray[Any]:
    images = np.asarray(values)
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"Expected images as uint8, or as floats in [0, 1], but got {images.dtype}: convert them.")
    if images.ndim != ndim or images.shape[-3] not in (1, 3):
        shape = "(N, C, H, W)" if ndim == 4 else "(rows, columns, C, H, W)"
        raise InputError(
            f"Expected images of shape {shape} with C = 1 (grey) or 3 (RGB), but got {images.shape}: "
            "reshape them, channels before height and width."
        )
    return images


def _rgb(images: NDArray[Any]) -> NDArray[np.float64]:
    """The images as RGB in [0, 1]."""
    shares = images / 255 if images.dtype == np.uint8 else images.astype(float)
    return np.repeat(shares, 3 // images.shape[-3], axis=-3).clip(0, 1)


def _cluster_rows(
    images: NDArray[Any], clusters: NDArray[Any], certainty: NDArray[Any], shape: tuple[int, int], row: str
) -> tuple[NDArray[np.float64], list[str]]:
    """Examples of the largest clusters, (rows, columns, 3, H, W) with NaN where a cluster has too few, and labels."""
    used, counts = np.unique(clusters, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[: shape[0]]
    columns = min(shape[1], counts.max())
    tiles = np.full((len(largest), columns, 3, *images.shape[2:]), np.nan)
    labels = []
    for place, index in enumerate(largest):
        members = np.flatnonzero(clusters == used[index])
        shown = members[np.argsort(-certainty[members], kind="stable")][:columns]
        tiles[place, : len(shown)] = _rgb(images[shown])
        items = "item" if counts[index] == 1 else "items"
        labels.append(f"{row} {used[index]} · {counts[index]:,} {items} ({100 * counts[index] / len(clusters):.1f} %)")
    return tiles, labels


def _describe_use(in_use: int, num_clusters: int | None, shown: int, row: str) -> str:
    parts = [f"{in_use} {row}s in use" if num_clusters is None else f"{in_use} of {num_clusters} {row}s in use"]
    if num_clusters is not None and num_clusters > in_use:
        parts.append(f"{num_clusters - in_use} empty")
    if shown < in_use:
        parts.append(f"the {shown} largest shown")
    return " · ".join([*parts, "surest items first"])


def _draw_tiles(
    axes: "Axes", tiles: NDArray[np.float64], *, row_labels: Sequence[str], column_labels: Sequence[str] = ()
) -> None:
    """One picture of all tiles, (rows, columns, 3, H, W), on white, with labels at the middles of rows and columns."""
    rows, columns, channels, height, width = tiles.shape
    gap = max(1, round(width / 14))
    padded = np.pad(tiles, ((0, 0),) * 3 + ((0, gap),) * 2, constant_values=np.nan).transpose(0, 3, 1, 4, 2)
    mosaic = padded.reshape(rows * (height + gap), columns * (width + gap), channels)[:-gap, :-gap]
    axes.imshow(np.nan_to_num(mosaic, nan=1.0))
    axes.set_anchor("N")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=TEXT_SIZE, labelcolor=INK, labeltop=True, labelbottom=False)
    axes.set_yticks((np.arange(rows) * (height + gap) + (height - 1) / 2)[: len(row_labels)], row_labels)
    axes.set_xticks((np.arange(columns) * (width + gap) + (width - 1) / 2)[: len(column_labels)], column_labels)
    if _label_width(column_labels) > _TILE:
        axes.tick_params(axis="x", rotation=90)


def _draw_title(axes: "Axes", title: str, subtitle: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK)
    axes.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 6),  # points above the images, in the empty second line of the title
        textcoords="offset points",
        fontsize=TEXT_SIZE,
        color=FAINT,
    )


def _label_width(labels: Sequence[str]) -> float:
    return max((len(label) for label in labels), default=0) * _LETTER
