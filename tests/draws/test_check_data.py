import numpy as np
import pytest
from exact_mixture import exact_mixture_data
from linear_gaussian import draw, linear_pair

from pyro_mfcvae import InputError, to_inference_data
from pyro_mfcvae.draws.arviz_data import attach_groups, values
from pyro_mfcvae.draws.check_data import CheckData


def test_arrays_have_the_shapes_that_the_docstrings_give() -> None:
    data = CheckData.from_arviz(exact_mixture_data())
    assert data.num_items == 200 and data.log_weights.shape == (64, 200)
    assert data.reference_evidence is not None and data.reference_evidence.shape == (200,)
    assert {array.shape for array in (data.evidence, data.elbo, data.bound, data.held_out)} == {(200,)}
    simulated = (data.simulated_bound, data.simulated_held_out, data.joint_ranks)
    assert {array.shape for array in simulated} == {(2000,)}
    first = data.facets[0]
    assert (first.z.shape, first.probs.shape, first.weights.shape) == ((64, 200, 2), (200, 3), (3,))
    assert (first.prior_z.shape, first.ranks.shape, first.residuals.shape) == ((2000, 2),) * 3
    assert first.log_weights is not None and first.log_weights.shape == (64, 200)
    assert first.discrepancy.shape == first.kl.shape == first.loss_without.shape == (200,)


def test_derived_numbers_follow_from_the_arrays() -> None:
    facet = CheckData.from_arviz(exact_mixture_data()).facets[0]
    np.testing.assert_array_equal(facet.clusters, facet.probs.argmax(-1))
    np.testing.assert_allclose(facet.use.sum(), 1)
    assert facet.num_in_use == 3 and 1 <= facet.num_groups <= 3


def test_the_users_groups_are_kept_beside_those_that_the_model_suggests() -> None:
    pair = linear_pair()
    data = to_inference_data(pair, draw(pair, 20), num_samples=30, num_simulated=20)
    assert CheckData.from_arviz(data).facets[0].suggested_groups is None
    sizes = [facet.num_clusters for facet in pair.model.facets]
    attach_groups(data, [np.zeros(k, int) for k in sizes], suggested=[np.arange(k) for k in sizes])
    facet = CheckData.from_arviz(data).facets[0]
    np.testing.assert_array_equal(facet.suggested_groups, np.arange(sizes[0]))
    assert facet.num_groups == 1 and facet.num_suggested == len(np.unique(facet.clusters))


def test_the_evidence_is_one_number_per_item() -> None:
    data = exact_mixture_data()
    np.testing.assert_array_equal(CheckData.from_arviz(data).evidence, values(data, "log_likelihood", "x").mean(0))


def test_too_few_items_are_refused() -> None:
    pair = linear_pair()
    with pytest.raises(InputError, match="expected 20 or more items to check, got 5: draw more"):
        CheckData.from_arviz(to_inference_data(pair, draw(pair, 5), num_samples=30, num_simulated=20))
    with pytest.raises(InputError, match="expected 20 or more simulated items to check, got 0"):
        CheckData.from_arviz(to_inference_data(pair, draw(pair, 20), num_samples=30, num_simulated=0))
