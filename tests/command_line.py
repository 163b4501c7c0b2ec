"""Shared by the tests of the command line: a tiny configuration, small data, and the type of their fixture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TINY = [
    "networks.kind=mlp",
    "facets.num_clusters=[4, 3]",
    "facets.latent_dim=[2, 2]",
    "networks.encoder_dims=[8, 8]",
    "networks.decoder_dims=[8, 8]",
    "networks.hidden_dim=8",
    "training.epochs=[2, 2]",
    "training.batch_size=20",
    "mixture_fit.warmup_steps=2",
    "mixture_fit.refit_steps=[]",
    "mixture_fit.joint_refit_steps=[]",
    "schedule.fade_in_steps=4",
]


def make_images(num: int = 80, size: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(256, size=(num, size, size), dtype=np.uint8)


def save_data(path: Path, images: NDArray[np.generic]) -> str:
    np.savez(path, images=images, side=np.arange(len(images)) % 2)
    return str(path)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


Run = Callable[..., tuple[int, str, str]]


def check_scores(out: str, summary: dict[str, Any]) -> None:
    """The table has the numbers of ``summary.json``."""
    rows = [" ".join(line.split()) for line in out.splitlines()]
    for j, facet in enumerate(summary["facets"]):
        cells = [
            f"{scores['accuracy']['side']:.3f} {scores['nmi']['side']:z.2f} {scores['ari']['side']:z.2f}"
            for scores in (facet["groups"], facet)
        ]
        use = f"{facet['num_groups']} {facet['clusters_in_use']} of {facet['num_clusters']}"
        assert f"{j} {use} side {' '.join(cells)}" in rows
