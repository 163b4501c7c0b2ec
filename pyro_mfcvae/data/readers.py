"""Readers of arrays in files. An .npz archive is read into memory; .npy and HDF5 files are mapped if possible."""

import math
import warnings
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.images import Loaded, Split, channels_first, check_not_black, validate_images, validate_items
from pyro_mfcvae.data.labels import Arrays, compact, read_labels
from pyro_mfcvae.data.limits import READ_ERRORS, check_bytes, check_regular, in_parts, num_fitting, reading, unreadable
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    import h5py

# Number of items that are scored if a file has no test items; they are evenly spread over the file and kept in memory.
_NUM_SCORED = 10_000
_TEST = "test_"
_ITEMS = ("images", "x", "X")
_MAX_MEMBERS = 1_000
_TO_MAP = "save the images with np.save, because mapped files take no memory, or "


def read_npy(path: Path) -> Loaded:
    """Read an ``.npy`` file. All its items are training items, and 10,000 evenly spread ones are scored, or fewer if
    they would take more than a quarter of the limit on memory.

    Images of uint8 or float32 are mapped: batches are read when they are needed. Images of other types, and vectors,
    are read into memory.

    Args:
        path: the file; its array is of a form that `validate_images` or `validate_vectors` takes.

    Raises:
        InputError: the file cannot be read, or its array does not fit.
    """
    check_regular(path)
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise InputError(f"expected an array as np.save writes it in {path}, got an archive: call the file .npz")
    with reading(path, "save the array with np.save"):
        array = np.lib.format.open_memmap(path, mode="r")
    return _splits(array, {}, path)


def read_npz(path: Path) -> Loaded:
    """Read an ``.npz`` file: array ``images`` or ``x``, label sets, and optional ``test_`` twins of all of them.

    Args:
        path: the file; its items are of a form that `validate_images` or `validate_vectors` takes; see `read_labels`
            for the label sets.

    Returns:
        Training split and test split; the two are the same if the file has no ``test_images`` (or ``test_x``).

    Raises:
        InputError: the file cannot be read, holds Python objects, unpacks to more than the limit, has no items, or its
            items or labels do not fit.
    """
    arrays = _load_arrays(path)
    members: dict[str, dict[str, NDArray[np.generic]]] = {"": {}, _TEST: {}}
    for key, array in arrays.items():
        members[_TEST if key.startswith(_TEST) else ""][key.removeprefix(_TEST)] = array
    return _pair_of_splits(members[""], members[_TEST], path, validate_items)


def read_hdf5(path: Path) -> Loaded:
    """Read the data set ``images`` or ``x`` of an HDF5 file, label sets, and optional ``test_`` twins of all of them.

    Images of uint8 or float32 are mapped if the file holds them in one piece. Others are read into memory.

    Args:
        path: the file; as for `read_npz`.

    Raises:
        InputError: the file cannot be read, keeps data in other files, is larger than the limit, or does not fit.
    """
    import h5py

    check_regular(path)
    with reading(path, "write the file again"), h5py.File(path, "r") as file:
        found = own_datasets(file, path)
        members: dict[str, dict[str, Any]] = {"": {}, _TEST: {}}
        for key, item in found.items():
            is_test, name = key.startswith(_TEST), key.removeprefix(_TEST)
            members[_TEST if is_test else ""][name] = _load_dataset(item, path, is_items=name in _ITEMS)
    if members[_TEST]:
        return _pair_of_splits(members[""], members[_TEST], path, _in_memory)
    name = _name_of_items(members[""], path)
    labels = {key: array for key, array in members[""].items() if key != name and key not in _ITEMS}
    return _splits(members[""][name], labels, path)


def _splits(array: NDArray[np.generic], arrays: Arrays, path: Path) -> Loaded:
    """The splits of a file all of whose items are training items."""
    if array.ndim == 2 or array.dtype not in (np.uint8, np.float32) or not array.dtype.isnative:
        return _pair_of_splits({"x": array, **arrays}, {}, path, _in_memory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a warning that the memory is read-only, which nothing writes to
        mapped = torch.from_numpy(array)
    try:
        images = channels_first(mapped)
        if images.is_floating_point():
            for part in in_parts(images):
                validate_images(part.contiguous())
        else:
            check_not_black(images)
        labels = read_labels(arrays, len(images), path=path)
        compact(labels.sets, None)
        num_scored = min(len(images), _NUM_SCORED, num_fitting(images[:1].nbytes, path))
        scored = torch.linspace(0, len(images) - 1, num_scored, dtype=torch.float64).long()
        names = None if labels.names is None else tuple(labels.names[int(i)] for i in scored)
        sets = {name: values[scored] for name, values in labels.sets.items()}
        train = Split(images, labels.sets, names=labels.names)
        return Loaded(train, Split(images[scored], sets, held_out=False, names=names), tuple(labels.notes))
    except InputError as error:
        raise _named(path, "", error) from error


def _in_memory(array: NDArray[np.generic]) -> Tensor:
    # A copy of empty texts can take more memory than the file's header says, so only numbers are copied.
    return validate_items(np.array(array) if array.dtype.kind in "biuf" else array)


def _named(path: Path, array: str, error: InputError) -> InputError:
    """The error, with the name of the file added if it is missing."""
    where = f"{path}, array {array!r}" if array else str(path)
    return error if str(path) in str(error) else InputError(f"{where}: {error}")


def _name_of_items(arrays: Arrays, path: Path, *, prefix: str = "") -> str:
    name = next((name for name in _ITEMS if name in arrays), None)
    if name is None:
        there = ", ".join(prefix + key for key in arrays) or "no arrays"
        raise InputError(
            f"expected an array '{prefix}images' or '{prefix}x' in {path}, which has {there[:200]}; name the items so"
        )
    return name


def _pair_of_splits(here: Arrays, there: Arrays, path: Path, validate: Any) -> Loaded:
    """Training and test split of arrays; the same split twice if ``there`` is empty."""
    train, notes = _split_of(here, there, path, validate)
    if not there:
        compact(train.labels, None)
        return Loaded(train, train, tuple(notes))
    test, more = _split_of(there, here, path, validate, prefix=_TEST)
    compact(train.labels, test.labels)
    return Loaded(train, test, tuple(dict.fromkeys([*notes, *more])))


def _split_of(
    arrays: Arrays, others: Arrays, path: Path, validate: Any, *, prefix: str = ""
) -> tuple[Split, list[str]]:
    name = _name_of_items(arrays, path, prefix=prefix)
    try:
        items = validate(arrays[name])
        rest = {key: array for key, array in arrays.items() if key != name}
        labels = read_labels(rest, len(items), path=path, others=others)
        return Split(items, labels.sets, names=labels.names), labels.notes
    except InputError as error:
        raise _named(path, prefix + name, error) from error


def _load_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    check_regular(path)
    if not zipfile.is_zipfile(path):
        raise InputError(f"expected an .npz file as np.savez writes it, but {path} is not one; save it again")
    arrays: dict[str, NDArray[np.generic]] = {}
    key = ""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _check_members(archive, path)
            for member in members:
                key = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    arrays[key] = _read_member(stream, member, key, path)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise unreadable(path, error, f"it failed at array {key!r}; save the file again") from error
    return arrays


def _check_members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The arrays of an archive, after a check that they fit into memory."""
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    if len(members) > _MAX_MEMBERS:
        raise InputError(f"expected at most {_MAX_MEMBERS} arrays in {path}, got {len(members)}: save fewer")
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"expected an .npz file as np.savez writes it, but {path} is encrypted; save it again")
    packed = sum(member.compress_size for member in members)
    check_bytes(sum(member.file_size for member in members), path, advice=_TO_MAP, packed_bytes=packed)
    return members


def _read_member(stream: IO[bytes], member: zipfile.ZipInfo, key: str, path: Path) -> NDArray[np.generic]:
    """One array, whose header must give exactly the number of bytes in the file."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise InputError(
            f"expected plain arrays, but array {key!r} in {path} holds Python objects, which could run code when read; "
            "save it as numbers"
        )
    num_bytes = dtype.itemsize
    for length in shape:
        num_bytes *= length
    if not 0 <= num_bytes <= member.file_size or len(shape) > 8:
        raise ValueError(f"its header gives {num_bytes} bytes, but it has {member.file_size}")
    content = stream.read()
    if len(content) != num_bytes:
        raise ValueError(f"its header gives {num_bytes} bytes, but it has {len(content)}")
    flat = np.frombuffer(content, dtype) if num_bytes else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def own_datasets(file: "h5py.File", path: Path) -> dict[str, "h5py.Dataset"]:
    """The data sets at a file's root; data in other files are refused."""
    import h5py

    found: dict[str, h5py.Dataset] = {}
    if len(file) > _MAX_MEMBERS:  # counted before they are read, because links and groups also take time
        raise InputError(f"expected at most {_MAX_MEMBERS} data sets in {path}, got {len(file)} entries: save fewer")
    for key in file:
        if not isinstance(key, str):
            continue
        link = file.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"expected all data in {path}, but {key!r} is an external link to another "
                "file: repack it with h5repack, "
                "or give that file"
            )
        item = file.get(key)
        if not isinstance(item, h5py.Dataset):
            continue
        if item.file.filename != file.filename or item.external is not None or item.is_virtual:
            raise InputError(
                f"expected all data in {path}, but {key!r} is in another file, behind a link or in external storage: "
                f"write it into this file"
            )
        found[key] = item
    return found


def _load_dataset(item: "h5py.Dataset", path: Path, *, is_items: bool) -> Any:
    """The array of a data set: mapped if the file holds it in one piece, otherwise read."""
    import h5py

    if item.shape is None or not item.shape:
        return np.zeros((0, 0, 0))  # empty or a single value: no labels
    if h5py.check_string_dtype(item.dtype) is not None:
        return _read_texts(item, path)
    if item.dtype.hasobject or item.dtype.kind not in "biuf":
        return np.zeros((0, 0, 0))
    mapped = _map(item, path) if is_items else None
    if mapped is not None:
        return mapped
    check_bytes(_unpacked_bytes(item), path, advice=_TO_MAP, packed_bytes=item.id.get_storage_size())
    return item[()]


def _unpacked_bytes(item: "h5py.Dataset") -> int:
    """The memory that a data set takes. HDF5 unpacks whole chunks, and a chunk may be larger than the data set."""
    return max(item.size, math.prod(item.chunks or ())) * item.dtype.itemsize


def _map(item: "h5py.Dataset", path: Path) -> NDArray[np.generic] | None:
    """The data set mapped into memory; None if that is impossible."""
    offset = item.id.get_offset()
    if offset is None or item.dtype not in (np.uint8, np.float32) or not item.size:
        return None
    check_bytes(item.size // len(item) * item.dtype.itemsize, path)
    mapped = np.memmap(path, dtype=item.dtype, mode="r", offset=offset, shape=item.shape)
    # The offset counts from the start of the HDF5 data; some files have another block before it.
    if all(np.array_equal(mapped[row], item[row], equal_nan=item.dtype.kind == "f") for row in (0, len(item) - 1)):
        return mapped
    return None


def _read_texts(item: "h5py.Dataset", path: Path) -> NDArray[np.generic]:
    if item.ndim != 1:
        return np.zeros((0, 0, 0))
    texts: list[str] = []
    num_bytes = _unpacked_bytes(item)
    check_bytes(num_bytes, path, packed_bytes=item.id.get_storage_size())
    for start in range(0, len(item), 1_000):  # a file can refer to one long text a million times
        part = item.asstr(errors="backslashreplace")[start : start + 1_000].tolist()
        num_bytes = max(num_bytes, 4 * max(map(len, part)) * len(item))
        check_bytes(num_bytes, path)
        texts += part
    return np.array(texts)
