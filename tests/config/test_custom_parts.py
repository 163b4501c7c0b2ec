import sys
from pathlib import Path

import pytest

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.config.custom_parts import make_part
from pyro_mfcvae.models import FacetPrior, MixturePrior

FACET = Facet(num_clusters=3, latent_dim=2)
PART = """
from pyro_mfcvae.models import MixturePrior

class Mine(MixturePrior):
    def __init__(self, facet, *, spread=1.0):
        super().__init__(facet)
        self.spread = spread

def both(number):
    return number, str(number)

nothing = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "of_a_user", raising=False)
    (tmp_path / "of_a_user.py").write_text(PART)
    return "of_a_user"


def test_a_part_is_made_with_its_arguments_and_options(module: str) -> None:
    prior = make_part(f"{module}.Mine", FacetPrior, FACET, spread=2.5)
    assert isinstance(prior, MixturePrior)
    assert (prior.facet, prior.spread) == (FACET, 2.5)
    assert make_part(f"{module}.both", (int, str), 3) == (3, "3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere.Mine",
            r"cannot import nowhere for nowhere.Mine \(No module named 'nowhere'\): it must be installed, or",
        ),
        ("of_a_user.Yours", "of_a_user has no Yours: expected the import path of a class or a function, such as"),
        ("of_a_user.nothing", "of_a_user.nothing is a int: expected a class or a function"),
        ("Mine", "expected an import path such as my_module.my_function, got 'Mine'"),
        (".Mine", "expected an import path such as my_module.my_function, got '.Mine'"),
        ("of_a_user.both", "of_a_user.both must make a FacetPrior, got tuple: derive it from that class"),
    ],
)
def test_mistakes_are_told(module: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_part(name, FacetPrior, FACET)


def test_wrong_options_and_wrong_pairs_are_told(module: str) -> None:
    with pytest.raises(
        InputError, match=r"Mine cannot be called with 1 arguments and the options {'width': 1}: .*width"
    ):
        make_part(f"{module}.Mine", FacetPrior, FACET, width=1)
    with pytest.raises(InputError, match=r"of_a_user\.Mine must make a int and str, got Mine"):
        make_part(f"{module}.Mine", (int, str), FACET)
