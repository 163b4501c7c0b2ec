from collections.abc import Callable

import pytest
import torch
from torch import nn

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.memory import limited_memory


def test_tensors_up_to_the_limit_are_made_as_without_one() -> None:
    torch.manual_seed(0)
    expected = nn.Linear(4, 8, dtype=torch.float64).weight
    torch.manual_seed(0)
    with limited_memory((4 * 8 + 8) * 8, source="parts", advice="-"):
        found = nn.Linear(4, 8, dtype=torch.float64).weight
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("make", "gib"),
    [
        (lambda: torch.zeros(2**38, 2), 4096),
        (lambda: torch.eye(2**19, 2**20), 4096),
        (lambda: torch.full((2**36,), 0.5), 512),
        (lambda: [torch.empty(2**26, dtype=torch.float64) for _ in range(2**12)], 1.5),
    ],
)
def test_more_memory_is_refused_before_it_is_used(make: Callable[[], object], gib: float) -> None:
    message = rf"^expected parts of at most 1 GiB in memory, got {gib} GiB: choose smaller ones$"
    with pytest.raises(InputError, match=message), limited_memory(2**30, source="parts", advice="choose smaller ones"):
        make()


def test_missing_memory_is_reported_in_one_line() -> None:
    with (
        pytest.raises(InputError, match=r"^expected parts that fit into memory, got larger ones: choose others$"),
        limited_memory(2**62, source="parts", advice="choose others"),
    ):
        torch.empty(2**50)


def test_other_errors_are_not_changed() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot"), limited_memory(1, source="parts", advice="-"):
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.parametrize("setting", ["networks.hidden_dim=9999999999", "facets.latent_dim=[1, 9999999]"])
def test_settings_that_do_not_fit_into_memory_are_refused(setting: str) -> None:
    small = ["networks.kind=mlp", "facets.num_clusters=[3, 4]", "facets.latent_dim=[1, 2]"]
    small += ["networks.encoder_dims=[8, 9]", "networks.decoder_dims=[6, 7]"]
    config = override(Config(data=DataConfig(source="none")), [*small, setting])
    message = r"^expected a model and guide of at most 2 GiB in memory, got \S+ GiB: choose .* MFCVAE_MAX_GIB to"
    with pytest.raises(InputError, match=message):
        build_pair(config, (1, 2, 3))
    message = r"at most 0\.0625 GiB in memory, got .*: the settings do not belong to the file"
    with pytest.raises(InputError, match=message):
        build_pair(config, (1, 2, 3), stored_bytes=1_000)
