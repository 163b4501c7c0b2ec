"""Images of the user: the values of the results, and the files that are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.uploads import MAX_BYTES, read_upload


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    x = read_upload(encode(Image.fromarray(pixels)), (3, 4, 4))
    assert torch.equal(x[0], torch.from_numpy(pixels).permute(2, 0, 1).to(x.dtype) / 255)
    grey = read_upload(encode(Image.fromarray(pixels[..., 0])), (1, 4, 4))
    assert torch.equal(grey[0, 0] * 255, torch.from_numpy(pixels[..., 0]).to(x.dtype))


def test_the_middle_is_cropped_and_reduced() -> None:
    pixels = np.zeros((4, 12), np.uint8)
    pixels[:, 4:8] = 200
    x = read_upload(encode(Image.fromarray(pixels)), (1, 2, 2))
    assert (x * 255).unique().tolist() == [200]


def test_a_rotated_photograph_is_turned_upright() -> None:
    image = Image.fromarray(np.array([[10, 20], [30, 40]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half a circle
    x = read_upload(encode(image, exif=exif), (1, 2, 2))
    assert (x[0, 0] * 255).round().tolist() == [[40, 30], [20, 10]]


def test_transparency_and_frames_are_read() -> None:
    assert read_upload(encode(Image.new("RGBA", (5, 5), (1, 2, 3, 4))), (4, 5, 5)).shape == (1, 4, 5, 5)
    frames = [Image.new("L", (5, 5), level) for level in (10, 200)]
    moving = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_upload(moving, (1, 5, 5)).max().item() * 255 == pytest.approx(10, abs=1)


def header_of(width: int, height: int) -> bytes:
    """A PNG whose header gives more pixels than the file has."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + struct.pack(">I", 10) + b"IDAT" + bytes(14)


def endless(num_scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    whole = encode(Image.new("L", (5_000, 5_000)), "JPEG", progressive=True)
    return whole[:-2] + num_scans * whole[whole.rindex(b"\xff\xc4") : -2] + whole[-2:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an image file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected an image file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected an image file"),
        (encode(Image.new("L", (9, 9)), "TIFF"), "expected an image file"),
        (encode(Image.new("L", (9, 9)))[:40], "expected an image file"),
        (header_of(9_000, 9_000), "expected at most 32,000,000 pixels, got 9000 × 9000"),
        (header_of(2**30, 2**30), "expected at most 32,000,000 pixels, got many more"),
        (b"x" * (MAX_BYTES + 1), "expected at most 16 MiB, got 16.0"),
    ],
    ids=["empty", "eps", "svg", "tiff", "half", "bomb", "overflow", "large"],
)
def test_files_that_are_not_images_within_limits_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_upload(content, (1, 4, 4))


def test_an_image_of_many_scans_is_refused() -> None:
    with pytest.raises(InputError, match="expected at most 343 scans of 25000000 pixels, got 406 in the image"):
        read_upload(endless(400), (1, 4, 4))


def test_a_run_on_vectors_refuses_an_image() -> None:
    with pytest.raises(InputError, match="expected a run on images, got one on vectors: use mfcvae assign"):
        read_upload(encode(Image.new("L", (9, 9))), (7,))


def test_transparency_becomes_white_as_for_images_of_a_folder() -> None:
    clear = encode(Image.new("RGBA", (5, 5), (0, 0, 0, 0)))
    assert (read_upload(clear, (3, 5, 5)) == 1).all()
    assert (read_upload(clear, (1, 5, 5)) == 1).all()
    half = read_upload(encode(Image.new("RGBA", (5, 5), (255, 0, 0, 128))), (3, 5, 5))
    assert (half[0, :, 0, 0] * 255).round().tolist() == [255, 127, 127]


def test_more_than_8_bits_are_refused() -> None:
    grey = encode(Image.fromarray(np.full((4, 4), 40_000, np.uint16)))
    colour = bytearray(encode(Image.new("RGB", (4, 4))))
    colour[24] = 16
    colour[29:33] = struct.pack(">I", zlib.crc32(colour[12:29]))
    for content in (grey, bytes(colour)):
        with pytest.raises(InputError, match="expected 8 bits per channel, got 16 or more: convert the image to 8"):
            read_upload(content, (3, 4, 4))
