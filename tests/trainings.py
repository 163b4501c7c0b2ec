"""Small trainings on noise; the first pixel of an item is its number."""

import torch
from lightning_fabric import Fabric
from small_configs import SMALL
from torch import Tensor, nn

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.text import override
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.train.training import Training

STILL = 1e-300  # a learning rate that changes nothing in double precision


def draw_images(num: int) -> Tensor:
    """Grey images whose first pixel is their number, divided by num."""
    images = torch.rand(num, 1, 6, 6)
    images[:, 0, 0, 0] = torch.arange(num) / num
    return images


def prepare(*settings: str, num: int = 60, seed: int = 0, fabric: Fabric | None = None) -> Training:
    config = override(SMALL, settings)
    schedule = build_schedule(config, steps_per_epoch(num, config.training.batch_size))
    images = draw_images(num)
    return Training(
        build_pair(config, (1, 6, 6)),
        images,
        schedule=schedule,
        settings=config.training,
        mixture_fit=config.mixture_fit,
        seed=seed,
        fabric=fabric,
    )


def watch_batches(training: Training) -> list[list[int]]:
    """A list that fills with the item numbers of every training step's batch, as the encoder sees them."""
    batches: list[list[int]] = []

    def see(_: nn.Module, args: tuple[Tensor], __: object) -> None:
        if torch.is_grad_enabled():  # fits of the mixtures and counts of clusters run without gradients
            batches.append([round(number) for number in (args[0][:, 0, 0, 0] * len(training.images)).tolist()])

    training.pair.guide.encoder.register_forward_hook(see)
    return batches
