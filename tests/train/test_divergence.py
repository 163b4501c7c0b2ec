import math
from collections.abc import Callable

import pytest
import torch

from pyro_mfcvae import MFCVAE
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.train.divergence import CollapsedError, DivergedError, check_outcome, check_parameters


def test_an_elbo_far_below_that_of_a_model_without_latent_variables_is_refused(
    make_pair: Callable[..., tuple[torch.nn.Module, torch.nn.Module]],
) -> None:
    """With fair coins six pixels have the evidence −6 log 2; the limit is ten times that, and at least 100 nats
    lower.
    """
    pair = MFCVAE(*make_pair())
    split = Split(torch.zeros(5, 1, 2, 3, dtype=torch.uint8), {})
    floor = -60 * math.log(2) - 100
    check_outcome(pair, split, floor + 0.01)
    for elbo in (floor - 0.01, math.nan, -math.inf):
        with pytest.raises(CollapsedError, match="expected an ELBO above -142 nats per item"):
            check_outcome(pair, split, elbo)


def test_a_parameter_that_is_not_finite_is_named_with_its_facet(
    make_pair: Callable[..., tuple[torch.nn.Module, torch.nn.Module]],
) -> None:
    pair = MFCVAE(*make_pair())
    check_parameters(pair, 7)
    name = next(name for name, _ in pair.named_parameters() if ".priors.1." in name)
    with torch.no_grad():
        pair.get_parameter(name).fill_(math.inf)
    with pytest.raises(DivergedError, match=r"\(facet 1\) is not finite after step 7, training has diverged"):
        check_parameters(pair, 7)
