"""A run of a tiny untrained model, with its explorer."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import TINY, make_images, save_data

pytest.importorskip("starlette", reason="the extra explore is not installed")

import pyro
import torch
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.server import open_desk
from pyro_mfcvae.runs.checkpoints import save_pair
from pyro_mfcvae.runs.folder import RunFolder

ORIGIN = "http://localhost"


def write_run(folder: Path, *, num_items: int = 200, size: int = 6, settings: tuple[str, ...] = ()) -> RunFolder:
    """A run folder like that of a fit, but without training."""
    folder.mkdir(parents=True, exist_ok=True)
    data = save_data(folder.parent / "data.npz", make_images(num_items, size))
    config = override(load_preset("shapes"), [*TINY, f"data.source={data}", *settings])
    run = RunFolder(folder)
    run.write_config(config)
    pyro.set_rng_seed(0)
    pair = build_pair(config, (1, size, size))
    with torch.no_grad():
        for parameter in pair.parameters():  # heads start at zero, so that all items would lie at the same point
            parameter.add_(0.3 * torch.randn_like(parameter))
    save_pair(pair, run.model_path)
    return run


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    desk = open_desk(write_run(tmp_path_factory.mktemp("explore") / "run"))
    torch.set_default_dtype(dtype)
    return desk


@pytest.fixture
def desk(opened: Desk, tmp_path: Path) -> Desk:
    """A copy with 4 clusters in 3 groups of facet 0, and 3 clusters in 2 groups of facet 1."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(opened.run.path, run.path)
    return Desk(run=run, pair=opened.pair, items=opened.items, grouping=opened.grouping.cut(0, 3).cut(1, 2))


@pytest.fixture
def visit() -> Callable[..., TestClient]:
    """A client of an application, which follows no redirects and sees errors as pages."""

    def make(app: ASGIApp) -> TestClient:
        return TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False)

    return make


@pytest.fixture
def client(desk: Desk, visit: Callable[..., TestClient]) -> TestClient:
    client = visit(build_app(desk))
    client.headers["origin"] = ORIGIN
    return client
