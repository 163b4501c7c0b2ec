import pytest
from command_line import Run

from pyro_mfcvae.config.text import load_preset, preset_names
from pyro_mfcvae.data.datasets import DATASETS

pytestmark = pytest.mark.usefixtures("place")


def test_presets_are_listed(mfcvae: Run) -> None:
    code, out, err = mfcvae("presets")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1::2]] == ["auto", *preset_names()]
    assert "data mnist; clusters per facet 25, 25" in out
    assert all(load_preset(name).description in out for name in preset_names())


def test_data_sets_are_listed(mfcvae: Run) -> None:
    code, out, err = mfcvae("datasets")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1 : 1 + 2 * len(DATASETS) : 2]] == list(DATASETS)
    assert "1 × 28 × 28, bernoulli; labels digit; 60,000 train, 10,000 test as published" in out
    assert "You can also give a path" in out
