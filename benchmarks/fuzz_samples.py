"""Small valid files of every format, to be mutated, and functions that read all of their content (see fuzz.py)."""

import gzip
import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Sample:
    """A valid input.

    Attributes:
        files: contents by path below the input's folder; the first file is mutated.
        read: reads the whole input in a folder.
    """

    files: Mapping[str, bytes]
    read: Callable[[Path], object]

    @property
    def target(self) -> str:
        """The file that is mutated."""
        return next(iter(self.files))

    def write(self, folder: Path) -> None:
        """Put the files into a folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@dataclass(frozen=True)
class Crafted:
    """An input that is made to break a reader.

    Attributes:
        name: a description of the input.
        build: writes the input into a folder.
        read: reads the input.
    """

    name: str
    build: Callable[[Path], object]
    read: Callable[[Path], object]


def crafted_file(name: str, path: str, content: bytes) -> Crafted:
    """An input that is a single file of data."""
    return Crafted(name, lambda folder: (folder / path).write_bytes(content), read_data(path))


def read_data(name: str) -> Callable[[Path], object]:
    """A reader of data at a path below the folder, and of each batch of them."""
    return partial(_read_data, name=name)


def _read_data(folder: Path, *, name: str) -> object:
    from pyro_mfcvae.data.datasets import load_dataset

    data = load_dataset(folder / name)
    return [int(split.images.flatten()[:1000].nan_to_num().sum()) for split in (data.train, data.test)], repr(data)


def read_named(name: str) -> Callable[[Path], object]:
    """A reader of a published data set below the folder."""
    return partial(_read_named, name=name)


def _read_named(folder: Path, *, name: str) -> object:
    from pyro_mfcvae.data.datasets import load_dataset

    return repr(load_dataset(name, root=folder))


def read_run(folder: Path) -> object:
    """Read everything that commands read in the folder ``run``."""
    from pyro_mfcvae.api.run import Run
    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.runs.fit import start
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.train.devices import open_fabric

    run = Run(folder / "run")
    start(run.config, RunFolder(folder / "run"), load_dataset(folder / "data.npz"), open_fabric("cpu"))
    return run.summary, run.scores, run.assignments, run.grouping, run.folder.read_metrics()


def read_model(folder: Path) -> object:
    """Read a file of `MFCVAE.save`."""
    from pyro_mfcvae.api.model_files import load_pair_file

    return load_pair_file(folder / "pair.safetensors")


def read_configuration(folder: Path) -> object:
    """Read a configuration."""
    from pyro_mfcvae.atomic_io import read_text
    from pyro_mfcvae.config.text import read_config

    return read_config(read_text(folder / "config.toml"), source="config.toml")


def as_bytes(save: Callable[[Any], object]) -> bytes:
    """The bytes that a function writes into a file."""
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def data_samples() -> dict[str, Sample]:
    """A sample per format of data."""
    import h5py
    import pyarrow as pa
    from pyarrow import parquet

    generator = np.random.default_rng(0)
    grey = generator.integers(256, size=(12, 8, 8), dtype=np.uint8)
    labels, texts = np.arange(12) % 3, np.array(["cat", "dog", "cow"] * 4)
    points = generator.normal(size=(12, 5)).astype(np.float32)

    def hdf5(file: Any) -> None:
        with h5py.File(file, "w") as stored:
            stored["images"] = grey
            stored.create_dataset("y", data=labels, chunks=(4,), compression="gzip")
            stored["kind"] = texts.astype("S")

    table = pa.table({f"x{i}": points[:, i] for i in range(5)} | {"label": labels, "kind": texts})
    csv = "x0,x1,x2,label\n" + "".join(
        f"{a:.4f},{b:.4f},{c:.4f},{k}\n" for (a, b, c), k in zip(points[:, :3], labels, strict=True)
    )
    contents: dict[str, bytes] = {
        "data.npy": as_bytes(lambda file: np.save(file, grey)),
        "float.npy": as_bytes(lambda file: np.save(file, generator.random((12, 6, 6, 3), dtype=np.float32))),
        "vectors.npy": as_bytes(lambda file: np.save(file, points)),
        "data.npz": as_bytes(lambda file: np.savez(file, images=grey, y=labels, kind=texts)),
        "packed.npz": as_bytes(lambda file: np.savez_compressed(file, images=grey, test_images=grey[:4])),
        "data.h5": as_bytes(hdf5),
        "data.csv": csv.encode(),
        "data.parquet": as_bytes(lambda file: parquet.write_table(table, file)),
    }
    samples = {name: Sample({name: content}, read_data(name)) for name, content in contents.items()}
    return samples | picture_samples(grey) | idx_samples(grey, labels)


def picture_samples(grey: np.ndarray) -> dict[str, Sample]:
    """Folders of pictures, one per format; the first picture is mutated."""
    from PIL import Image

    grounds = {
        "png": {},
        "jpg": {"exif": Image.Exif()},
        "webp": {},
        "tiff": {"compression": "tiff_lzw"},
        "bmp": {},
        "ppm": {},
    }
    names = {"jpg": "jpeg"}
    samples = {}
    for suffix, options in grounds.items():
        picture = Image.fromarray(np.stack([grey[0], grey[1], grey[2]], -1))
        if "exif" in options:
            options["exif"][0x0112] = 6
        content = as_bytes(lambda file: picture.save(file, names.get(suffix, suffix), **options))  # noqa: B023
        files = {f"photos/{i}.{suffix}": content for i in range(3)}
        samples[suffix] = Sample(files, read_data("photos"))
    return samples


def idx_samples(grey: np.ndarray, labels: np.ndarray) -> dict[str, Sample]:
    """Small versions of MNIST's four files, plain and compressed."""
    images = struct.pack(">4I", 0x803, *grey.shape) + grey.tobytes()
    classes = struct.pack(">2I", 0x801, len(labels)) + labels.astype(np.uint8).tobytes()
    parts = {"train-images-idx3": images, "train-labels-idx1": classes, "t10k-images-idx3": images}
    parts["t10k-labels-idx1"] = classes
    plain = {f"MNIST/raw/{name}-ubyte": content for name, content in parts.items()}
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in plain.items()}
    return {"idx": Sample(plain, read_named("mnist")), "idx.gz": Sample(packed, read_named("mnist"))}


def run_samples(folder: Path) -> dict[str, Sample]:
    """A sample per file of a small run, which is trained in the folder, and one of a saved pair."""
    from kills import SETTINGS

    from pyro_mfcvae.config.text import load_preset, override
    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.runs.fit import fit
    from pyro_mfcvae.runs.folder import RunFolder

    data = data_samples()["data.npz"].files["data.npz"]
    (folder / "data.npz").write_bytes(data)
    config = override(load_preset("shapes"), [*SETTINGS, "training.batch_size=6", "data.source=data.npz"])
    run = RunFolder(folder / "run")
    fit(config, run, data=load_dataset(folder / "data.npz"), device="cpu")
    run.load_pair().save(folder / "pair.safetensors")
    files = {f"run/{path.relative_to(run.path)}": path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    files["data.npz"] = data
    samples = {
        name.removeprefix("run/"): Sample({name: files[name], **files}, read_run)
        for name in files
        if name.startswith("run/") and not name.endswith(".png")
    }
    samples["config alone"] = Sample({"config.toml": files["run/config.toml"]}, read_configuration)
    pair = (folder / "pair.safetensors").read_bytes()
    return samples | {"pair": Sample({"pair.safetensors": pair}, read_model)}
