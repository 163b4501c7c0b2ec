"""Assignments of items to groups on the command line: ``mfcvae assign``."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from pyro_mfcvae.atomic_io import expand_user
from pyro_mfcvae.cli.options import COMMON, Common, Directory, File, Flag, Run, option
from pyro_mfcvae.cli.terminal import console, print_json, say
from pyro_mfcvae.config.custom_parts import import_parts
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from pyro_mfcvae.data.datasets import Dataset
    from pyro_mfcvae.data.images import Split

# Number of unlike items that are printed; the table has all of them.
_NUM_NAMED = 5


def assign(
    run: Run,
    data: Annotated[str | None, Positional, option("[DATA]")] = None,
    /,
    out: File = None,
    format: Annotated[Literal["csv", "parquet", "jsonl"], option()] = "csv",
    sort_into: Directory = None,
    link: Flag = False,
    common: Common = COMMON,
) -> None:
    """Write which item is in which group and cluster of every facet: one row per item.

    Other data are converted to the number of channels of the run's data. The column `unlike` marks items that the model
    describes worse than 99.9 % of its training items. docs/python.md explains every column.

    Args:
        data: Data to assign: a name, a .npz, .npy, .h5, .csv or .parquet file, or a folder of images; by default the
            run's own.
        out: The file to write; by default assignments.FORMAT in the run's folder, with the name of other data.
        format: Format of the file; a parquet file also has small images, for embedding viewers.
        sort_into: Copy the images into DIR/facet-J/GROUP/, and unlike images into DIR/unlike/; DIR must be new or
            empty.
        link: Make symbolic links instead of copies.
    """
    import_parts(common.parts)

    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.runs.assignments import Assigner, write_assignments
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.runs.new_items import image_size, lowest_alike, prepare_like

    console.quiet = common.json
    folder = RunFolder.open(run)
    pair, config = folder.load_pair(), folder.read_config()
    size, source = image_size(pair.model.event_shape), data or config.data.source
    dataset = load_dataset(source, root=common.root, seed=config.seed, size=size, fit=config.data.fit)
    splits = {name: prepare_like(split, pair.model.event_shape) for name, split in dataset.splits.items()}
    suffix = "" if data is None else f"-{dataset.name}"
    out = out or folder.path / f"assignments{suffix}.{format}"
    files = _files_of(data or config.data.source, dataset)
    sorter = None if sort_into is None else _Sorter(sort_into, files, link=link)
    lowest = None if data is None else lowest_alike(folder.assignments_path)
    assigner = Assigner(pair, folder.read_grouping(pair), thumbnails=format == "parquet", lowest=lowest)
    tally = _Tally(pair.num_facets)

    def tables() -> Iterator["pa.Table"]:
        for name, split in splits.items():
            for table in assigner.rows(split, name=name):
                tally.count(table, name)
                if sorter is not None:
                    sorter.sort(table, split)
                yield table

    num_items = write_assignments(tables(), out, format=format, model=folder.model_fingerprint())
    say(f"{num_items} items of {dataset.name}: {out}")
    tally.say()
    if sorter is not None:
        say(f"Sorted into {sort_into}")
    if common.json:
        print_json({"file": str(out), "items": num_items, **tally.record()})


class _Tally:
    """Counts the items in the groups of every facet, and collects the unlike items."""

    def __init__(self, num_facets: int) -> None:
        self.groups = [Counter[str]() for _ in range(num_facets)]
        self.unlike: list[str] = []

    def count(self, table: "pa.Table", split: str) -> None:
        """Count some rows of a split."""
        for j, group in enumerate(self.groups):
            group.update(table[f"facet_{j}_name"].to_pylist())
        if "unlike" in table.column_names:
            rows = table.filter(table["unlike"]).select(["file", "index"]).to_pylist()
            self.unlike += [row["file"] or f"{split} {row['index']}" for row in rows]

    def say(self) -> None:
        """Print a line per facet, and the first unlike items."""
        for j, group in enumerate(self.groups):
            say(f"facet {j}: {', '.join(f'{name} {number}' for name, number in group.most_common())}")
        if self.unlike:
            more = f" and {len(self.unlike) - _NUM_NAMED} more" if len(self.unlike) > _NUM_NAMED else ""
            named = ", ".join(self.unlike[:_NUM_NAMED])
            say(f"Unlike the training items, so do not rely on their groups: {named}{more}")

    def record(self) -> dict[str, object]:
        """The counts and the unlike items, as values that JSON supports."""
        return {"groups": [dict(group) for group in self.groups], "unlike": self.unlike}


def _files_of(source: str, dataset: "Dataset") -> Path | None:
    """The folder to which the names of the items are relative; None if items are not files."""
    return None if dataset.train.names is None else expand_user(source)


class _Sorter:
    """Copies or links items into a folder per facet and group; items of arrays become PNG files."""

    def __init__(self, folder: Path, source: Path | None, *, link: bool) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"expected --sort-into a new or empty folder, got {folder}: choose another one")
        if link and source is None:
            raise InputError("expected image files to link to, got an array: leave --link out, and files are written")
        self.folder, self.source, self.link = folder, source, link

    def sort(self, table: "pa.Table", split: "Split") -> None:
        """Sort the items of some rows."""
        columns = [c for c in table.column_names if re.fullmatch(r"split|index|file|unlike|facet_\d+_(group|name)", c)]
        for row in table.select(columns).to_pylist():
            places = self._places(row)
            if self.source is not None:
                for place in places:
                    self._put(self.source / row["file"], place / "-".join(Path(row["file"]).parts))
                continue
            from pyro_mfcvae.runs.assignments import encode_thumbnails

            picture = encode_thumbnails(split.images[row["index"]][None], size=max(split.images.shape[2:]))[0]
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{row['split']}-{row['index']}.png").write_bytes(picture)

    def _places(self, row: Mapping[str, object]) -> list[Path]:
        if row.get("unlike"):
            return [self.folder / "unlike"]
        places = []
        for j in range(sum(key.endswith("_group") for key in row)):
            number, name = row[f"facet_{j}_group"], str(row[f"facet_{j}_name"])
            called = "" if name == f"group {number}" else "-" + re.sub(r"[^\w.-]+", "_", name).strip(".")
            places.append(self.folder / f"facet-{j}" / f"group-{number}{called}")
        return places

    def _put(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.link:
            target.symlink_to(source.resolve())
        else:
            shutil.copy2(source, target)
