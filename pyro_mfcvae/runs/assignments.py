"""Compute, write and read the table of assignments, which has a row per item.

It has these columns for every facet j: ``facet_j_group`` and ``facet_j_name``; ``facet_j_probability``, the sum of
q(c_j | x) over the group's clusters; ``facet_j_second_group`` and ``facet_j_second_probability`` (null if there is one
group); ``facet_j_cluster``, the most probable cluster of the group, and ``facet_j_cluster_probability``; ``facet_j_z``,
E[z_j | x]; ``facet_j_x`` and ``facet_j_y``, the coordinates of E[z_j | x] in `FacetPlane`. ``split``, ``index`` and
``file`` identify the item, ``evidence`` measures how well the model describes it (log p(x, z) - log q(z | x) at one
draw of z, in nats), and ``label_NAME`` are the labels of the data. In Parquet files ``facet_j_probs`` is q(c_j | x) of
all clusters, from which the probabilities of other groups can be computed, and ``image`` is a small PNG as {bytes,
path}.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.atomic_io import write_atomically
from pyro_mfcvae.data.datasets import Dataset
from pyro_mfcvae.data.images import Split, as_float, check_complete
from pyro_mfcvae.data.limits import reading
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.planes import FacetPlane
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.runs.new_items import REWRITE
from pyro_mfcvae.safety.parquet_files import BLANK, CHECKSUM, check_parquet, sign_parquet

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

FORMATS = ("csv", "parquet", "jsonl")

# Number of items in a batch: tables are written in batches, so memory does not grow with the data.
_BATCH_SIZE = 1024

# Number of draws for the mean of q(c | x) if the rule depends on the drawn z: a standard error of at most 0.05.
_ASSIGN_DRAWS = 128

# Largest width and height of thumbnails, in pixels.
_THUMBNAIL_SIZE = 64

# Largest number of items for which a run's file has thumbnails: those of 100,000 grey images of 28 × 28 pixels take
# about 30 MB.
_MOST_THUMBNAILS = 100_000


@dataclass(frozen=True)
class Assigner:
    """Assigns items to groups, and makes the rows of the table.

    Args:
        pair: model and guide.
        grouping: which clusters are one group.
        thumbnails: whether rows have an ``image``; items that are not images never have one.
        lowest: if given, rows have a column ``unlike``, which is true for items whose evidence is below it.
    """

    pair: MFCVAE
    grouping: Grouping
    thumbnails: bool = True
    lowest: float | None = None

    def rows(self, split: Split, *, name: str) -> Iterator["pa.Table"]:
        """The table of a split, in batches of rows; ``name`` is the value of the column ``split``."""
        if not self.pair.model.missing:
            check_complete(split.images)
        planes = [FacetPlane.of(prior) for prior in self.pair.priors]
        for start in range(0, len(split), _BATCH_SIZE):
            yield self._table(split, slice(start, min(start + _BATCH_SIZE, len(split))), name, planes)

    @torch.no_grad()
    def _table(self, split: Split, chosen: slice, name: str, planes: Sequence[FacetPlane]) -> "pa.Table":
        import pyarrow as pa

        images = split.images[chosen]
        num = len(images)
        columns: dict[str, Any] = {
            "split": pa.array([name] * num),
            "index": pa.array(np.arange(chosen.start, chosen.stop)),
            "file": pa.array([None] * num if split.names is None else split.names[chosen], pa.string()),
        }
        self.pair.eval()
        with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(chosen.start)  # one draw of z per item, the same at every call
            draws = self.pair.weigh(as_float(images).to(self.pair.model.alpha.device), num_samples=1)
            priors, guide = self.pair.priors, self.pair.guide
            probs = [
                guide.cluster_probs(j, priors[j], q, num_draws=_ASSIGN_DRAWS).double()
                for j, q in enumerate(draws.posteriors)
            ]
        for j, (q, posterior) in enumerate(zip(probs, draws.posteriors, strict=True)):
            q = q / q.sum(-1, keepdim=True)
            z = posterior.mean.cpu().double().numpy()
            columns |= _facet_columns(self.grouping, j, q.cpu().numpy())
            columns[f"facet_{j}_x"], columns[f"facet_{j}_y"] = planes[j].project(z).T
            columns[f"facet_{j}_z"], columns[f"facet_{j}_probs"] = _as_lists(z), _as_lists(q.cpu().numpy())
        columns["evidence"] = evidence = draws.log_weights[0].cpu().double().numpy()
        if self.lowest is not None:
            columns["unlike"] = evidence < self.lowest
        columns |= {f"label_{label}": values[chosen].numpy() for label, values in split.labels.items()}
        if self.thumbnails and images.ndim == 4:
            files = encode_thumbnails(images)
            paths = split.names[chosen] if split.names else [f"{name}-{chosen.start + i}.png" for i in range(num)]
            columns["image"] = pa.array(
                [{"bytes": file, "path": path} for file, path in zip(files, paths, strict=True)],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            )
        return pa.table(columns)


def _as_lists(values: NDArray[np.float64]) -> "pa.Array":
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(values.astype(np.float32).ravel(), values.shape[1])


def _facet_columns(grouping: Grouping, j: int, probs: NDArray[np.float64]) -> dict[str, Any]:
    """The columns of facet j that depend on its groups and on q(c_j | x), (N, K_j)."""
    import pyarrow as pa

    items = np.arange(len(probs))
    of_groups = grouping.probs(j, probs)
    best = of_groups.argmax(1)
    others = of_groups.copy()
    others[items, best] = -1.0
    second = others.argmax(1)
    alone = of_groups.shape[1] == 1
    clusters = np.where(grouping.labels(j)[None] == best[:, None], probs, -1.0).argmax(1)
    names = np.array(grouping.names(j), dtype=object)
    columns = {
        "group": pa.array(best),
        "name": pa.array(names[best], pa.string()),
        "probability": pa.array(of_groups[items, best]),
        "second_group": pa.array(second, mask=np.full(len(items), alone)),
        "second_probability": pa.array(others[items, second], mask=np.full(len(items), alone)),
        "cluster": pa.array(clusters),
        "cluster_probability": pa.array(probs[items, clusters]),
    }
    return {f"facet_{j}_{key}": values for key, values in columns.items()}


def _regroup(table: "pa.Table", grouping: Grouping) -> "pa.Table":
    """Replace the columns about groups by those of another grouping."""
    for j in range(len(grouping.facets)):
        probs = table[f"facet_{j}_probs"].combine_chunks().flatten().to_numpy().astype(np.float64)
        for name, values in _facet_columns(grouping, j, probs.reshape(len(table), -1)).items():
            table = table.set_column(table.column_names.index(name), name, values)
    return table


def assign_all(run: RunFolder, pair: MFCVAE, grouping: Grouping, data: Dataset) -> None:
    """Write the ``assignments.parquet`` of a run: all training items, and all held-out items."""
    assigner = Assigner(pair, grouping, thumbnails=sum(map(len, data.splits.values())) <= _MOST_THUMBNAILS)
    tables = chain.from_iterable(assigner.rows(split, name=name) for name, split in data.splits.items())
    write_assignments(tables, run.assignments_path, format="parquet", model=run.model_fingerprint())


def encode_thumbnails(images: Tensor, *, size: int = _THUMBNAIL_SIZE) -> list[bytes]:
    """Encode images (N, C, H, W), uint8 or floats in [0, 1], as PNG files with at most ``size`` pixels per side.

    Missing pixels, NaN, are white; the alpha channel of RGBA is dropped.
    """
    from PIL import Image

    shown = images[:, :3] if images.shape[1] != 2 else images[:, :1]
    if shown.is_floating_point():
        shown = (shown.nan_to_num(1.0) * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = shown.permute(0, 2, 3, 1).contiguous().numpy()
    files = []
    for image in pixels[..., 0] if pixels.shape[-1] == 1 else pixels:
        picture = Image.fromarray(image)
        picture.thumbnail((size, size))
        file = io.BytesIO()
        picture.save(file, "png", compress_level=1)
        files.append(file.getvalue())
    return files


def write_assignments(tables: Iterator["pa.Table"], path: Path, *, format: str, model: str = "") -> int:
    """Write tables to one file, one after the other; returns the number of rows.

    In csv files every coordinate of z is a separate column; csv and jsonl files have no images.

    Args:
        tables: the rows, see `Assigner.rows`.
        path: the file; it appears complete or not at all.
        format: csv, parquet or jsonl.
        model: fingerprint of the saved model that made the assignments. Parquet files contain it and a checksum.
    """
    if format not in FORMATS:
        raise InputError(f"expected the format {', '.join(FORMATS)}, got {format!r}: choose one of these")
    text: dict[str, Callable[..., None]] = {"csv": _write_csv, "jsonl": _write_jsonl}
    write = text.get(format, partial(_write_parquet, model=model))
    num_rows = 0

    def counted() -> Iterator["pa.Table"]:
        nonlocal num_rows
        for table in tables:
            num_rows += len(table)
            yield table

    write_atomically(path, lambda temporary: write(counted(), temporary))
    return num_rows


def read_assignments(
    path: Path, *, images: bool = False, model: str | None = None, grouping: Grouping | None = None
) -> "pandas.DataFrame":
    """Read the table of an ``assignments.parquet``.

    Args:
        path: the file.
        images: whether the column ``image`` is read.
        model: fingerprint of the saved model that must have made the assignments, if that is known.
        grouping: the current groups; if None, the groups with which the file was written.

    Raises:
        InputError: there is no such file, it was damaged or changed, or it belongs to another model.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"expected the assignments {path}, got no such file: {REWRITE}")
    check_parquet(path, cure=REWRITE)
    schema = pq.ParquetFile(path).metadata.metadata
    if model is not None and (found := schema.get(_MODEL.encode(), b"").decode()) != model:
        raise InputError(f"expected {path} for the model {model}, got a file for the model {found!r}: {REWRITE}")
    names = [name for name in pq.read_schema(path).names if images or name != "image"]
    if grouping is not None and not {f"facet_{j}_probs" for j in range(len(grouping.facets))} <= set(names):
        raise InputError(f"expected q(c | x) of every facet in {path}, got a file of an earlier version: {REWRITE}")
    with reading(path, REWRITE):
        table = pq.read_table(path, columns=names)
        return (table if grouping is None else _regroup(table, grouping)).to_pandas()


_MODEL = "mfcvae.model"


def _write_parquet(tables: Iterator["pa.Table"], path: Path, *, model: str) -> None:
    import pyarrow.parquet as pq

    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table)
        writer.add_key_value_metadata({_MODEL: model, CHECKSUM: BLANK})
    sign_parquet(path)


def _write_csv(tables: Iterator["pa.Table"], path: Path) -> None:
    from pyarrow import csv

    first = _flatten(next(tables))
    with csv.CSVWriter(path, first.schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer:
        for table in chain([first], map(_flatten, tables)):
            writer.write_table(table)


def _write_jsonl(tables: Iterator["pa.Table"], path: Path) -> None:
    import json

    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            plain = table.select(_for_text(table))
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in plain.to_pylist())


def _flatten(table: "pa.Table") -> "pa.Table":
    """Give every coordinate of z its own column, for text files."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name in _for_text(table):
        column = table[name]
        if pa.types.is_fixed_size_list(column.type):
            values = column.combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            columns |= {f"{name}_{d}": values[:, d] for d in range(values.shape[1])}
        else:
            columns[name] = column
    return pa.table(columns)


def _for_text(table: "pa.Table") -> list[str]:
    """The columns of csv and jsonl files: all except images and q(c | x) of all clusters."""
    return [name for name in table.column_names if name != "image" and not name.endswith("_probs")]
