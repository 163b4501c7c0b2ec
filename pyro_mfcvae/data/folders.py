"""Folders of image files."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.images import Fit, Loaded, Size, Split, resize, validate_images
from pyro_mfcvae.data.limits import MAX_IMAGE_BYTES, READ_ERRORS, check_bytes, check_scans
from pyro_mfcvae.data.tables import read_label_table
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

# Pillow may open only these formats: an .eps file with the name .png would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".dib"}
) | frozenset({".tif", ".tiff", ".webp"})
"""Endings of the files that are read as images."""

LABEL_TABLE = "labels.csv"
"""A table with this name in the folder gives labels of the images; labels are used for scores only."""

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_DEEP_MODES = ("I", "F")  # names of Pillow's modes with more than 8 bits per channel start with these
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258

_MAX_DEPTH = 50
_MAX_VISITS = 100  # because of links, one folder can have any number of paths
# Folders that network drives and archive programs add to a folder of images.
_FOREIGN_FOLDERS = frozenset({"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN"})


class MixedSizesError(InputError):
    """Raised if the images of a folder differ in size and ``size`` is not given.

    Attributes:
        sizes: (height, width) of every image.
    """

    def __init__(self, message: str, sizes: list[Size]) -> None:
        super().__init__(message)
        self.sizes = sizes


@dataclass(frozen=True)
class _Picture:
    """The contents of an image file's header."""

    path: Path
    size: Size
    is_grey: bool


def read_image_folder(path: Path, *, size: Size | None = None, fit: Fit = "crop") -> Loaded:
    """Read all image files below a folder, in sorted order; sub-folders, if any, become the label ``folder``.

    Grey files give one channel; if one file has colour, all are read as RGB. As in image viewers, pictures are rotated
    by their EXIF orientation, and transparent parts become white. Links are followed. Hidden files, files of other
    types, run folders and the system folders of network drives are left out, and the notes count them. A table
    ``labels.csv`` in the folder gives label sets, see `read_label_table`.

    Args:
        path: the folder, with the images either all directly in it or all in its sub-folders.
        size: height and width that all images are resized to; if it is None they must all have the same size.
        fit: see `resize`.

    Returns:
        The same split twice, for training and for scores: uint8 images (N, C, H, W); the label ``folder`` is the number
        of the sub-folder in sorted order; names are the paths of the files below the folder.

    Raises:
        InputError: there are no images; a file cannot be read, has several pictures or more than 8 bits per channel;
            sizes differ; images lie both in the folder and in its sub-folders; the images take too much memory.
    """
    files, passed_over = _find_files(path)
    if not files:
        raise InputError(
            f"expected image files ({', '.join(sorted(SUFFIXES))}) in {path}, got none"
            f"{_describe(passed_over)}: check the folder"
        )
    folders = [file.relative_to(path).parts[0] if file.parent != path else "" for file in files]
    labels = sorted(set(folders))
    if "" in labels and len(labels) > 1:
        loose = files[folders.index("")]
        raise InputError(
            f"expected images either all in {path} or all in its sub-folders, got both ({loose.name} is in no "
            "sub-folder); move them into sub-folders"
        )
    images = _read_files(files, path, size, fit)
    numbers = torch.tensor([labels.index(folder) for folder in folders])
    names = tuple(os.fsencode(file.relative_to(path).as_posix()).decode("utf-8", "backslashreplace") for file in files)
    sets, notes = ({} if labels == [""] else {"folder": numbers}), []
    if (table := path / LABEL_TABLE).is_file():
        passed_over["of other types"] -= 1
        found = read_label_table(table, names)
        sets, notes = sets | found.sets, found.notes
    split = Split(images, sets, names=names)
    if total := passed_over.total():
        notes.append(f"passed over {total} file{'s' if total > 1 else ''} of {path}{_describe(+passed_over)}")
    return Loaded(split, split, tuple(notes))


def image_sizes(path: Path) -> list[Size]:
    """Height and width of every image file below a folder, from the headers alone."""
    return [picture.size for picture in _read_headers(_find_files(path)[0])]


def _describe(passed_over: Counter[str]) -> str:
    counts = ", ".join(f"{count} {why}" for why, count in sorted(passed_over.items()))
    return f" ({counts})" if counts else ""


def _find_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """The image files below a folder, and the numbers of other files by the reason for which they are left out."""
    files: list[Path] = []
    passed_over: Counter[str] = Counter()
    for entry in _walk(path, passed_over, frozenset(), Counter()):
        file = Path(entry.path)
        if entry.name.startswith("."):
            passed_over["hidden"] += 1
        elif not entry.is_file():
            passed_over["that are no regular files"] += 1
        elif file.suffix.lower() not in SUFFIXES:
            passed_over["of other types"] += 1
        else:
            files.append(file)
    return sorted(files), passed_over


def _walk(
    path: Path, passed_over: Counter[str], above: frozenset[tuple[int, int]], visits: Counter[tuple[int, int]]
) -> Iterator["os.DirEntry[str]"]:
    """Every entry that is not a folder. Links are followed, except links to a folder that contains them.

    Args:
        path: the folder.
        passed_over: numbers of files by the reason for which they are left out; updated in place.
        above: the folders that contain it.
        visits: how often each folder was read; updated in place.

    Raises:
        InputError: too many links lead to one folder.
    """
    status = path.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        passed_over["behind links in a circle"] += 1
        return
    if len(above) > _MAX_DEPTH:
        passed_over[f"more than {_MAX_DEPTH} folders deep"] += _count(path)
        return
    visits[here] += 1
    if visits[here] > _MAX_VISITS:
        raise InputError(f"expected at most {_MAX_VISITS} ways to a folder, got more to {path}: remove some links")
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.is_dir():
                yield entry
            elif entry.name.startswith(".") or entry.name in _FOREIGN_FOLDERS:
                passed_over["in hidden or foreign folders"] += _count(Path(entry.path))
            elif is_run_folder(Path(entry.path)):
                passed_over["in folders of runs"] += _count(Path(entry.path))
            else:
                yield from _walk(Path(entry.path), passed_over, above | {here}, visits)


def is_run_folder(path: Path) -> bool:
    """Whether ``mfcvae fit`` wrote this folder; its figures are then not data."""
    return (path / "config.toml").is_file() and any(
        (path / name).exists() for name in ("metrics.jsonl", "model.safetensors", "checkpoint")
    )


def _count(path: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(path))


def _read_headers(files: list[Path]) -> list[_Picture]:
    from PIL import Image

    pictures = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large pictures are checked here; unusual metadata do no harm
        for file in files:
            try:
                with Image.open(file, formats=_FORMATS) as image:
                    pictures.append(_check_header(file, image))
            except InputError:
                raise
            except (*READ_ERRORS, Image.DecompressionBombError) as error:
                raise _unreadable(file, error) from error
    return pictures


def _check_header(file: Path, image: "Image.Image") -> _Picture:
    width, height = image.size
    if width * height * len(image.getbands()) > MAX_IMAGE_BYTES:
        raise InputError(
            f"expected pictures of at most {MAX_IMAGE_BYTES >> 20} MiB, decoded, got {file} of {width} × {height} "
            "pixels: make it smaller, or remove it"
        )
    if image.mode.startswith(_DEEP_MODES) or _bits(file, image) > 8:
        raise InputError(
            f"expected 8 bits per channel, got {file} with {max(_bits(file, image), 16)} (mode {image.mode}): convert "
            "it to 8 bits, scaled to 0..255"
        )
    if _has_more(image):
        raise InputError(f"expected one picture in each file, got several in {file}: save each in a separate file")
    if image.format in ("JPEG", "MPO"):
        with file.open("rb") as stream:
            check_scans(stream, width * height, str(file))
    turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return _Picture(file, (width, height) if turned else (height, width), image.mode in _GREY_MODES)


def _has_more(image: "Image.Image") -> bool:
    """Whether a file has several pictures that are meant to be seen."""
    if image.format == "TIFF":  # counting the pictures takes long if there are a million
        try:
            image.seek(1)
        except EOFError:
            return False
        return True
    return image.format != "MPO" and getattr(image, "n_frames", 1) > 1  # MPO is a camera's JPEG with previews


def _bits(file: Path, image: "Image.Image") -> int:
    """Bits per channel in the file; Pillow's mode does not always give this number."""
    if image.format == "PNG":
        with file.open("rb") as stream:
            return stream.read(25)[-1]
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, 8)  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    if image.format == "PPM":
        with file.open("rb") as stream:
            words = [word for line in stream.read(512).splitlines() for word in line.partition(b"#")[0].split()]
        return 16 if len(words) > 3 and words[0] not in (b"P1", b"P4") and int(words[3]) > 255 else 8
    return 8


def _read_files(files: list[Path], folder: Path, size: Size | None, fit: Fit) -> Tensor:
    pictures = _read_headers(files)  # Headers are quick to read, and the mode of all images depends on every file.
    sizes = [picture.size for picture in pictures]
    if size is None and len(set(sizes)) > 1:
        other = next(picture for picture in pictures if picture.size != sizes[0])
        raise MixedSizesError(
            f"expected images of one size, {_by(sizes[0])} as in {files[0]}, but {other.path} is {_by(other.size)}; "
            "set data.size (and data.fit) to bring all to one size, or remove it",
            sizes,
        )
    height, width = size or sizes[0]
    mode = "L" if all(picture.is_grey for picture in pictures) else "RGB"
    check_bytes(len(files) * height * width * (1 if mode == "L" else 3), folder, advice="set data.size, or ")
    images = np.empty((len(files), 1 if mode == "L" else 3, height, width), np.uint8)
    for row, file in zip(images, files, strict=True):
        pixels = _read_file(file, mode)
        if size is None and pixels.shape[1:] != (height, width):
            raise InputError(f"expected {file} to be {_by((height, width))}, got {_by(pixels.shape[1:])}: remove it")
        row[:] = pixels if size is None else resize(torch.from_numpy(pixels), size, fit).numpy()
    return validate_images(torch.from_numpy(images))


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]} by {size[0]}"


def _read_file(file: Path, mode: str) -> NDArray[np.uint8]:
    """The pixels (C, H, W) of one file, as a viewer shows them."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(file, formats=_FORMATS) as image:
            warnings.simplefilter("ignore")
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            pixels = np.array(upright if upright.mode == mode else upright.convert(mode), dtype=np.uint8)
    except (*READ_ERRORS, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _unreadable(file: Path, error: BaseException) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"cannot read image {file}: {reason}; repair or remove it")
