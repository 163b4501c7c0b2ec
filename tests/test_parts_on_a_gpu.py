"""Every part on a CUDA device: on tensors without values in all runs, and in real trainings on machines that have one.

Torch computes shapes and devices of tensors on a device that does not exist. So a part that mixes devices, or that
makes the host wait for the device in a training step, is found on a CPU.
"""

import pyro
import pytest
import torch
from parts import VARIANTS
from small_configs import SMALL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import dirichlet
from trainings import prepare

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.text import override
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.models import MixturePrior, StudentTMixturePrior, mixture_priors
from pyro_mfcvae.train.captured import HostWaits
from pyro_mfcvae.train.devices import open_fabric
from pyro_mfcvae.train.objective import Objective

PARTS = {name: settings for name, (settings, loss) in VARIANTS.items() if loss is None}

# Pyro's distributions make the host wait in these: constants of a Student-t, masks of splines and of correlations.
WAIT = {
    "prior=student_t": "aten::_to_copy",
    "prior=bayesian": "aten::index_put_",
    "networks.posterior=spline": "aten::index.Tensor",
}

TRAINING = (
    *("training.batch_size=10", "training.epochs=[2, 2]", "training.learning_rate=0.0078125"),
    *("schedule.fade_in_steps=4", "mixture_fit.warmup_steps=2", "mixture_fit.refit_steps=[4]"),
)


def put_on_a_gpu(module: nn.Module) -> None:
    """Replace all parameters and buffers by tensors without values on a CUDA device."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(torch.empty_like(value, device="cuda"))
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty_like(value, device="cuda")


@pytest.mark.parametrize("name", PARTS)
def test_a_step_stays_on_the_gpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # Torch cannot draw from a Dirichlet distribution without values.
    monkeypatch.setattr(dirichlet._Dirichlet, "apply", lambda concentration: concentration.softmax(-1))
    pair = build_pair(override(SMALL, PARTS[name]), (1, 6, 6))
    with pyro.validation_enabled(False), FakeTensorMode(allow_non_fake_inputs=True):
        put_on_a_gpu(pair)
        objective = Objective(pair, num_items=100)
        with HostWaits() as waits:
            try:
                loss, _ = objective(torch.empty(20, 1, 6, 6, device="cuda"))
            except Exception:
                # Without values no mask can be applied.
                assert name in WAIT and waits.found is not None
            else:
                assert loss.device.type == "cuda"
    assert waits.found == WAIT.get(name)


@pytest.mark.parametrize("prior", [MixturePrior, StudentTMixturePrior])
def test_a_mixture_on_the_gpu_takes_values_from_the_host(
    monkeypatch: pytest.MonkeyPatch, prior: type[MixturePrior]
) -> None:
    monkeypatch.setattr(mixture_priors, "cholesky", lambda covariance: covariance)  # it checks values
    built = prior(Facet(num_clusters=3, latent_dim=2))
    with FakeTensorMode(allow_non_fake_inputs=True):
        put_on_a_gpu(built)
        built.set_mixture(torch.zeros(3, 2), torch.eye(2).repeat(3, 1, 1), probs=torch.ones(3) / 3)
        assert built.loc.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in PARTS if not name.endswith("Likelihood")])
def test_a_training_with_replayed_steps_is_as_good_as_one_with_computed_steps(name: str) -> None:
    """Their random numbers differ, so the ELBOs are compared roughly. (Likelihoods of counts need other items.)"""
    elbos = []
    for value in ("false", "auto"):
        pyro.set_rng_seed(0)
        settings = (*TRAINING, *PARTS[name], f"training.compile={value}")
        training = prepare(*settings, fabric=open_fabric("cuda"))
        elbos.append([training.run_epoch().elbo for _ in range(4)])
        if training._captured is not None:
            assert (training._captured._replay is None) == (name in WAIT)
    computed, replayed = elbos
    assert replayed == pytest.approx(computed, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("watches", [True, False])
def test_a_step_that_reads_a_value_is_not_captured_on_a_gpu(caplog: pytest.LogCaptureFixture, *, watches: bool) -> None:
    """Also if this is not noticed before: then the capture fails, and random numbers can still be drawn."""
    training = prepare(*TRAINING, fabric=open_fabric("cuda"))
    assert training._captured is not None
    training._captured._watches = watches

    def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].mean().item()

    training.pair.guide.encoder.register_forward_pre_hook(read)
    records = [training.run_epoch() for _ in range(4)]
    assert "the training step is not captured" in caplog.text
    assert records[-1].elbo > records[0].elbo
    torch.cuda.manual_seed(0)
    assert torch.rand(3, device="cuda").isfinite().all()
