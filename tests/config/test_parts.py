import inspect
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from pyro_mfcvae.config import parts
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.builders import POSTERIORS
from pyro_mfcvae.config.custom_parts import find_part
from pyro_mfcvae.config.options import Posterior
from pyro_mfcvae.config.parts import ASSIGNMENTS, GLOBALS_GUIDES, LIKELIHOODS, NETWORKS, PRIORS, Part, is_import_path
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides import AssignmentRule, ConjugateGuide
from pyro_mfcvae.models import FacetPrior, Likelihood

BASE = Config(data=DataConfig(source="none"))
# Arguments that the builder passes to a part, and not the user.
PROVIDED = {"facet", "encoder", "j", "event_shape", "facets", "args", "kwargs"}
LAPLACE = '''
from pyro_mfcvae.models import MixturePrior

class LaplacePrior(MixturePrior):
    """A new prior."""

    def __init__(self, facet, *, spread: float = 1.0):
        super().__init__(facet)
        self.spread = spread
'''


@pytest.mark.parametrize(
    ("part", "base"),
    [
        *((part, FacetPrior) for part in PRIORS.values()),
        *((part, Likelihood) for part in LIKELIHOODS.values()),
        *((part, AssignmentRule) for part in ASSIGNMENTS.values()),
    ],
    ids=lambda value: value.path if isinstance(value, Part) else "",
)
def test_options_are_the_arguments_of_the_built_class(part: Part, base: type) -> None:
    """If a part is made by a function, which takes all options, compare with the class of its result."""
    assert part.options is not None
    make = find_part(part.path, base)
    parameters = inspect.signature(make).parameters
    options = {f.name: f.default for f in fields(part.options)}
    if "options" in parameters:
        parameters = inspect.signature(get_type_hints(make)["return"]).parameters
        assert len(parameters) > 2 and parameters.keys() <= options.keys()
    else:
        assert options.keys() == parameters.keys() - PROVIDED
    for name, default in options.items():
        if name in parameters and isinstance(default, int | float | str | bool | tuple):
            assert parameters[name].default == default, name


def test_names_of_options_are_those_of_the_tables() -> None:
    assert set(get_args(Posterior)) == set(POSTERIORS)


@pytest.mark.parametrize(
    ("text", "expected"), [("mlp", False), ("my.Part", True), ("a.b.c", True), ("my.", False), ("a b.c", False)]
)
def test_only_import_paths_have_dots(text: str, expected: bool) -> None:
    assert is_import_path(text) is expected


@pytest.mark.parametrize("kind", GLOBALS_GUIDES)
def test_guides_over_globals_start_at_the_values_of_the_priors(kind: str) -> None:
    config = override(BASE, ["prior=bayesian", f"prior.globals_guide={kind}", "facets.num_clusters=[3, 4]"])
    pair = build_pair(config, (1, 2, 3))
    guide = pair.guide.globals_guide
    assert isinstance(guide, ConjugateGuide) is (kind == "conjugate")
    values, start = guide.median(), pair.model.starting_point()
    assert values.keys() == start.keys()
    torch.testing.assert_close(values["loc_0"], start["loc_0"])
    config = override(BASE, ["prior=parts_of_a_user.MyPrior", "prior.globals_guide=normal"])
    assert build_pair(config, (1, 2, 3)).guide.globals_guide is None  # nothing is random


@pytest.mark.parametrize("kind", ["mlpp", "networks", ""])
def test_an_unknown_kind_is_refused_with_the_nearest(kind: str) -> None:
    with pytest.raises(InputError, match=rf"networks.kind: expected mlp, conv, or the import path .*, got '{kind}': "):
        override(BASE, [f'networks.kind="{kind}"'])
    assert set(NETWORKS) == {"mlp", "conv"}


def test_a_new_prior_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new prior needs a file with the class and a line in the table; its options are checked against its
    signature.
    """
    (tmp_path / "laplace.py").write_text(LAPLACE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(parts, "PRIORS", PRIORS | {"laplace": Part("laplace.LaplacePrior")})
    monkeypatch.setitem(parts.PARTS, "prior", parts.PRIORS)  # type: ignore[arg-type]
    monkeypatch.setattr("pyro_mfcvae.config.build.PRIORS", parts.PRIORS)
    pair = build_pair(override(BASE, ["prior=laplace", "prior.spread=2.0"]), (1, 2, 3))
    assert [(type(prior).__name__, prior.spread) for prior in pair.model.priors] == [("LaplacePrior", 2.0)] * 2
    with pytest.raises(InputError, match=r"expected options of laplace\.LaplacePrior out of spread, got width"):
        build_pair(override(BASE, ["prior=laplace", "prior.width=2.0"]), (1, 2, 3))
