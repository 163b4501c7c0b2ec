"""Inputs that are made to break a reader: pipes, decompression bombs, false headers, links in circles, names that
are not text.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_containers import odd_containers
from fuzz_samples import Crafted, as_bytes, crafted_file, read_data, read_model

_HUGE = (10**12, 10**6, 10**3, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -1, 0)


def crafted() -> Iterator[Crafted]:
    """All crafted inputs."""
    for number, header in enumerate(_npy_headers()):
        for version in (1, 2):
            content = _npy(header, version)
            yield crafted_file(f"npy header {number} version {version}", "a.npy", content)
            yield crafted_file(f"npz header {number} version {version}", "a.npz", _zip({"images.npy": content}))
    yield from _odd_archives()
    yield from _odd_places()
    yield from _odd_pictures()
    yield from odd_containers()


def _npy(header: str, version: int) -> bytes:
    text = header.encode("latin-1" if version == 1 else "utf-8", "replace")
    length = struct.pack("<H" if version == 1 else "<I", min(len(text), 0xFFFF))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + bytes(64)


def _npy_headers() -> Iterator[str]:
    for size in _HUGE:
        yield f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size}, 8, 8), }}\n"
        yield f"{{'descr': '<f4', 'fortran_order': True, 'shape': (2, {size}, {size}), }}\n"
    yield "{'descr': '|O', 'fortran_order': False, 'shape': (4, 8, 8), }\n"
    yield "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (4,), }\n"
    yield "{'descr': [('a', '<f4', (3,))] , 'fortran_order': False, 'shape': (4,), }\n"
    yield "{'descr': '|V0', 'fortran_order': False, 'shape': (4, 8, 8), }\n"
    yield "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }\n"
    yield "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1, 8, 8), }\n"
    yield "{'descr': '<c16', 'fortran_order': False, 'shape': (1, 2, 2), }\n"
    yield f"{{'descr': '|u1', 'fortran_order': False, 'shape': {'(' * 200}{',)' * 200}, }}\n"
    yield f"{'[' * 20_000}"
    yield "__import__('os').system('touch hacked')\n"
    yield "{'descr': __import__('os').system('touch hacked'), 'fortran_order': False, 'shape': ()}\n"
    yield f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({'1, ' * 70}), }}\n"
    yield "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 8, 8), }\n"
    yield ""


def _zip(members: dict[str, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _odd_archives() -> Iterator[Crafted]:
    grey = as_bytes(lambda file: np.save(file, np.zeros((4, 8, 8), np.uint8)))
    bomb = as_bytes(lambda file: np.save(file, np.zeros((3, 8_000, 8_000), np.uint8)))
    big = as_bytes(lambda file: np.save(file, np.zeros((64, 1_500, 1_500, 2), np.uint8)))
    yield crafted_file("npz bomb", "a.npz", _zip({"images.npy": bomb}, compression=zipfile.ZIP_DEFLATED))
    yield crafted_file(
        "npz bomb among labels", "a.npz", _zip({"images.npy": grey, "y.npy": big}, compression=zipfile.ZIP_BZIP2)
    )
    yield crafted_file("npz of 70,000 members", "a.npz", _zip({f"{i}.npy": b"" for i in range(70_000)}))
    yield crafted_file("zip named npy", "a.npy", _zip({"images.npy": grey}))
    yield crafted_file("npy named npz", "a.npz", grey)
    yield crafted_file("npz within npz", "a.npz", _zip({"images.npy": _zip({"images.npy": grey})}))
    yield crafted_file("npz with a path upwards", "a.npz", _zip({"../../images.npy": grey, "images.npy": grey}))
    yield crafted_file("npz with an absolute path", "a.npz", _zip({"/tmp/hacked.npy": grey, "images.npy": grey}))
    yield crafted_file("npz with one name twice", "a.npz", _zip({"images.npy": grey}) + _zip({"images.npy": grey}))
    yield crafted_file("lzma npz", "a.npz", _zip({"images.npy": grey}, compression=zipfile.ZIP_LZMA))
    whole = _zip({"images.npy": grey})
    for name, place, value in (("encrypted", 6, 1), ("method 99", 8, 99), ("method 9", 8, 9), ("version 99", 4, 99)):
        spoiled = bytearray(whole)
        central = whole.index(b"PK\x01\x02")
        spoiled[place] = spoiled[central + 2 + place] = value
        yield crafted_file(f"npz {name}", "a.npz", bytes(spoiled))
    central = whole.index(b"PK\x01\x02")
    for name, place in (("packed size", 20), ("size", 24), ("offset", 42), ("length of the name", 28)):
        for number in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
            spoiled = bytearray(whole)
            width = 2 if place == 28 else 4
            spoiled[central + place : central + place + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
            yield crafted_file(f"npz with a {name} of {number}", "a.npz", bytes(spoiled))


def _odd_places() -> Iterator[Crafted]:
    for suffix in ("npy", "npz", "h5", "csv", "parquet"):
        yield Crafted(f"pipe named {suffix}", lambda f, s=suffix: os.mkfifo(f / f"a.{s}"), read_data(f"a.{suffix}"))
        yield Crafted(f"folder named {suffix}", lambda f, s=suffix: (f / f"a.{s}").mkdir(), read_data(f"a.{suffix}"))
        yield crafted_file(f"empty {suffix}", f"a.{suffix}", b"")
        yield crafted_file(f"zeros named {suffix}", f"a.{suffix}", bytes(100_000))
        yield Crafted(f"link to itself named {suffix}", _loop(f"a.{suffix}"), read_data(f"a.{suffix}"))
        yield Crafted(f"device named {suffix}", _link_to("/dev/zero", f"a.{suffix}"), read_data(f"a.{suffix}"))
    for suffix in ("png", "tiff"):
        yield Crafted(
            f"pipe among photos, {suffix}", lambda f, s=suffix: os.mkfifo(_photos(f) / f"z.{s}"), read_data("photos")
        )
        yield Crafted(
            f"device among photos, {suffix}", _link_to("/dev/zero", f"photos/z.{suffix}"), read_data("photos")
        )
    yield Crafted("folders in a circle", lambda f: (_photos(f) / "again").symlink_to(_photos(f)), read_data("photos"))
    yield Crafted("link to the folder above", lambda f: (_photos(f) / "up").symlink_to(f), read_data("photos"))
    yield Crafted("folders that links lead to in 2^30 ways", _many_ways, read_data("level-0"))
    for name, text in _LABEL_TABLES.items():
        yield Crafted(
            f"labels.csv {name}", lambda f, t=text: (_photos(f) / "labels.csv").write_bytes(t), read_data("photos")
        )
    yield Crafted("folders 300 deep", _deep, read_data("deep"))
    yield Crafted(
        "names that are not UTF-8", lambda f: _photo(os.fsencode(_photos(f)) + b"/\xe4\xff.png"), read_data("photos")
    )
    yield Crafted(
        "names with escapes", lambda f: _photo(os.fsencode(_photos(f)) + b"/\x1b[31m\n.png"), read_data("photos")
    )
    yield Crafted("class with escapes", lambda f: _class(f, "a\x1b]0;x\x07\n[red]"), read_data("photos"))
    yield Crafted("zero byte in the path", lambda f: None, read_data("a\0.npy"))
    yield Crafted("very long path", lambda f: None, read_data("a" * 5_000 + ".npy"))
    yield Crafted("pair in a pipe", lambda f: os.mkfifo(f / "pair.safetensors"), read_model)


def _photos(folder: Path) -> Path:
    place = folder / "photos"
    if not place.exists():
        place.mkdir()
        for number in range(3):
            _photo(os.fsencode(place / f"{number}.png"))
    return place


def _photo(path: bytes) -> None:
    from PIL import Image

    content = as_bytes(lambda file: Image.new("RGB", (8, 8), "red").save(file, "png"))
    Path(os.fsdecode(path)).write_bytes(content)


def _class(folder: Path, name: str) -> None:
    for label in (name, "b"):
        place = folder / "photos" / label
        place.mkdir(parents=True)
        _photo(os.fsencode(place / "0.png"))


_LABEL_TABLES = {
    "without text": b"",
    "with names twice": b"file,a,a\n0.png,1,2\n",
    "of 90,000 columns": b"file" + b"".join(b",c%d" % i for i in range(90_000)) + b"\n0.png" + b",1" * 90_000,
    "of times": b"file,a,b\n0.png,2020-01-01 00:00:00.123456789,2020-01-01T00:00:00Z\n1.png,99999-01-01,x\n",
    "that is not UTF-8": b"file,a\n0.png,\xff\n",
    "with escapes": b"file,\x1b[31m\n0.png,\x1b]0;x\x07\n",
    "with ragged lines": b"file,a\n0.png\n",
}


def _many_ways(folder: Path) -> None:
    for number in range(30):
        level = folder / f"level-{number}"
        level.mkdir()
        for name in "ab":
            (level / name).symlink_to(folder / f"level-{number + 1}")
    (folder / "level-30").mkdir()
    _photo(os.fsencode(folder / "level-30/0.png"))


def _deep(folder: Path) -> None:
    here = os.getcwd()  # noqa: PTH109
    try:
        (folder / "deep").mkdir()
        os.chdir(folder / "deep")
        for _ in range(300):
            Path("d").mkdir()
            os.chdir("d")
        _photo(b"0.png")
    finally:
        os.chdir(here)


def _loop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(folder / name)


def _link_to(target: str, name: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        if "/" in name:
            _photos(folder)
        (folder / name).symlink_to(target)

    return build


def _picture(name: str, suffix: str, content: bytes) -> Crafted:
    def build(folder: Path) -> None:
        (_photos(folder) / f"z.{suffix}").write_bytes(content)

    return Crafted(name, build, read_data("photos"))


def _png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"", extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _odd_pictures() -> Iterator[Crafted]:
    from PIL import Image

    for side in (0, 1, 13_000, 40_000, 2**31 - 1, 2**31, 2**32 - 1):
        yield _picture(f"png {side} wide and high", "png", _png(side, side, rows=bytes(10_000)))
        yield _picture(f"png {side} wide", "png", _png(side, 1, rows=bytes(10_000)))
    text = zlib.compress(bytes(200 << 20))
    ztxt = b"a\0\0" + text
    extra = struct.pack(">I", len(ztxt)) + b"zTXt" + ztxt + struct.pack(">I", zlib.crc32(b"zTXt" + ztxt))
    yield _picture("png with a bomb in its text", "png", _png(8, 8, rows=bytes(8 * 25), extra=extra))
    yield _picture("png whose pixels are a bomb", "png", _png(8, 8, rows=bytes(50 << 20)))
    yield _picture("png of depth 3", "png", _png(8, 8, depth=3, rows=bytes(1_000)))
    yield _picture("png of colour 7", "png", _png(8, 8, colour=7, rows=bytes(1_000)))
    for suffix in ("png", "jpg", "tiff", "webp", "bmp"):
        yield _picture(f"eps named {suffix}", suffix, _EPS)
        yield _picture(f"empty {suffix}", suffix, b"")
        yield _picture(f"text named {suffix}", suffix, b"<html>not found</html>")
    for kind in ("gif", "ico", "pcx", "tga", "dds", "icns", "im", "sgi"):
        file = as_bytes(lambda file, k=kind: Image.new("RGB", (64, 64)).save(file, k))
        yield _picture(f"{kind} named png", "png", file)
    many = [Image.new("L", (8, 8), value) for value in range(60)]
    yield _picture(
        "tiff of 60 pages", "tiff", as_bytes(lambda f: many[0].save(f, "tiff", save_all=True, append_images=many[1:]))
    )
    yield _picture("tiff in a circle", "tiff", _circular_tiff())
    yield _picture("tiff of 200,000 pages", "tiff", _long_tiff(200_000))
    yield _picture("jpeg of 5,000 scans", "jpg", _endless_jpeg(5_000))
    yield _picture("ppm of 10^9 pixels", "ppm", b"P6\n99999 99999\n255\n" + bytes(100))
    yield _picture("ppm with an endless header", "ppm", b"P6\n" + b"#" * 3_000_000)
    yield _picture(
        "bmp of 2^31 pixels",
        "bmp",
        b"BM" + struct.pack("<IHHIIiiHHI", 54, 0, 0, 54, 40, 2**31 - 1, 1, 1, 24, 0) + bytes(40),
    )


_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(hacked) (w) file closefile\nshowpage\n"


def _circular_tiff() -> bytes:
    """A TIFF file whose only directory refers to itself as the next directory."""
    return (b"II*\0" + struct.pack("<I", 8) + _tiff_directory() + struct.pack("<I", 8)).ljust(200, b"\0") + bytes(64)


def _long_tiff(num_pages: int) -> bytes:
    """A TIFF file with many directories for the same pixels."""
    directory = _tiff_directory()
    length = len(directory) + 4
    ends = [8 + length * page for page in range(1, num_pages)] + [0]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(directory + struct.pack("<I", end) for end in ends)


def _tiff_directory() -> bytes:
    """A directory for 8 × 8 grey pixels at byte 200, without the position of the next directory."""
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 8), (279, 4, 1, 64)]
    return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)


def _endless_jpeg(num_scans: int) -> bytes:
    """A progressive JPEG file that repeats its last scan."""
    from PIL import Image

    whole = as_bytes(lambda file: Image.new("L", (8_000, 8_000)).save(file, "jpeg", progressive=True))
    return whole[:-2] + num_scans * whole[whole.rindex(b"\xff\xc4") : -2] + whole[-2:]
