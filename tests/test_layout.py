"""The layout: folders and their order, arrows between and inside them, sizes, and what an import loads."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES: dict[str, str] = SETUPTOOLS["package-dir"]

# From the bottom to the top: a folder, or a file beside the folders, imports from its own row and from those before it.
ORDER = (
    {"errors", "atomic_io", "lazy", "safety"},
    {"facets", "metrics", "plots", "data"},
    {"interop", "networks", "convolutions"},
    {"models"},
    {"guides", "groups"},
    {"infer"},
    {"subspaces"},
    {"mfcvae"},
    {"config", "draws"},
    {"checks"},
    {"train"},
    {"runs"},
    {"api", "estimator", "report", "explore", "testing"},
    {"cli"},
)
RANKS = {name: rank for rank, row in enumerate(ORDER) for name in row}
FREE = {"pyro_mfcvae", "pyro_mfcvae.__main__"}  # the public names, and the entry point of the command line
MOST_MODULES = 12
MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 60
MOST_ARGUMENTS = 8
# Tests of several modules together; every other test file has the name and the folder of a module.
TESTS_OF_THE_WHOLE = {
    "explore/browser",
    "report/browser",
    "full_disk",
    "snippets",
    "documentation",
    "draws/arviz_versions",
    "cli/mistakes",
    "config/presets",
    "known_clusters",
    "copies",
    "pyro_tools",
    "combinations",
    "layout",
    "traps",
    "parameter_store",
    "train/starting_values",
    "infer/schedule_fits",
    "infer/compiled_training",
    "runs/stopped_runs",
    "exactness",
    "optimality",
    "half_precision",
    "parts_on_a_gpu",
    "testing/old_faults",
    "interoperability",
    "examples",
    "benchmarks",
    "benchmark_scripts",
    "reliability",
}
HEAVY = {"arviz", "matplotlib", "sklearn", "h5py", "pyarrow", "pandas"}


def find_modules() -> dict[str, Path]:
    """Full name → file of every module of the package."""
    modules = {}
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            modules[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return modules


MODULES = find_modules()
FOLDERS = {name: path.parent for name, path in MODULES.items() if path.name == "__init__.py"}


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


BOUND = [name for name in MODULES if name not in FREE]


@cache
def arrows_of(module: str) -> set[str]:
    """The modules that a module imports."""
    return imports_of(MODULES[module].read_text())


def rank_of(module: str) -> int:
    """Row of a module's folder, 0 at the bottom."""
    part = module.split(".")[1]
    if part not in RANKS:
        pytest.fail(f"no row of ORDER names {module}: add {part!r} to ORDER in tests/test_layout.py")
    return RANKS[part]


@pytest.mark.parametrize("module", BOUND)
def test_imports_point_down(module: str) -> None:
    for target in arrows_of(module):
        assert target not in FREE, f"{module} imports {target}, which imports everything: name the module instead"
        assert rank_of(target) <= rank_of(module), f"{module} imports {target}, which is above it"


def test_folders_have_no_import_circle() -> None:
    folders: dict[str, set[str]] = {}
    for module in BOUND:
        here = module.split(".")[1]
        folders.setdefault(here, set()).update(target.split(".")[1] for target in arrows_of(module))
    TopologicalSorter({name: targets - {name} for name, targets in folders.items()}).prepare()


def test_modules_have_no_import_circle() -> None:
    TopologicalSorter({module: arrows_of(module) for module in BOUND}).prepare()


def test_a_folder_s_modules_do_not_import_the_folder() -> None:
    """The names of a folder are meant for other folders; inside the folder, a module imports the module that it
    needs.
    """
    for module in BOUND:
        targets = arrows_of(module)
        if module not in FOLDERS:
            assert module.rpartition(".")[0] not in targets, f"{module} imports its own folder"


def test_imports_are_detected_in_every_form() -> None:
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


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_small_and_have_a_docstring(folder: str) -> None:
    modules = [path for path in FOLDERS[folder].glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(modules) <= MOST_MODULES
    assert ast.get_docstring(ast.parse(MODULES[folder].read_text()))


def test_the_folder_of_the_package_has_at_most_a_dozen_files() -> None:
    assert len(list((ROOT / "pyro_mfcvae").glob("*.py"))) <= MOST_MODULES


def test_files_are_short() -> None:
    folders = ("pyro_mfcvae", "models", "guides", "tests", "benchmarks", "examples")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 300
    assert [path for path in paths if len(path.read_text().splitlines()) > MOST_LINES] == []


def functions_of(folder: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method of a folder, with the place where it stands."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The names of all arguments but self or cls."""
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


@pytest.mark.parametrize("folder", ["pyro_mfcvae", "models", "guides", "benchmarks", "examples"])
def test_functions_are_short_and_take_few_arguments(folder: str) -> None:
    """The lines include the docstring. A private function or a constructor may take more arguments."""
    for place, function in functions_of(folder):
        assert (function.end_lineno or 0) - function.lineno + 1 <= MOST_LINES_OF_A_FUNCTION, place
        if not function.name.startswith("_"):
            assert len(arguments_of(function)) <= MOST_ARGUMENTS, place


def test_packages_on_disk_are_declared() -> None:
    declared = set(SETUPTOOLS["packages"])
    on_disk = set(FOLDERS)
    assert declared == on_disk


def test_tests_mirror_the_folders() -> None:
    expected = TESTS_OF_THE_WHOLE | {
        "/".join(name.split(".")[1:]) for name, path in MODULES.items() if path.name != "__init__.py"
    }
    for path in (ROOT / "tests").rglob("test_*.py"):
        stem = path.relative_to(ROOT / "tests").with_suffix("").as_posix().replace("test_", "")
        assert stem in expected, f"tests/{stem} tests no module: give it the name and the folder of one"


def loaded_by(program: str) -> set[str]:
    """The modules that a separate program loads."""
    program = f"import sys\n{program}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert not (HEAVY | {"torch", "pyro", "numpy"}) & loaded_by(
        "import pyro_mfcvae, pyro_mfcvae.config, pyro_mfcvae.data"
    )


@pytest.mark.slow
def test_every_public_name_loads_nothing_heavier_than_torch_and_pyro() -> None:
    names = (
        "[name for name in pyro_mfcvae.__all__ if name != 'MultiFacetClustering']"  # the estimator loads scikit-learn
    )
    loaded = loaded_by(f"import pyro_mfcvae\nfor name in {names}: getattr(pyro_mfcvae, name)")
    assert {"torch", "pyro"} <= loaded
    assert HEAVY.isdisjoint(loaded)


def test_commands_load_nothing_heavy_before_they_run() -> None:
    program = "from pyro_mfcvae.cli.app import COMMANDS, find_command\nfor name in COMMANDS: find_command(name)"
    assert not (HEAVY | {"torch", "pyro", "numpy"}) & loaded_by(program)


@pytest.mark.parametrize("package", ["pyro_mfcvae", "pyro_mfcvae.config", "pyro_mfcvae.data"])
def test_lazy_packages_have_the_names_that_they_list(package: str) -> None:
    module = import_module(package)
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_models_and_guides_are_not_global_packages() -> None:
    import pyro_mfcvae.guides
    import pyro_mfcvae.models

    assert Path(pyro_mfcvae.models.__file__).parent == ROOT / "models"
    assert Path(pyro_mfcvae.guides.__file__).parent == ROOT / "guides"
    assert not {"models", "guides"} & set(sys.modules)


def test_contributing_lists_at_least_twelve_changes() -> None:
    """Every path of its table exists, and the names in a row are defined in one of the row's files."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 12
    for row in rows:
        paths = [ROOT / path for path in re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", row)]
        assert paths, row
        for path in paths:
            assert path.exists(), path
        sources = "\n".join(
            file.read_text() for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])
        )
        for name in re.findall(r"`(_?[A-Z]\w+)`", row):
            assert re.search(rf"^(class )?{name}\b", sources, re.MULTILINE), f"{name} is in no file of: {row}"
