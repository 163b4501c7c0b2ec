"""The layout that DESIGN.md fixes: layers, packages, test files, and what an import loads."""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES: dict[str, str] = SETUPTOOLS["package-dir"]

# From top to bottom: a module imports from its own layer and from those below it.
LAYERS = (
    {"cli", "cli_images", "cli_checks", "terminal", "report", "explorer", "estimator"},
    {"training", "stacked", "supervision", "fitting", "sweeping", "evaluation", "metrics", "criticism", "monitors"}
    | {"plots", "compositions", "runs", "checkpoints", "config", "settings", "presets", "build", "parts"}
    | {"devices", "batches", "mapped_files"}
    | {"predictive_checks", "guide_quality", "calibration", "simulation_ranks", "aggregate_posterior"}
    | {"cluster_stability", "typicality", "verdicts", "comparison", "check_plots"}
    | {"inference_data", "posterior_draws", "image_statistics"}
    | {"datasets", "image_files", "published_files", "shapes", "shapes3d", "scenes"},
    {"mfcvae", "objective", "importance", "schedules", "initialization"},
    {"guides"},
    {"models"},
    {"networks", "convolutions", "facets", "compilation", "errors", "files"},
)
FREE = {"pyro_mfcvae", "pyro_mfcvae.__main__"}  # the public names, and the door to the command line
TESTS_OF_THE_WHOLE = {
    "cli_mistakes",
    "known_clusters",
    "combinations",
    "layout",
    "traps",
    "exactness",
    "optimality",
    "interoperability",
    "examples",
    "benchmarks",
    "arviz_versions",
}
HEAVY = {"arviz", "matplotlib", "sklearn", "h5py", "torchvision"}


def find_modules() -> dict[str, Path]:
    """Full name → file of each module of the three flat packages."""
    return {
        package if path.stem == "__init__" else f"{package}.{path.stem}": path
        for package, folder in PACKAGES.items()
        for path in sorted((ROOT / folder).glob("*.py"))
    }


MODULES = find_modules()


def layer_of(module: str) -> int:
    """Rank of a module's layer, 0 at the top."""
    part = module.split(".")[1]
    for rank, layer in enumerate(LAYERS):
        if part in layer:
            return rank
    pytest.fail(f"no layer names {module}: add {part!r} to LAYERS in tests/test_layout.py, and to CONTRIBUTING.md")


def imports_of(source: str) -> set[str]:
    """Our own modules that a program imports, at its top or inside a function."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            named.update(submodules if submodules <= MODULES.keys() else {node.module})
    return named & MODULES.keys()


LAYERED = {name: imports_of(path.read_text()) for name, path in MODULES.items() if name not in FREE}


@pytest.mark.parametrize("module", LAYERED)
def test_imports_point_down(module: str) -> None:
    for target in LAYERED[module]:
        assert target not in FREE, f"{module} imports {target}, which imports everything: name the module instead"
        assert layer_of(target) >= layer_of(module), f"{module} imports {target}, which is in a higher layer"


@pytest.mark.parametrize("module", LAYERED)
def test_every_module_has_a_layer(module: str) -> None:
    assert 0 <= layer_of(module) < len(LAYERS)


def test_imports_have_no_cycle() -> None:
    TopologicalSorter(LAYERED).prepare()


def test_imports_are_seen_in_every_form() -> None:
    source = """
import pyro_mfcvae.facets
from pyro_mfcvae.errors import InputError
from pyro_mfcvae import networks
def f():
    import torch
    from pyro_mfcvae.models import MixturePrior
"""
    assert imports_of(source) == {
        "pyro_mfcvae.facets",
        "pyro_mfcvae.errors",
        "pyro_mfcvae.networks",
        "pyro_mfcvae.models",
    }


def test_packages_on_disk_are_declared() -> None:
    on_disk = {
        path.parent.relative_to(ROOT).as_posix()
        for folder in PACKAGES.values()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert on_disk == set(PACKAGES.values())
    assert set(SETUPTOOLS["packages"]) == set(PACKAGES)


def test_every_test_file_has_a_module() -> None:
    stems = {path.stem for path in MODULES.values()} | TESTS_OF_THE_WHOLE
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert tests <= stems


def test_import_loads_nothing_heavy() -> None:
    program = "import sys, pyro_mfcvae; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "pyro_mfcvae" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_models_and_guides_are_no_global_packages() -> None:
    import pyro_mfcvae.guides
    import pyro_mfcvae.models

    assert Path(pyro_mfcvae.models.__file__).parent == ROOT / "models"
    assert Path(pyro_mfcvae.guides.__file__).parent == ROOT / "guides"
    assert not {"models", "guides"} & set(sys.modules)
