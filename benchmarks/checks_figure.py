"""The picture of docs/checks.md: the checks of an exact guide at the left, of one that is broken at the right.

python benchmarks/checks_figure.py
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyro
from linear_gaussian import draw, linear_pair
from matplotlib.figure import Figure
from matplotlib.image import imread

from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.draws.arviz_data import to_inference_data
from pyro_mfcvae.plots import INK, save_figure

SHOWN = ("guide", "calibration", "ranks", "aggregate")
GUIDES: dict[str, dict[str, float]] = {
    "good: q(z|x) is the exact posterior": {},
    "broken: its scale halved, its mean off by one standard deviation": {"spread": 0.5, "shift": 1.0},
}


def main() -> None:
    columns: list[list[Any]] = []
    for title, guide in GUIDES.items():
        pyro.set_rng_seed(0)
        pair = linear_pair(**guide)
        x = draw(pair, 500)
        data = to_inference_data(pair, x, reference=draw(pair, 500), num_samples=100, num_simulated=4000)
        criticism = criticise(data)
        for check in criticism.checks:
            where = "" if check.facet is None else f" ({check.facet})"
            print(f"{title.split(':')[0]} | {check.name}{where} | {check.value:.3f} | {check.verdict}")
        with tempfile.TemporaryDirectory() as folder:
            figures = criticism.figures()
            for name in SHOWN:
                save_figure(figures[name], Path(folder) / f"{name}.png")
            columns.append([imread(Path(folder) / f"{name}.png")[..., :3] for name in SHOWN])
    width = max(image.shape[1] for column in columns for image in column)
    rows = [np.concatenate([_pad(image, width) for image in row], 1) for row in zip(*columns, strict=True)]
    picture = np.concatenate(rows)
    figure = Figure(figsize=(picture.shape[1] / 120, picture.shape[0] / 120 + 0.4))
    axes = figure.add_axes((0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    axes.imshow(picture)
    axes.set_axis_off()
    for index, title in enumerate(GUIDES):
        figure.text(0.01 + index / 2, 1 - 0.25 / figure.get_figheight(), title, fontsize=13, weight="bold", color=INK)
    save_figure(figure, Path(__file__).parents[1] / "docs" / "checks.png")


def _pad(image: Any, width: int) -> Any:
    return np.pad(image, ((0, 0), (0, width - image.shape[1] + 30), (0, 0)), constant_values=1.0)


if __name__ == "__main__":
    main()
