import numpy as np
import torch

from pyro_mfcvae.facets import Facet
from pyro_mfcvae.infer.planes import FacetPlane
from pyro_mfcvae.models import MixturePrior


def test_the_plane_separates_the_clusters() -> None:
    """The clusters differ only along the first axis; along the second axis every cluster is wide."""
    prior = MixturePrior(Facet(num_clusters=2, latent_dim=3), covariance="diagonal")
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]))
        prior.scale.copy_(torch.tensor([[0.1, 5.0, 1.0]] * 2))
    plane = FacetPlane.of(prior())
    first = plane.axes[:, 0] / np.linalg.norm(plane.axes[:, 0])
    assert abs(first[0]) > 0.99
    line = FacetPlane.of(MixturePrior(Facet(num_clusters=2, latent_dim=1))())
    assert line.project(np.ones((4, 1)))[:, 1].tolist() == [0.0] * 4
