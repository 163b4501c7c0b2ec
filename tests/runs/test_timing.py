"""The estimate of a training's time, in proportion to the steps, and the hint about a busy machine."""

import numpy as np
import pytest
import torch

from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.runs.timing import describe_load, estimate_seconds


@pytest.mark.usefixtures("place")
def test_the_estimate_grows_with_the_steps() -> None:
    data = load_dataset("data.npz")
    small = [
        "networks.kind=mlp",
        "networks.hidden_dim=8",
        "networks.encoder_dims=[8, 8]",
        "networks.decoder_dims=[8, 8]",
    ]
    config = override(load_preset("shapes"), [*small, "training.epochs=[900, 100]", "mixture_fit.warmup_steps=2"])
    state = torch.get_rng_state()
    seconds = estimate_seconds(config, data)
    assert torch.equal(state, torch.get_rng_state())
    assert np.isfinite(seconds)
    assert 1 < seconds < 600  # a thousand steps of some milliseconds


@pytest.mark.parametrize(("load", "threads", "said"), [(7.5, 2, True), (1.9, 2, False), (7.5, 1, False)])
def test_a_busy_machine_is_named_where_threads_would_wait(
    monkeypatch: pytest.MonkeyPatch, load: float, threads: int, said: bool
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    hint = describe_load()
    assert (hint is not None) == said
    if hint is not None:
        assert "busy (load 7.5 on 2 cores), and 2 threads" in hint and "OMP_NUM_THREADS=1" in hint
