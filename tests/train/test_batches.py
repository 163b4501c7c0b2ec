"""Batches. The whole trainings in test_training.py show that every item comes once an epoch, in the seed's order."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.data.readers import read_npy
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.train.batches import Batches


@dataclass
class Place:
    """The part of Fabric that batches use."""

    global_rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def batches(images: torch.Tensor, batch_size: int = 20, **place: Any) -> Batches:
    return Batches(images, batch_size=batch_size, seed=3, fabric=Place(**place))  # type: ignore[arg-type]


def draw_bytes(num: int) -> torch.Tensor:
    return torch.randint(256, (num, 1, 4, 3), dtype=torch.uint8)


def test_mapped_items_come_in_the_order_of_those_in_memory(tmp_path: Path) -> None:
    images = draw_bytes(75)
    np.save(tmp_path / "a.npy", images.numpy())
    mapped = read_npy(tmp_path / "a.npy")[0].images
    for epoch in range(2):
        here, there = (list(batches(x).epoch(epoch)) for x in (images, mapped))
        assert len(here) == 3
        assert torch.equal(torch.stack(here), torch.stack(there))


def test_shares_of_several_devices_are_the_batches_of_one() -> None:
    images = draw_bytes(75)
    whole = list(batches(images).epoch(1))
    shares = [list(batches(images, global_rank=rank, world_size=4).epoch(1)) for rank in range(4)]
    assert all(torch.equal(torch.cat(parts), batch) for *parts, batch in zip(*shares, whole, strict=True))


def test_items_are_loaded_by_index_or_at_random() -> None:
    images = draw_bytes(30)
    feed = batches(images)
    assert torch.equal(feed.load(torch.tensor([3, 1])), as_float(images[[3, 1]]))
    assert feed.random(7).shape == (7, 1, 4, 3)
    assert sorted(map(str, feed.random(99))) == sorted(map(str, as_float(images)))


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(InputError, match="a batch that 3 devices can divide evenly, got 20 items: choose a training"):
        batches(draw_bytes(60), world_size=3)


def test_an_epoch_may_be_left_early() -> None:
    epoch = batches(draw_bytes(60)).epoch(0)
    next(epoch)
    epoch.close()


@pytest.mark.gpu
def test_items_that_fit_lie_on_the_gpu_as_bytes() -> None:
    images, device = draw_bytes(75), torch.device("cuda", 0)
    feed = batches(images, device=device)
    assert feed._images.device == device and feed._images.dtype == torch.uint8
    for here, there in zip(feed.epoch(0), batches(images).epoch(0), strict=True):
        # CUDA divides by 255 with an error of one unit in the last place.
        torch.testing.assert_close(here.cpu(), there, rtol=3e-7, atol=0)
