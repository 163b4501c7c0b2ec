"""Every test runs in float64, seeded, with an empty parameter store and validation; fixtures make small pairs."""

import gc
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pyro
import pytest
import torch
from command_line import TINY, Run, make_images, save_data
from torch import Tensor, nn

from pyro_mfcvae import Facet
from pyro_mfcvae.cli import app as cli
from pyro_mfcvae.cli import terminal
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    VaDEAssignment,
)
from pyro_mfcvae.models import BernoulliLikelihood, Likelihood, MixturePrior, MLPLadderDecoder, MultiFacetModel
from pyro_mfcvae.models.fits import Covariance
from pyro_mfcvae.runs.folder import RunFolder

EVENT_SHAPE = (1, 2, 3)

# torch stores a stack trace for every seed, so that it can seed CUDA later. Formatting these takes seconds of the
# suite.
if not torch.cuda.is_available():
    torch.cuda.manual_seed_all = lambda seed: None


@pytest.fixture(autouse=True)
def exact_and_repeatable() -> Iterator[None]:
    torch.set_num_threads(1)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    torch.set_default_dtype(dtype)


def pytest_collection_finish() -> None:
    """Leave modules out of garbage collections, because they live until the end, and collect less often. A collection
    visits half a million objects of torch and of the tests, and collections took a twelfth of the time of the suite.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


def build_facets(num_facets: int) -> tuple[Facet, ...]:
    """Facets that differ in K and in D, so that exchanged axes are detected: K = 3, 4, 5, D = 2, 3, 4."""
    return tuple(Facet(num_clusters=3 + j, latent_dim=2 + j) for j in range(num_facets))


def build_rule(rule: type[AssignmentRule], facets: tuple[Facet, ...]) -> AssignmentRule:
    if rule is AmortizedAssignment:
        return AmortizedAssignment(facets, hidden_dim=16)
    if rule is MonteCarloAssignment:
        return MonteCarloAssignment(num_samples=4)
    return VaDEAssignment(num_samples=3) if rule is VaDEAssignment else rule()


@torch.no_grad()
def scatter(module: nn.Module) -> None:
    """Move every parameter away from its special starting value."""
    for parameter in module.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))


@pytest.fixture
def make_facets() -> Callable[[int], tuple[Facet, ...]]:
    return build_facets


@pytest.fixture
def make_pair() -> Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]:
    """A factory of small pairs at random parameters; their images have the shape (1, 2, 3)."""

    def make(
        num_facets: int = 2,
        *,
        covariance: Covariance = "diagonal",
        learn_weights: bool = True,
        rule: type[AssignmentRule] = AnalyticAssignment,
        likelihood: Likelihood | None = None,
        num_data: int | None = None,
        name: str | None = None,
    ) -> tuple[MultiFacetModel, MultiFacetGuide]:
        facets = build_facets(num_facets)
        dims = tuple(range(9, 9 + num_facets))  # wide enough that not all ReLUs of a layer are off
        model = MultiFacetModel(
            [MixturePrior(f, covariance=covariance, learn_weights=learn_weights) for f in facets],
            MLPLadderDecoder(facets, EVENT_SHAPE, rung_dims=dims, hidden_dim=8, merge_weight=0.5),
            likelihood or BernoulliLikelihood(),
            num_data=num_data,
            name=name,
        )
        encoder = MLPLadderEncoder(facets, EVENT_SHAPE, rung_dims=dims)
        guide = MultiFacetGuide(model, encoder=encoder, assignment=build_rule(rule, facets))
        scatter(model)
        scatter(guide)
        return model, guide

    return make


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are fitted without their figures, which take a second each."""
    monkeypatch.setattr("pyro_mfcvae.runs.fit._draw", lambda *_: None)


@pytest.fixture
def make_x() -> Callable[[int], Tensor]:
    """A factory of grey images."""
    return lambda num: torch.rand(num, *EVENT_SHAPE)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `data.npz` only; single precision, a wide terminal, and no data folder."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MFCVAE_DATA", raising=False)
    monkeypatch.setattr(terminal.console, "width", 300)
    monkeypatch.setattr(terminal.console, "quiet", False)  # an earlier command with --json sets it
    save_data(tmp_path / "data.npz", make_images())
    return tmp_path


@pytest.fixture
def mfcvae(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*args: str) -> tuple[int, str, str]:
        try:
            cli.main(args)
            code = 0
        except SystemExit as leave:
            assert isinstance(leave.code, int)
            code = leave.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a finished run on `data.npz`, trained once, without its figures, which take a second."""
    place, dtype = tmp_path_factory.mktemp("trained"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    save_data(place / "data.npz", make_images())
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        patch.chdir(place)
        patch.setattr("pyro_mfcvae.runs.fit._draw", lambda *_: None)
        cli.main(["fit", "--data", "data.npz", "--out", "run", "--set", *TINY])
    torch.set_default_dtype(dtype)
    return place


@pytest.fixture
def fitted(place: Path, trained: Path) -> Path:
    """The folder of a finished run on the working folder's `data.npz`."""
    path = Path("run")
    shutil.copytree(trained / "run", path)
    run = RunFolder(path)
    summary = run.read_summary()
    run.config_path.write_text(run.config_path.read_text().replace(str(trained), str(place)))
    run.write_summary({**summary, "data": str(place / "data.npz")})
    return path
