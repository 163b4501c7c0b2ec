"""Batches of training items: their order, their division among devices, and where the items are kept."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_mfcvae.data.images import as_float, check_complete
from pyro_mfcvae.data.limits import in_parts
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.models.generative import MultiFacetModel


def check_images(model: MultiFacetModel, images: Tensor) -> None:
    """Check the shape of all items, and that the likelihood supports their values. This is done once, because the
    steps do not check it.
    """
    if not model.missing:
        check_complete(images)
    parts = in_parts(images) if images.is_floating_point() else (images[:1],)
    for part in parts:
        model.check_items(as_float(part).to(model.alpha))


class Batches:
    """The items of a data set in batches on Fabric's device, as floats in [0, 1], in a different order in every epoch.

    The order depends only on seed and epoch. Several devices divide every batch among themselves, in order. Items after
    the last full batch are left out of the epoch. A data set smaller than a batch is one batch.

    If all items fit into half of the free memory of a CUDA device, they are kept there in their original type.
    Otherwise they stay in host memory or memory-mapped, and a thread gathers the next batch during a step.

    Args:
        images: (N, *event_shape), uint8 or floats in [0, 1].
        batch_size: number of items in a batch, for all devices together; a multiple of the number of devices.
        seed: seed of the order.
        fabric: the devices.
    """

    def __init__(self, images: Tensor, *, batch_size: int, seed: int, fabric: Fabric) -> None:
        self.num_items = len(images)
        self.batch_size = min(batch_size, self.num_items)
        if self.batch_size % fabric.world_size:
            raise InputError(
                f"expected a batch that {fabric.world_size} devices can divide evenly, got {self.batch_size} items: "
                "choose a training.batch_size that is a multiple of the number of devices"
            )
        self._seed = seed
        self._fabric = fabric
        device = fabric.device
        self._on_device = device.type == "cuda" and images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
        self._images = images.to(device) if self._on_device else images

    def epoch(self, number: int, *, first: int = 0) -> Iterator[Tensor]:
        """This device's share of every full batch of an epoch, from batch number ``first`` on."""
        entropy = np.random.SeedSequence((self._seed, number)).generate_state(1, np.uint32)
        order = torch.randperm(self.num_items, generator=torch.Generator().manual_seed(int(entropy[0])))
        if self._on_device:
            # The order is copied to the device once per epoch, so that no batch waits for it.
            order = order.to(self._images.device)
        rank, size = self._fabric.global_rank, self.batch_size // self._fabric.world_size
        shares = [batch[rank * size : (rank + 1) * size] for batch in order.split(self.batch_size)]
        if len(order) % self.batch_size:
            shares.pop()
        shares = shares[first:]
        if self._on_device:
            yield from map(self.load, shares)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._gather, shares[0])
            for following in (*shares[1:], None):
                items = coming.result()
                if following is not None:
                    coming = reader.submit(self._gather, following)
                yield self._send(items)

    def load(self, indices: Tensor) -> Tensor:
        """The items with the given indices."""
        if self._on_device:
            return as_float(self._images[indices.to(self._images.device)])
        return self._send(self._gather(indices))

    def random(self, num: int) -> Tensor:
        """``num`` random items, or all if there are fewer; uses torch's random state."""
        return self.load(torch.randperm(self.num_items)[:num])

    def _gather(self, indices: Tensor) -> Tensor:
        # NumPy does this in the current thread; torch would start further threads, which would compete with the
        # training.
        items = torch.from_numpy(self._images.numpy()[indices.numpy()])
        return items.pin_memory() if self._fabric.device.type == "cuda" else items

    def _send(self, items: Tensor) -> Tensor:
        return as_float(items.to(self._fabric.device, non_blocking=True))  # copied as bytes
