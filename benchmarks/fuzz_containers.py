"""Crafted HDF5 files, tables, IDX files, files of tensors and configurations (see fuzz_crafted.py)."""

import gzip
import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz_samples import Crafted, as_bytes, crafted_file, read_configuration, read_data, read_model, read_named
from kills import SETTINGS


def odd_containers() -> Iterator[Crafted]:
    """All these inputs."""
    yield from _odd_hdf5()
    yield from _odd_tables()
    yield from _odd_idx()
    yield from _odd_tensors()
    yield from _odd_configurations()


def _hdf5(name: str, fill: Callable[[Any], object]) -> Crafted:
    def build(folder: Path) -> None:
        with h5py.File(folder / "secret.h5", "w") as other:
            other["images"] = np.full((4, 8, 8), 7, np.uint8)
        (folder / "secret.bin").write_bytes(bytes(4 * 64))
        with h5py.File(folder / "a.h5", "w") as file:
            fill(file)

    return Crafted(name, build, read_data("a.h5"))


_GREY = np.zeros((4, 8, 8), np.uint8)


def _odd_hdf5() -> Iterator[Crafted]:
    fills: dict[str, Callable[[Any], object]] = {
        "external link": lambda f: f.__setitem__("images", h5py.ExternalLink("secret.h5", "/images")),
        "external link to /etc/passwd": lambda f: f.__setitem__("images", h5py.ExternalLink("/etc/passwd", "/")),
        "external storage": lambda f: f.create_dataset("images", (4, 8, 8), "u1", external="secret.bin"),
        "external storage of /etc/passwd": lambda f: f.create_dataset(
            "images", (4, 8, 8), "u1", external="/etc/passwd"
        ),
        "virtual data": _virtual,
        "link to itself": lambda f: f.__setitem__("images", h5py.SoftLink("/images")),
        "links in a circle": lambda f: (
            f.__setitem__("images", h5py.SoftLink("/x")),
            f.__setitem__("x", h5py.SoftLink("/images")),
        ),
        "link to nothing": lambda f: f.__setitem__("images", h5py.SoftLink("/none")),
        "group in a circle": lambda f: f.create_group("images").__setitem__("again", f["images"]),
        "10^12 items": lambda f: _bomb(f, (10**12, 8, 8), chunks=(1_000, 8, 8)),
        "10^9 empty chunks": lambda f: _bomb(f, (10**9, 8, 8), chunks=(1, 8, 8)),
        "bomb of zeros": lambda f: _bomb(f, (30_000, 100, 100), chunks=(30_000, 100, 100), compression="gzip"),
        "no items": lambda f: _bomb(f, (0, 8, 8)),
        "an empty value": lambda f: f.__setitem__("images", h5py.Empty("u1")),
        "a single number": lambda f: f.__setitem__("images", 3),
        "seven axes": lambda f: f.__setitem__("images", np.zeros((1,) * 7, np.uint8)),
        "references": _references,
        "10^9 texts": _texts,
        "long texts": _long_text,
        "3,000 data sets": _many,
        "200,000 links": lambda f: [f.__setitem__(f"x{n}", h5py.SoftLink("/none")) for n in range(200_000)],
        "a chunk of 1.2 GB": lambda f: _bomb(
            f, (4, 8, 8), chunks=(1_200, 1_000, 1_000), maxshape=(None,) * 3, compression="gzip", data=_GREY
        ),
        "compound values": _compound,
        "float16": lambda f: f.__setitem__("images", _GREY.astype("f2")),
        "float128": lambda f: f.__setitem__("images", _GREY.astype(np.longdouble)),
        "big-endian": lambda f: f.__setitem__("images", _GREY.astype(">f4")),
        "complex": lambda f: f.__setitem__("images", _GREY.astype(complex)),
        "nan": lambda f: f.__setitem__("images", np.full((4, 8, 8), np.nan, np.float32)),
    }
    for name, fill in fills.items():
        yield _hdf5(f"hdf5: {name}", fill)


def _bomb(file: Any, shape: tuple[int, ...], **options: Any) -> None:
    file.create_dataset("images", shape, "u1", **options)


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4, 8, 8), "u1")
    layout[:] = h5py.VirtualSource("secret.h5", "images", (4, 8, 8))
    file.create_virtual_dataset("images", layout)


def _references(file: Any) -> None:
    file["images"] = _GREY
    file.create_dataset("y", (4,), h5py.ref_dtype)


def _texts(file: Any) -> None:
    file["images"] = _GREY
    file.create_dataset("kind", (10**9,), h5py.string_dtype(), chunks=(1_000,))


def _long_text(file: Any) -> None:
    file["images"] = _GREY
    file.create_dataset("kind", data=["a" * 3_000_000] * 4, dtype=h5py.string_dtype())


def _many(file: Any) -> None:
    for number in range(3_000):
        file[f"y{number}"] = 0


def _compound(file: Any) -> None:
    file["images"] = np.zeros(4, [("a", "u1"), ("b", "f4")])


def _odd_tables() -> Iterator[Crafted]:
    import pyarrow as pa
    from pyarrow import parquet

    yield crafted_file("csv of 20 million commas", "a.csv", b"," * 20_000_000)
    yield crafted_file("csv of one line of 20 MB", "a.csv", b"1" * 20_000_000)
    yield crafted_file("csv of 1 million lines", "a.csv", b"1,2\n" * 1_000_000)
    yield crafted_file("csv in UTF-16", "a.csv", "a,b\n1,2\n".encode("utf-16"))
    yield crafted_file("csv with zero bytes", "a.csv", b"a,b\n1,\0\n")
    yield crafted_file("csv with an open quote", "a.csv", b'a,b\n"1,2\n3,4\n')
    yield crafted_file("csv with ragged lines", "a.csv", b"a,b\n1,2,3\n4\n")
    yield crafted_file("csv with huge numbers", "a.csv", b"a,b\n1e999,2\n" + b"9" * 400 + b",4\n")
    yield crafted_file("csv with names twice", "a.csv", b"a,a\n1,2\n3,4\n")
    yield crafted_file("csv with escapes", "a.csv", b"\x1b[31m,label\n1,\x1b]0;x\x07\n2,[red]\n")
    wide = pa.table({"a": pa.nulls(50_000_000, pa.int64()).fill_null(0)})
    yield crafted_file("parquet bomb", "a.parquet", as_bytes(lambda file: parquet.write_table(wide, file)))
    nested = pa.table({"a": pa.array([[[[1.0]]]] * 4), "b": [{"c": 1}] * 4, "d": [1.0, 2.0, 3.0, 4.0]})
    yield crafted_file("parquet of lists", "a.parquet", as_bytes(lambda file: parquet.write_table(nested, file)))
    times = pa.table({"a": pa.array([0, 1], pa.timestamp("ns")), "b": pa.array([b"\xff", b""]), "c": [1.0, None]})
    yield crafted_file(
        "parquet of times and bytes", "a.parquet", as_bytes(lambda file: parquet.write_table(times, file))
    )
    many = pa.table({f"x{number}": [1.0] for number in range(20_000)})
    yield crafted_file("parquet of 20,000 columns", "a.parquet", as_bytes(lambda file: parquet.write_table(many, file)))


def _odd_idx() -> Iterator[Crafted]:
    def mnist(name: str, images: bytes, suffix: str = "") -> Crafted:
        labels = struct.pack(">2I", 0x801, 4) + bytes(4)
        good = struct.pack(">4I", 0x803, 4, 8, 8) + bytes(256)

        def build(folder: Path) -> None:
            raw = folder / "MNIST" / "raw"
            raw.mkdir(parents=True)
            (raw / f"train-images-idx3-ubyte{suffix}").write_bytes(images)
            (raw / "t10k-images-idx3-ubyte").write_bytes(good)
            for part in ("train", "t10k"):
                (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)

        return Crafted(f"idx: {name}", build, read_named("mnist"))

    for size in (0, 10**6, 2**31, 2**32 - 1):
        yield mnist(f"{size} images", struct.pack(">4I", 0x803, size, 8, 8) + bytes(256))
        yield mnist(f"{size} images, packed", gzip.compress(struct.pack(">4I", 0x803, size, 8, 8) + bytes(256)), ".gz")
    yield mnist("a bomb", gzip.compress(struct.pack(">4I", 0x803, 4, 8, 8) + bytes(300 << 20), 1), ".gz")
    yield mnist(
        "a bomb that announces itself",
        gzip.compress(struct.pack(">4I", 0x803, 60_000, 80, 80) + bytes(384_000_000), 1),
        ".gz",
    )
    yield mnist("another kind", struct.pack(">4I", 0x0D03, 4, 8, 8) + bytes(1024))
    yield mnist("not packed", bytes(100), ".gz")
    yield mnist("nothing", b"")

    for name, text in {"nothing": b"", "one number": b"5\n", "text": b"a,b\n", "no text": b"\xff\0"}.items():
        yield Crafted(f"rows: {name}", _at(_ROWS, lambda p, t=text: p.write_bytes(t)), read_named("stickfigures"))
    yield Crafted("rows: a pipe", _at(_ROWS, os.mkfifo), read_named("stickfigures"))
    yield Crafted("3dshapes: a pipe", _at("3dshapes.h5", os.mkfifo), read_named("shapes3d-floor"))
    for name, (num, kind) in {"texts": (10, "S3"), "10^9 rows": (10**9, "f8"), "numbers": (10, "i8")}.items():
        yield Crafted(
            f"3dshapes: {name}",
            _at("3dshapes.h5", lambda p, n=num, k=kind: _shapes3d(p, n, k)),
            read_named("shapes3d-floor"),
        )

    def pickle(folder: Path) -> None:
        processed = folder / "MNIST" / "processed"
        processed.mkdir(parents=True)
        (processed / "training.pt").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")

    yield Crafted("a pickle in place of idx", pickle, read_named("mnist"))


_ROWS = "multiclustering/stickfigures.data"


def _at(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """A function that makes a file at a path below a folder."""

    def build(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return build


def _shapes3d(path: Path, num_rows: int, kind: str) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (num_rows, 64, 64, 3), "u1", chunks=(1, 64, 64, 3))
        file.create_dataset("labels", (num_rows, 6), kind, chunks=(10, 6))


def _odd_tensors() -> Iterator[Crafted]:
    def tensors(name: str, header: Any, *, length: int | None = None, data: int = 64) -> Crafted:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        content = struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)
        return Crafted(f"tensors: {name}", lambda f: (f / "pair.safetensors").write_bytes(content), read_model)

    one = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
    for size in (2**32, 2**62, 2**63, 2**64 - 1, 10**30, -1):
        yield tensors(f"shape of {size}", {"a": {**one, "shape": [size]}})
        yield tensors(f"offset of {size}", {"a": {**one, "data_offsets": [0, size]}})
    for number in (0, 1, 2**31, 2**63, 2**64 - 1):
        yield tensors(f"header of {number} bytes", {"a": one}, length=number)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    yield tensors("300,000 empty tensors", {str(number): empty for number in range(300_000)}, data=0)
    yield tensors("deep header", b"[" * 100_000)
    yield tensors(
        "deep metadata", {"__metadata__": {"recipe": "a = " + "[" * 20_000, "event_shape": "[1, 8, 8]"}, "a": one}
    )
    yield tensors("a list", [1, 2])
    yield tensors("no metadata", {"a": one})
    yield tensors("null metadata", {"__metadata__": None, "a": one})
    for shape in (
        "[1e9, 8, 8]",
        "[1000000, 100000, 3]",
        "nan",
        "[[[[]]]]",
        "[-1]",
        "[",
        "{}",
        "[1, 8, 8, 8, 8, 8]",
        "3",
        "[" * 5_000,
        "9" * 5_000,
    ):
        header = {"__metadata__": {"recipe": _recipe([]), "event_shape": shape}, "a": one}
        yield tensors(f"event shape {shape[:20]}", header)
    wide = "[networks]\nkind = 'mlp'\n[networks.options]\nencoder_dims = [1000000, 1000000]\n"
    yield tensors("a recipe of 4 TB", {"__metadata__": {"recipe": wide, "event_shape": "[1, 8, 8]"}, "a": one})
    for name, settings in _LARGE_PARTS.items():
        header = {"__metadata__": {"recipe": _recipe(settings), "event_shape": "[1, 8, 8]"}, "a": one}
        yield tensors(f"a recipe with {name}", header)
    yield Crafted(
        "a pickle as pair",
        lambda f: (f / "pair.safetensors").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR."),
        read_model,
    )


_LARGE_PARTS = {
    "wide rungs": ["networks.encoder_dims=[1000000, 1000000]"],
    "a hidden layer of 4 GB": ["networks.hidden_dim=30000", "networks.decoder_dims=[30000, 8]"],
    "10^12 clusters": ["facets.num_clusters=[1000000000000, 3]"],
    "10^6 latent dimensions": ["facets.latent_dim=[1000000, 2]", "prior.covariance='full'"],
}


def _recipe(settings: Sequence[str]) -> str:
    """A complete configuration that is valid except for the memory that it needs."""
    from pyro_mfcvae.config.text import load_preset, override, to_toml

    return to_toml(override(load_preset("shapes"), [*SETTINGS, *settings]))


def _odd_configurations() -> Iterator[Crafted]:
    texts: dict[str, bytes] = {
        "20,000 dotted keys": b".".join([b"a"] * 20_000) + b" = 1",
        "deep lists": b"a = " + b"[" * 20_000,
        "deep tables": b"a = " + b"{a = " * 5_000 + b"1" + b"}" * 5_000,
        "another's function": b"[likelihood]\nkind = 'subprocess.getoutput'\noptions = {cmd = 'touch hacked'}",
        "another's module": b"[prior]\nkind = 'os.system:touch hacked'",
        "own modules": b"own_modules = ['os', 'hacked']",
        "not UTF-8": b"a = '\xff'",
        "zero bytes": b"a = '\0'",
        "a number of 100,000 digits": b"seed = " + b"9" * 100_000,
        "10^15 clusters": b"[facets]\nnum_clusters = [1000000000000000, 3]\nlatent_dim = [2, 2]",
        "a date": b"seed = 2020-01-01",
        "nan": b"[training]\nlearning_rate = nan",
        "escapes": b"description = '\x1b[31m'",
        "keys with escapes": b'"\\u001b[31m\\n" = 1',
        "one key twice": b"seed = 1\nseed = 2",
        "1 million lines": b"".join(b"a%d = 1\n" % number for number in range(300_000)),
    }
    for name, text in texts.items():
        yield Crafted(f"toml: {name}", lambda f, t=text: (f / "config.toml").write_bytes(t), read_configuration)
