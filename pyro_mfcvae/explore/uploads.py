"""Read an image of the user, with limits, and convert it to the form of the run's items."""

import io
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pyro_mfcvae.data.limits import READ_ERRORS, check_scans
from pyro_mfcvae.errors import InputError

MAX_BYTES = 16 * 2**20
MAX_PIXELS = 32_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_PNG_DEPTH = 24  # position of the byte with the bits per channel
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_upload(content: bytes, event_shape: Sequence[int]) -> Tensor:
    """Read an image as floats in [0, 1], (1, C, H, W): rotated upright, cropped to the middle, and resized.

    Args:
        content: the bytes of an image file, of which the first frame is used.
        event_shape: (C, H, W) of the run's items.

    Raises:
        InputError: the bytes are not an image in a supported format, or the header gives too many pixels.
    """
    if len(event_shape) != 3:
        raise InputError("expected a run on images, got one on vectors: use mfcvae assign for vectors of your own")
    channels, height, width = event_shape
    if len(content) > MAX_BYTES:
        raise InputError(f"expected at most {MAX_BYTES // 2**20} MiB, got {len(content) / 2**20:.1f}: reduce the image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # because the limit below is lower
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(
                        f"expected at most {MAX_PIXELS:,} pixels, got {image.width} × {image.height}: reduce the image"
                    )
                if image.format in ("JPEG", "MPO"):
                    check_scans(io.BytesIO(content), image.width * image.height, "the image")
                if image.mode.startswith(("I", "F")) or (image.format == "PNG" and content[_PNG_DEPTH] > 8):
                    raise InputError("expected 8 bits per channel, got 16 or more: convert the image to 8 bits")
                upright = ImageOps.exif_transpose(image)
                if channels < 4 and upright.has_transparency_data:  # on white, like images of a folder
                    upright = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
                fitted = ImageOps.fit(upright.convert(_MODES[channels]), (width, height), Image.Resampling.BOX)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"expected at most {MAX_PIXELS:,} pixels, got many more: reduce the image") from None
    except READ_ERRORS as error:
        kinds = ", ".join(_FORMATS)
        raise InputError(f"expected an image file ({kinds}), got one that cannot be read: choose another") from error
    pixels = np.asarray(fitted, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    return torch.from_numpy(pixels.copy()).to(torch.get_default_dtype())[None] / 255
