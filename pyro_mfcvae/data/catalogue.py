"""The table of the data sets that are known by name. Nothing here imports torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_mfcvae.data.images import Loaded, Split

Reader = Callable[[Path | None, int], "tuple[Split, Split] | Loaded"]
"""Function from the data folder (None if not given) and a seed to the training and the test split."""


@dataclass(frozen=True)
class DatasetInfo:
    """The properties of a data set that are known before it is read.

    Args:
        name: its name on the command line.
        description: one line.
        event_shape: shape of one item, (C, H, W) or (P,); None if it is known only after reading.
        likelihood: the usual p(x|z), "bernoulli" or "gaussian"; None if there is no usual one.
        label_names: names of the label sets; empty if they are known only after reading.
        split: a sentence that says which items are used for training and which for scoring.
        num_items: number of training items; None if it is known only after reading.
        read: reads the training and the test split, given the data folder and a seed.
    """

    name: str
    description: str
    event_shape: tuple[int, ...] | None
    likelihood: str | None
    label_names: tuple[str, ...]
    split: str
    num_items: int | None
    read: Reader


@dataclass(frozen=True)
class LazyReader:
    """A `Reader` that is imported when data are read.

    Attributes:
        path: path of a function, below `pyro_mfcvae.data`.
        args: the first arguments of the function.
    """

    path: str
    args: tuple[Any, ...] = ()

    def __call__(self, root: Path | None, seed: int) -> tuple["Split", "Split"]:
        module, _, name = self.path.rpartition(".")
        splits: tuple[Split, Split] = getattr(import_module(f"pyro_mfcvae.data.{module}"), name)(*self.args, root, seed)
        return splits


NUM_DRAWN = 20_000
"""Number of training items of a generated data set."""

FLOOR: Mapping[str, int] = {"wall_hue": 5, "object_hue": 6}
"""Values of the fixed factors if floor hue and shape are to be found (3DShapes 1 in the paper)."""

WALL: Mapping[str, int] = {"floor_hue": 0, "object_hue": 6}
"""Values of the fixed factors if wall hue and shape are to be found (3DShapes 2 in the paper)."""

_SHARED = "all items are used for training and for scoring, as is usual for this set"
_PUBLISHED = "60,000 train, 10,000 test as published"
_DRAWN = "20,000 train, 4,000 test, drawn with two seeds"
_FOUR_FIFTHS = "3,840 train, 960 test of all 4,800 combinations"

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="shapes",
            description="light figures of four shapes on backgrounds of six hues, generated when needed",
            event_shape=(3, 32, 32),
            likelihood="gaussian",
            label_names=("shape", "hue"),
            split=_DRAWN,
            num_items=NUM_DRAWN,
            read=LazyReader("datasets.read_shapes"),
        ),
        DatasetInfo(
            name="mnist",
            description="handwritten digits (LeCun et al., 1998)",
            event_shape=(1, 28, 28),
            likelihood="bernoulli",
            label_names=("digit",),
            split=_PUBLISHED,
            num_items=60_000,
            read=LazyReader("published.read_idx", ("MNIST", "digit")),
        ),
        DatasetInfo(
            name="fashion_mnist",
            description="photographs of clothes (Xiao, Rasul and Vollgraf, 2017)",
            event_shape=(1, 28, 28),
            likelihood="gaussian",
            label_names=("class",),
            split=_PUBLISHED,
            num_items=60_000,
            read=LazyReader("published.read_idx", ("FashionMNIST", "class")),
        ),
        DatasetInfo(
            name="stickfigures",
            description="grey stick figures, three upper bodies by three lower bodies (Günnemann et al., 2014)",
            event_shape=(1, 20, 20),
            likelihood="gaussian",
            label_names=("upper", "lower"),
            split=_SHARED,
            num_items=900,
            read=LazyReader("published.read_rows", ("stickfigures.data", (20, 20, 1), ("upper", "lower"))),
        ),
        DatasetInfo(
            name="nrletters",
            description="letters A B C X Y Z in three colours, one corner marked (Leiber et al., 2022)",
            event_shape=(3, 9, 7),
            likelihood="gaussian",
            label_names=("letter", "colour", "corner"),
            split=_SHARED,
            num_items=10_000,
            read=LazyReader("published.read_rows", ("nrLetters.data", (9, 7, 3), ("letter", "colour", "corner"))),
        ),
        DatasetInfo(
            name="svhn",
            description="house numbers, one digit each in the middle (Netzer et al., 2011)",
            event_shape=(3, 32, 32),
            likelihood="gaussian",
            label_names=("digit",),
            split="73,257 train, 26,032 test as published",
            num_items=73_257,
            read=LazyReader("published.read_svhn"),
        ),
        *(
            DatasetInfo(
                name=f"{name}-{part}",
                description=f"{what}: {part} hue and shape are to be found; scale and orientation vary too",
                event_shape=(3, 32, 32),
                likelihood="gaussian",
                label_names=("shape", f"{part}_hue"),
                split=_FOUR_FIFTHS,
                num_items=3_840,
                read=LazyReader(read, (selection,)),
            )
            for name, what, read in (
                ("shapes3d", "3D Shapes (Burgess and Kim, 2018) as selected by Falck et al.", "shapes3d.read_shapes3d"),
                ("rendered3d", "rooms rendered by us in place of 3D Shapes", "shapes3d.render_shapes3d"),
            )
            for part, selection in (("floor", FLOOR), ("wall", WALL))
        ),
        DatasetInfo(
            name="rendered3d",
            description="rooms rendered by us, all six factors of 3D Shapes vary",
            event_shape=(3, 32, 32),
            likelihood="gaussian",
            label_names=("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"),
            split=_DRAWN,
            num_items=NUM_DRAWN,
            read=LazyReader("datasets.read_rendered3d"),
        ),
    )
}
