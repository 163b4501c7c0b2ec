import pytest
import torch

from pyro_mfcvae.data.images import Split
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.new_items import image_size, prepare_like


def test_new_images_get_the_size_of_the_run_and_vectors_keep_theirs() -> None:
    assert image_size((3, 5, 4)) == (5, 4)
    assert image_size((12,)) is None


def test_new_items_get_the_channels_of_the_run() -> None:
    grey = Split(torch.full((2, 1, 4, 4), 9, dtype=torch.uint8))
    assert prepare_like(grey, (3, 4, 4)).images.shape == (2, 3, 4, 4)
    colour = Split(torch.tensor([255, 0, 0, 7], dtype=torch.uint8)[None, :, None, None].expand(2, 4, 4, 4))
    assert prepare_like(colour, (1, 4, 4)).images.unique().tolist() == [76]  # 0.299 × 255
    assert prepare_like(colour, (3, 4, 4)).images[0, :, 0, 0].tolist() == [255, 0, 0]
    with pytest.raises(InputError, match=r"expected items of shape \(3, 5, 4\), which the run .* got \(1, 4, 4\)"):
        prepare_like(grey, (3, 5, 4))
