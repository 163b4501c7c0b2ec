"""Draw the pictures of docs/checks.md: every kind of check, for an exact pair at the left and a broken pair at the
right.

python benchmarks/checks_figure.py
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from known_models import Fault, draw, make_pair
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.draws.arviz_data import to_inference_data
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.plots import INK, save_figure

NUM_ITEMS = 1000


def make_broken(**fault: Any) -> MFCVAE:
    return make_pair(3, 2, fault=Fault(**fault))


@torch.no_grad()
def draw_twins(pair: MFCVAE) -> Tensor:
    """Items whose two facets have the same z."""
    z = pair.model.priors[0]().sample(NUM_ITEMS)[1]
    return pair.model.observation([z, z]).sample()


# Kind of check → what is broken, the pair, and its data.
BROKEN: dict[str, tuple[str, Callable[[], MFCVAE], Callable[[MFCVAE], Tensor]]] = {
    "information": (
        "the decoder ignores facet 1",
        lambda: make_pair(3, 2, cut=(1,)),
        lambda pair: draw(pair, NUM_ITEMS),
    ),
    "predictions": (
        "the noise of the likelihood is 1.5 times too large",
        lambda: make_pair(3, 2, noise=1.5),
        lambda pair: draw(make_pair(3, 2), NUM_ITEMS),
    ),
    "guide": ("q(z_1|x) half as wide", lambda: make_broken(spread=0.5), lambda pair: draw(pair, NUM_ITEMS)),
    "calibration": ("q(c_1|x)^.5", lambda: make_broken(temper=0.5), lambda pair: draw(pair, NUM_ITEMS)),
    "ranks": ("q(z_1|x) half as wide", lambda: make_broken(spread=0.5), lambda pair: draw(pair, NUM_ITEMS)),
    "aggregate": (
        "two clusters of facet 1's prior merged",
        lambda: make_pair(3, 2, layout="merged"),
        lambda pair: draw(make_pair(3, 2), NUM_ITEMS),
    ),
    "stability": ("both facets have the same z", lambda: make_pair(3, 2), draw_twins),
    "overfitting": (
        "noisier items than in training",
        lambda: make_pair(3, 2),
        lambda pair: draw(make_pair(3, 2, noise=1.3), NUM_ITEMS),
    ),
}


def picture(kind: str, pair: MFCVAE, x: Tensor) -> Any:
    data = to_inference_data(pair, x, reference=draw(make_pair(3, 2), 300), num_samples=64, pixels=False)
    criticism = criticise(data)
    for check in criticism.checks:
        if check.verdict != "good":
            print(f"{kind} | {check.name} ({check.facet}) | {check.value:.3f} | {check.verdict}")
    with tempfile.TemporaryDirectory() as folder:
        save_figure(criticism.figures()[kind], Path(folder) / "figure.png")
        return imread(Path(folder) / "figure.png")[..., :3]


def main() -> None:
    for kind, (fault, make, show) in BROKEN.items():
        images = []
        for pair, source in ((make_pair(3, 2), lambda pair: draw(pair, NUM_ITEMS)), (make(), show)):
            pyro.set_rng_seed(0)
            images.append(picture(kind, pair, source(pair)))
        height = max(image.shape[0] for image in images)
        width = 40 + max(image.shape[1] for image in images)
        rims = [((0, height - i.shape[0]), (0, width - i.shape[1]), (0, 0)) for i in images]
        padded = [np.pad(i, rim, constant_values=1.0) for i, rim in zip(images, rims, strict=True)]
        whole = np.concatenate(padded, 1)
        figure = Figure(figsize=(whole.shape[1] / 120, whole.shape[0] / 120 + 0.4))
        axes = figure.add_axes((0, 0, 1, 1 - 0.4 / figure.get_figheight()))
        axes.imshow(whole)
        axes.set_axis_off()
        top = 1 - 0.25 / figure.get_figheight()
        for place, title in ((0.01, "exact"), (padded[0].shape[1] / whole.shape[1] + 0.01, f"broken: {fault}")):
            figure.text(place, top, title, fontsize=13, weight="bold", color=INK)
        save_figure(figure, Path(__file__).parents[1] / "docs" / f"checks-{kind}.png")


if __name__ == "__main__":
    main()
