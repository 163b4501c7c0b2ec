import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from separated_clusters import FACET
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.models import (
    MixturePrior,
)
from pyro_mfcvae.models.fits import Covariance, FitSettings


def test_no_component_starts_without_weight() -> None:
    """Ten clusters are fitted to two repeated points: weights stay above 1 % of 1/K, variances above 1e-4."""
    prior = MixturePrior(Facet(num_clusters=10, latent_dim=2))
    z = torch.tensor([[0.0, 0.0], [5.0, 5.0]]).repeat(50, 1) + 1e-5 * torch.randn(100, 2)
    prior.fit(z, FitSettings())
    assert prior().log_weights().exp().min() > 0.0009
    assert prior.scale.square().min() > 0.99e-4


@pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))
def test_em_starts_at_what_is_known(covariance: Covariance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of clusters 2 and 0 of four are known; the two other clusters start at the centres of k-means with two
    clusters.
    """
    z = torch.cat([torch.randn(50, 2) - 9, torch.randn(50, 2) + 9])
    seen, clusters = torch.randn(7, 2), torch.tensor([2, 2, 2, -1, 0, 0, 0])
    prior = MixturePrior(Facet(num_clusters=4, latent_dim=2), covariance=covariance)
    settings = record_start(monkeypatch, prior, z, (seen, clusters))
    groups = [seen[4:], seen[:3]]
    assert torch.equal(settings["means_init"][:2], torch.stack([group.mean(0) for group in groups]))
    centres = sorted(settings["means_init"][2:].tolist())
    torch.testing.assert_close(torch.tensor(centres), torch.stack([z[:50].mean(0), z[50:].mean(0)]))
    pooled = sum((len(group) - 1) * group.T.cov() for group in groups) / 4 + 1e-4 * torch.eye(2)
    variances = pooled.diagonal()
    expected = {
        "full": pooled.inverse().expand(4, 2, 2),
        "tied": pooled.inverse(),
        "diagonal": (1 / variances).expand(4, 2),
        "spherical": (1 / variances.mean()).expand(4),
    }
    torch.testing.assert_close(settings["precisions_init"], expected[covariance])
    assert settings["weights_init"].tolist() == [0.25] * 4


def test_em_starts_without_the_known_points_if_they_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four points of two clusters leave two degrees of freedom for a covariance in two dimensions."""
    seen, clusters = torch.randn(5, 2), torch.tensor([0, 0, 1, 1, -1])
    settings = record_start(monkeypatch, MixturePrior(FACET), torch.randn(50, 2), (seen, clusters))
    assert not {"means_init", "precisions_init", "weights_init"} & settings.keys()


def record_start(
    monkeypatch: pytest.MonkeyPatch, prior: MixturePrior, z: Tensor, seen: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """The arguments with which scikit-learn's mixture is made."""
    made: dict[str, Tensor] = {}

    class Recording(GaussianMixture):
        def fit(self, points: NDArray[np.float64]) -> GaussianMixture:
            given = {name: value for name, value in self.get_params().items() if isinstance(value, np.ndarray)}
            made.update({name: torch.tensor(value) for name, value in given.items()})
            return super().fit(points)

    monkeypatch.setattr("sklearn.mixture.GaussianMixture", Recording)
    prior.fit(z, FitSettings(known=seen))
    return made


def test_few_known_points_find_clusters_that_k_means_misses() -> None:
    """Two long stripes side by side, which k-means cuts across; four points of each are known."""
    c = torch.arange(400) % 2
    z = torch.stack([5 * torch.randn(400), 2.0 * c + 0.4 * torch.randn(400)], -1)
    prior = MixturePrior(Facet(num_clusters=2, latent_dim=2), covariance="full")
    purities = []
    for seen in (None, (z[:8], c[:8])):
        prior.fit(z, FitSettings(known=seen))
        share = ((prior().log_weights() + prior().log_prob(z)).argmax(-1) == c).double().mean().item()
        purities.append(max(share, 1 - share))
    assert purities[0] < 0.6
    assert purities[1] > 0.98


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("covariance", ("full", "tied", "diagonal", "spherical"))
@pytest.mark.parametrize("width", (1.0, 300.0, 1e5))
def test_points_almost_on_a_line_are_fitted(covariance: Covariance, width: float, dtype: torch.dtype) -> None:
    """In float32 a covariance with 9e10 and 1e-4 is rounded to a matrix that is not positive definite; its factor
    stays valid.
    """
    z = width * torch.randn(400, 1) @ torch.tensor([[1.0, 2.0, -1.0]]) + 1e-3 * torch.randn(400, 3)
    prior = MixturePrior(Facet(num_clusters=4, latent_dim=3), covariance=covariance).to(dtype)
    prior.fit(z.to(dtype), FitSettings())
    assert prior().log_prob(z.to(dtype)).isfinite().all()
    if covariance == "full":
        spread = (prior.scale_tril.double() @ prior.scale_tril.double().mT).diagonal(dim1=-2, dim2=-1).detach()
        torch.testing.assert_close(spread[:, 1] / spread[:, 0], torch.full((4,), 4.0), rtol=0.02, atol=0.0)


def test_an_indefinite_covariance_is_refused() -> None:
    covariance = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).expand(3, 2, 2)
    with pytest.raises(InputError, match="expected positive definite covariances, got one that is not: compute it in"):
        MixturePrior(FACET, covariance="full").set_mixture(torch.zeros(3, 2), covariance)
