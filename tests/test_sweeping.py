import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyro_mfcvae.config import Config
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.fitting import fit
from pyro_mfcvae.runs import RunFolder
from pyro_mfcvae.settings import override
from pyro_mfcvae.sweeping import compare, facet_agreement, sweep


@pytest.fixture(autouse=True)
def as_users_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr("pyro_mfcvae.fitting._draw", lambda *_: None)  # figures take a second; not in other processes


@pytest.fixture
def config(tmp_path: Path) -> Config:
    images = np.random.default_rng(0).integers(256, size=(40, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, side=np.arange(40) % 2)
    small = ["facets.num_clusters=[3, 4]", "facets.latent_dim=[2, 2]", "networks.encoder_dims=[8, 8]"]
    small += ["networks.decoder_dims=[8, 8]", "networks.hidden_dim=8", "training.epochs=1", "training.batch_size=20"]
    return override(Config(data=str(tmp_path / "data.npz")), small)


def test_every_run_is_the_run_of_its_seed_and_a_second_call_goes_on(tmp_path: Path, config: Config) -> None:
    single = fit(override(config, ["seed=5"]), RunFolder(tmp_path / "single"))
    done: list[int] = []
    result = sweep(
        config, tmp_path / "many", seeds=[2, 5], device="cpu", workers=2, on_done=lambda seed, _: done.append(seed)
    )
    assert sorted(done) == [2, 5]
    here, there = (load_file(tmp_path / name / "model.safetensors") for name in ("single", "many/seed-5"))
    assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())
    assert result.evaluations[1].elbo == pytest.approx(single.evaluation.elbo, abs=0.5)  # draws of z differ
    before = (tmp_path / "many/seed-2/model.safetensors").stat().st_mtime_ns
    again = sweep(config, tmp_path / "many", seeds=[2], device="cpu", workers=1)
    assert (tmp_path / "many/seed-2/model.safetensors").stat().st_mtime_ns == before
    assert np.isnan(again.stability()).all()
    with pytest.raises(InputError, match=r"seed-2 holds a run of another configuration: choose another folder"):
        sweep(override(config, ["training.batch_size=10"]), tmp_path / "many", seeds=[2], device="cpu")


def test_a_sweep_adds_up_its_runs(tmp_path: Path, config: Config) -> None:
    singles = [fit(override(config, [f"seed={s}"]), RunFolder(tmp_path / f"seed-{s}")) for s in range(3)]
    result = compare(tmp_path, seeds=range(3), data=singles[0].data)
    assert result.agreement.shape == (3, 3, 2)
    np.testing.assert_allclose(result.agreement[[0, 1, 2], [0, 1, 2]], 1.0)
    pairs = result.agreement[[0, 0, 1], [1, 2, 2]]
    np.testing.assert_allclose(result.stability(), pairs.mean(0))
    accuracy = result.scores("accuracy")["side"]
    assert accuracy.shape == (3, 2)
    for row, single in zip(accuracy, singles, strict=True):
        np.testing.assert_array_equal(row, single.evaluation.scores.accuracy["side"])
    assert result.best_seed == int(np.argmax([evaluation.elbo for evaluation in result.evaluations]))
    summary = json.loads(json.dumps(result.summary()))
    assert [run["seed"] for run in summary["runs"]] == [0, 1, 2]
    assert summary["runs"][1]["facets"] == singles[1].summary["facets"]


def test_facets_are_matched_before_they_are_compared() -> None:
    first, second = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    here = np.stack([first, second], 1)
    np.testing.assert_allclose(facet_agreement(here, here), [1.0, 1.0])
    # The other run has the facets in the other order and calls the clusters otherwise.
    np.testing.assert_allclose(facet_agreement(here, np.stack([1 - second, (first + 1) % 3], 1)), [1.0, 1.0])
    noise = np.array([0, 1, 1, 0, 0, 1])
    assert facet_agreement(here, np.stack([noise, first], 1))[1] < 0.5
