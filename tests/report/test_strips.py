import base64
import io

import numpy as np
import pytest
from PIL import Image

from pyro_mfcvae.report.strips import Strip, draw_strip, draw_table


def pixels(strip: Strip) -> np.ndarray:
    kind, _, content = strip.source.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))


def test_small_images_keep_every_pixel() -> None:
    images = [np.full((4, 14, 3), value) for value in (0.0, 0.2, 1.0)]
    strip = draw_strip(images, alt="three")
    assert strip is not None
    shown = pixels(strip)
    assert shown.shape == (4, 3 * 14 + 2, 4)  # one clear column between two images
    assert shown[0, [0, 15, 30], 0].tolist() == [0, 51, 255]
    assert shown[:, 14, 3].tolist() == [0] * 4
    assert (strip.alt, strip.width, strip.is_pixelated) == ("three", 132, True)


def test_a_table_may_have_empty_places() -> None:
    image = np.ones((2, 2, 3))
    shown = pixels(draw_table([[None, image], [image, image]], alt="table"))
    assert shown.shape == (5, 5, 4)
    assert shown[:2, :2, 3].max() == 0 and shown[3:, :2, 3].min() == 255


def test_without_images_there_is_no_strip_and_photographs_are_compressed() -> None:
    assert draw_strip([], alt="none") is None
    noise = np.random.default_rng(0).random((64, 64, 3))
    strip = draw_strip([noise], alt="one")
    assert strip is not None and not strip.is_pixelated
    assert pixels(strip)[..., :3].astype(float) / 255 == pytest.approx(noise, abs=0.9)
    assert len(strip.source) < 12_000
