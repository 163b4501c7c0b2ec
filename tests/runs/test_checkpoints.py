import json
import os
import signal
from pathlib import Path

import pyro
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_configs import SMALL
from torch import Tensor

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.checkpoints import Checkpoint, load_pair, load_training, save_pair, save_training
from pyro_mfcvae.safety.stopping import StoppedError, stop_on_signals
from pyro_mfcvae.train.training import Training

TINY = override(
    SMALL,
    [
        "facets.latent_dim=[1, 2]",
        "prior.covariance=full",
        "training.epochs=2",
        "training.independence=0.5",
        "schedule.fade_in_steps=4",
        "mixture_fit.warmup_steps=1",
        "mixture_fit.refit_steps=[4]",
    ],
)
WIDER = override(TINY, ["networks.hidden_dim=9"])


def prepare(config: Config = TINY) -> Training:
    """A training on the same 60 images, with different starting values at every call."""
    images = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    pair = build_pair(config, (1, 6, 6))
    return Training(
        pair, images, schedule=build_schedule(config, 3), settings=config.training, mixture_fit=config.mixture_fit
    )


def state(pair: MFCVAE) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pair.state_dict().items()}


def assert_same(here: dict[str, Tensor], there: dict[str, Tensor]) -> None:
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        assert tensor.dtype == there[name].dtype
        assert torch.equal(tensor, there[name]), name


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[:-10])
        case "cut in the header":
            path.write_bytes(content[:50])
        case "something else":
            path.write_bytes(b"PK\x03\x04 a zip file, say" * 20)


SPOILED = ["empty", "cut", "cut in the header", "something else"]


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_a_loaded_pair_has_the_saved_parameters_and_buffers(tmp_path: Path) -> None:
    pair = build_pair(TINY, (1, 6, 6))
    pair.model.alpha.copy_(torch.tensor([0.25, 1.0]))
    save_pair(pair, tmp_path / "model.safetensors")
    loaded = load_pair(TINY, tmp_path / "model.safetensors")
    assert_same(state(loaded), state(pair))
    assert loaded.model.event_shape == (1, 6, 6)
    assert not loaded.training
    x = torch.rand(5, 1, 6, 6)
    assert all(torch.equal(a, b) for a, b in zip(loaded.assign(x), pair.assign(x), strict=True))


def test_the_file_is_safetensors_with_the_event_shape(tmp_path: Path) -> None:
    pair = build_pair(TINY, (1, 6, 6))
    save_pair(pair, tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == ["model.safetensors"]  # noqa: PTH208
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(pair.state_dict())
        assert json.loads(file.metadata()["event_shape"]) == [1, 6, 6]


def test_loading_a_pair_uses_only_the_state_on_disk(tmp_path: Path) -> None:
    pair = build_pair(TINY, (1, 6, 6))
    save_pair(pair, tmp_path / "model.safetensors")
    pyro.set_rng_seed(5)
    assert_same(state(load_pair(TINY, tmp_path / "model.safetensors")), state(pair))


def test_a_pair_of_another_configuration_is_reported_in_one_line(tmp_path: Path) -> None:
    save_pair(build_pair(WIDER, (1, 6, 6)), tmp_path / "model.safetensors")
    message = (
        r"expected 'model.decoder.*' of float64 \(8, 8\) in .*model.safetensors, got float64 \(9, 8\): bring back the"
    )
    with pytest.raises(InputError, match=message) as caught:
        load_pair(TINY, tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", SPOILED)
def test_a_damaged_model_file_is_reported(tmp_path: Path, how: str) -> None:
    save_pair(build_pair(TINY, (1, 6, 6)), tmp_path / "model.safetensors")
    spoil(tmp_path / "model.safetensors", how)
    with pytest.raises(
        InputError, match=r"expected a file of tensors, got .*model\.safetensors, which cannot be read \("
    ) as caught:
        load_pair(TINY, tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected the saved tensors .*model.safetensors, got no such file: bring it back"
    ):
        load_pair(TINY, tmp_path / "model.safetensors")


def test_files_of_another_kind_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(
        InputError, match=r"that mfcvae fit wrote, got .*some.safetensors without 'event_shape' in its metadata"
    ):
        load_pair(TINY, path)
    save_pair(build_pair(TINY, (1, 6, 6)), path)
    with pytest.raises(
        InputError, match=r"that mfcvae fit wrote, got .*some.safetensors without 'epoch' in its metadata"
    ):
        load_training(prepare(), path)


# --- trainings ------------------------------------------------------------------------------------------------------


def test_a_loaded_training_has_the_whole_saved_state(tmp_path: Path) -> None:
    training = prepare()
    training.run_epoch()
    save_training(training, tmp_path / "training.safetensors")
    draws = torch.rand(3)
    pyro.set_rng_seed(9)
    other = prepare()
    load_training(other, tmp_path / "training.safetensors")
    assert torch.equal(torch.rand(3), draws)
    assert (other.epoch, other.step) == (1, 3)
    assert_same(state(other.pair), state(training.pair))
    here, there = training.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert here.keys() == there.keys()
    for index in here:
        assert_same(here[index], there[index])


@pytest.mark.parametrize("stop", [2, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 3))])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(0)
    training = prepare()
    whole = [training.run_epoch() for _ in range(4)]
    pyro.set_rng_seed(0)
    stopped = prepare()
    for _ in range(stop):
        stopped.run_epoch()
    save_training(stopped, tmp_path / "training.safetensors")
    pyro.set_rng_seed(9)
    resumed = prepare()
    load_training(resumed, tmp_path / "training.safetensors")
    assert [resumed.run_epoch() for _ in range(4 - stop)] == whole[stop:]
    assert_same(state(resumed.pair), state(training.pair))


def test_moments_have_the_memory_layout_of_convolution_weights(tmp_path: Path) -> None:
    """Files keep values in one order; fused Adam reads parameter, gradient and moments side by side."""
    config = override(
        Config(data=DataConfig(source="none")),
        [
            *("networks.kind=conv", "networks.channels=[3, 4]", "networks.channels_last=true"),
            *("facets.num_clusters=[3, 4]", "facets.latent_dim=[2, 2]", "training.epochs=2", "training.batch_size=20"),
        ],
    )
    pyro.set_rng_seed(0)
    whole = prepare(config)
    records = [whole.run_epoch() for _ in range(3)]
    pyro.set_rng_seed(0)
    stopped = prepare(config)
    stopped.run_epoch()
    save_training(stopped, tmp_path / "training.safetensors")
    resumed = prepare(config)
    load_training(resumed, tmp_path / "training.safetensors")
    weights = [p for p in resumed.pair.parameters() if p.dim() == 4 and not p.is_contiguous()]
    assert weights
    for weight in weights:
        assert resumed.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert [resumed.run_epoch() for _ in range(2)] == records[1:]
    assert_same(state(resumed.pair), state(whole.pair))


def test_a_training_on_other_data_is_reported(tmp_path: Path) -> None:
    training, other = prepare(), prepare()
    save_training(training, tmp_path / "training.safetensors")
    other.images = other.images.flip(0)
    before = state(other.pair)
    with pytest.raises(
        InputError, match=r"on the same data \(fingerprint [0-9a-f]{16}\), got .* with fingerprint [0-9a-f]{16}: bring"
    ):
        load_training(other, tmp_path / "training.safetensors")
    assert_same(state(other.pair), before)


def test_a_prior_that_was_just_refitted_has_no_moments_to_bring_back(tmp_path: Path) -> None:
    training = prepare()
    training.run_epoch()
    for parameter in training.pair.model.priors[1].parameters():
        del training.optimizer.state[parameter]
    save_training(training, tmp_path / "training.safetensors")
    other = prepare()
    load_training(other, tmp_path / "training.safetensors")
    assert not any(parameter in other.optimizer.state for parameter in other.pair.model.priors[1].parameters())
    assert len(other.optimizer.state) == len(training.optimizer.state) > 0
    other.run_epoch()


@pytest.mark.parametrize("how", SPOILED)
def test_a_damaged_checkpoint_is_reported(tmp_path: Path, how: str) -> None:
    save_training(prepare(), tmp_path / "training.safetensors")
    spoil(tmp_path / "training.safetensors", how)
    with pytest.raises(
        InputError, match=r"expected a file of tensors, got .*training\.safetensors, which cannot be read \("
    ):
        load_training(prepare(), tmp_path / "training.safetensors")


def test_a_checkpoint_of_another_configuration_is_reported_in_one_line(tmp_path: Path) -> None:
    training = prepare()
    training.run_epoch()
    save_training(training, tmp_path / "training.safetensors")
    message = (
        r"expected 'model.decoder.*' of float64 \(9, 8\) in .*training.safetensors, got float64 \(8, 8\): bring back"
    )
    with pytest.raises(InputError, match=message) as caught:
        load_training(prepare(WIDER), tmp_path / "training.safetensors")
    assert "\n" not in str(caught.value)


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint" / "training.safetensors"
    training = prepare()
    training.run_epoch()
    save_training(training, path)
    before = path.read_bytes()

    def fail(tensors: dict[str, Tensor], file: Path, **_: object) -> None:
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyro_mfcvae.safety.tensor_files.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_training(training, path)
    with pytest.raises(OSError, match="No space left"):
        save_pair(training.pair, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_signal_between_the_two_renames_of_a_save_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint" / "training.safetensors")
    training = prepare()
    checkpoint.save(training)
    rename = Path.replace

    def interrupted(here: Path, there: Path) -> Path:
        moved = rename(here, there)
        if there == checkpoint.previous_path:
            signal.raise_signal(signal.SIGTERM)
        return moved

    monkeypatch.setattr(Path, "replace", interrupted)
    training.run_epoch()
    with pytest.raises(StoppedError, match="SIGTERM"), stop_on_signals():
        checkpoint.save(training)
    assert sorted(file.name for file in checkpoint.path.parent.iterdir()) == [
        "previous.safetensors",
        "training.safetensors",
    ]
    assert checkpoint.load(prepare())["epoch"] == "1"
