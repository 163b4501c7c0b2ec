import sys
from pathlib import Path

import pytest

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.custom_parts import find_function, find_part, import_module_of, import_parts, make_part
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override, read_config
from pyro_mfcvae.guides import LadderEncoder
from pyro_mfcvae.models import FacetPrior, LadderDecoder, MixturePrior, VampPrior

FACET = Facet(num_clusters=3, latent_dim=2)
PART = """
from pathlib import Path
from pyro_mfcvae.guides import LadderEncoder
from pyro_mfcvae.models import FacetPrior, LadderDecoder, MixturePrior

class Mine(MixturePrior):
    def __init__(self, facet, *, spread=1.0):
        super().__init__(facet)
        self.spread = spread

def mine(facet) -> MixturePrior:
    return Mine(facet, spread=2.0)

def liar(facet) -> MixturePrior:
    return 3

def without_annotation(facet):
    Path("called").touch()
    return Mine(facet)

def ladder(facets, output_shape) -> tuple[LadderEncoder, LadderDecoder]:
    return 1, 2

nothing = 3
"""
OPENED = """
[data]
source = "none"
[prior]
kind = "{}"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the working folder that is not imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "of_a_user", raising=False)
    (tmp_path / "of_a_user.py").write_text(PART)
    return "of_a_user"


def make(path: str, **options: object) -> FacetPrior:
    prior: FacetPrior = make_part(find_part(path, FacetPrior), FacetPrior, FACET, provided={}, options=options)
    return prior


def test_a_part_is_made_with_its_arguments_and_options(module: str) -> None:
    import_parts([module])
    prior = make(f"{module}.Mine", spread=2.5)
    assert isinstance(prior, MixturePrior)
    assert (prior.facet, prior.spread) == (FACET, 2.5)
    assert make(f"{module}.mine").spread == 2.0


def test_the_search_path_is_left_alone(module: str) -> None:
    before = list(sys.path)
    import_parts([module])
    with pytest.raises(InputError):
        import_parts(["nowhere"])
    assert sys.path == before


def test_a_file_imports_nothing(module: str) -> None:
    """Only modules that are already imported are searched; the working folder is not."""
    for path in (f"{module}.Mine", "subprocess.getoutput", "antigravity.geohash"):
        config = read_config(OPENED.format(path), source="config.toml")
        loaded = set(sys.modules)
        with pytest.raises(
            InputError, match=r"^expected a (part whose module is imported|class that derives from Facet)"
        ):
            build_pair(config, (1, 2, 3))
        assert set(sys.modules) == loaded
    assert module not in sys.modules


def test_modules_named_by_set_and_parts_are_imported(module: str) -> None:
    config = read_config(OPENED.format(f"{module}.Mine"), source="config.toml")
    with pytest.raises(
        InputError, match=r"if you trust it, give --parts of_a_user \(in Python: import of_a_user\), or"
    ):
        build_pair(config, (1, 2, 3))
    override(Config(data=DataConfig(source="none")), [f"prior={module}.Mine"])
    assert type(build_pair(config, (1, 2, 3)).model.priors[0]).__name__ == "Mine"


@pytest.mark.parametrize("value", ["of_a_package.parts", "of_a_package.parts:Mine"])
def test_installed_packages_declare_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    (tmp_path / "of_a_package").mkdir()
    (tmp_path / "of_a_package" / "__init__.py").touch()
    (tmp_path / "of_a_package" / "parts.py").write_text(PART)
    info = tmp_path / "of_a_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-a-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pyro_mfcvae.parts]\nmine = {value}\n")
    for module in ("of_a_package", "of_a_package.parts"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert find_part("of_a_package.parts.Mine", FacetPrior).__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_a_user.Yours", "expected a class or a function in of_a_user, got 'Yours', which is not there: check"),
        ("of_a_user.nothing", "expected a class that derives from FacetPrior, or a function annotated to return one"),
        (
            "of_a_user.Path",
            "expected a class that derives from FacetPrior, or a function annotated .*, got of_a_user.Path",
        ),
        (
            "of_a_user.without_annotation",
            "expected a class that derives from FacetPrior, or .*: derive it from that class",
        ),
        ("of_a_user.ladder", "expected a class that derives from FacetPrior, or .*, got of_a_user.ladder"),
        ("of_a_user.liar", "expected liar to make a FacetPrior, got a int: correct it"),
        ("Mine", "expected an import path such as my_module.MyPart, got 'Mine': write MODULE.NAME"),
        (".Mine", "expected an import path such as my_module.MyPart, got '.Mine': write MODULE.NAME"),
    ],
)
def test_only_the_right_kind_of_thing_is_called(module: str, name: str, message: str) -> None:
    import_parts([module])
    with pytest.raises(InputError, match=message):
        make(name)
    assert not Path("called").exists()


def test_a_pair_of_parts_comes_from_a_function_annotated_to_return_both(module: str) -> None:
    import_parts([module])
    ladder = (LadderEncoder, LadderDecoder)
    found = find_part(f"{module}.ladder", ladder)
    with pytest.raises(InputError, match="expected ladder to make a LadderEncoder and LadderDecoder, got a tuple"):
        make_part(found, ladder, (FACET,), (1, 2, 3), provided={}, options={})
    with pytest.raises(
        InputError, match="derives from LadderEncoder and LadderDecoder, or a function annotated to ret"
    ):
        find_part(f"{module}.mine", ladder)


def test_wrong_options_are_named(module: str) -> None:
    import_parts([module])
    with pytest.raises(
        InputError, match=r"options of of_a_user.Mine out of spread, got width \(.*width.*\): change them"
    ):
        make(f"{module}.Mine", width=1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nowhere", r"one in /.*, got nowhere, which fails \(No module named 'nowhere'\)"),
        ("./mine.py", r"expected the name of a module, such as my_parts, got './mine.py': write no path or .py"),
    ],
)
def test_missing_modules_are_refused(module: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_parts([module])


def test_a_function_of_the_user_is_found(module: str) -> None:
    assert find_function(f"{module}.mine").__name__ == "mine"
    with pytest.raises(InputError, match="expected a function in of_a_user, got 'nothing', which is not one: check"):
        find_function(f"{module}.nothing")


def test_a_prior_by_path_gets_the_encoder_like_a_built_in_one() -> None:
    config = override(
        Config(data=DataConfig(source="none")), ["prior=parts_of_a_user.my_vamp", "prior.options.gain=2.0"]
    )
    pair = build_pair(config, (1, 2, 3))
    assert [type(prior) for prior in pair.model.priors] == [VampPrior, VampPrior]
    assert [prior.j for prior in pair.model.priors] == [0, 1]
    assert pair.model.priors[0].pseudo_inputs.eq(2).all()


def test_a_path_is_split_before_anything_is_imported() -> None:
    with pytest.raises(InputError, match=r"expected an import path such as my_module\.MyPart, got .os;x\.y"):
        import_module_of("os;x.y")
