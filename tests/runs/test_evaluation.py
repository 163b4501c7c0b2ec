import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from identity_encoder import random_mean_pair
from torch import Tensor

from pyro_mfcvae.data.images import Split
from pyro_mfcvae.guides import AssignmentRule, MultiFacetGuide, SampleAssignment
from pyro_mfcvae.infer.objective import FacetELBO
from pyro_mfcvae.metrics import score_facets
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import MultiFacetModel
from pyro_mfcvae.runs.evaluation import evaluate

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]


@pytest.fixture
def make(make_pair: MakePair) -> Callable[..., MFCVAE]:
    """A factory of pairs of two facets whose decoder ignores z, so that the ELBO needs no draws."""

    def make(rule: type[AssignmentRule] | None = None) -> MFCVAE:
        pair = MFCVAE(*(make_pair(2) if rule is None else make_pair(2, rule=rule)))
        pair.model.alpha.zero_()
        return pair

    return make


@pytest.fixture
def split(make_x: Callable[[int], Tensor]) -> Split:
    return Split(make_x(23), {"even": torch.arange(23) % 2, "third": torch.arange(23) % 3})


def test_an_evaluation_has_the_results_of_the_pair(make: Callable[..., MFCVAE], split: Split) -> None:
    pair = make()
    result = evaluate(pair, split)
    probs = pair.assign(split.images)
    clusters = torch.stack([p.argmax(-1) for p in probs], -1).numpy()
    assert result.assignments.dtype == np.int64
    assert np.array_equal(result.assignments, clusters)
    assert np.array_equal(result.confidence, torch.stack([p.amax(-1) for p in probs], -1).detach().numpy())
    elbo = FacetELBO().terms(pair.model, pair.guide, split.images).total.mean()
    assert result.elbo == pytest.approx(elbo.item(), rel=1e-12)
    labels = {name: label.numpy() for name, label in split.labels.items()}
    expected = score_facets(clusters, labels, num_clusters=[3, 4])
    assert result.scores.facet_records() == expected.facet_records()


def test_the_elbo_ignores_the_training_weights_of_the_facets(make: Callable[..., MFCVAE], split: Split) -> None:
    """The ELBO does not depend on the weights of the facets in training, so that runs can be compared."""
    pair = make()
    expected = evaluate(pair, split).elbo
    pair.model.beta.copy_(torch.tensor([0.5, 8.0]))
    assert evaluate(pair, split).elbo == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 5, 23])
def test_the_batch_size_does_not_change_results(make: Callable[..., MFCVAE], split: Split, batch_size: int) -> None:
    pair = make()
    whole, parts = evaluate(pair, split), evaluate(pair, split, batch_size=batch_size)
    assert np.array_equal(parts.assignments, whole.assignments)
    assert np.allclose(parts.confidence, whole.confidence, rtol=0, atol=1e-12)
    assert parts.elbo == pytest.approx(whole.elbo, rel=1e-12)
    assert parts.scores.facet_records() == whole.scores.facet_records()


def test_a_rule_that_depends_on_the_draw_is_evaluated_too(make: Callable[..., MFCVAE], split: Split) -> None:
    pair = make(SampleAssignment)
    result = evaluate(pair, split)
    clusters = torch.stack([p.argmax(-1) for p in pair.assign(split.images)], -1).numpy()
    assert np.array_equal(result.assignments, clusters)
    assert np.isfinite(result.elbo)


def test_bytes_are_evaluated_like_the_floats_they_stand_for(make: Callable[..., MFCVAE]) -> None:
    pair = make()
    images = torch.randint(256, (9, 1, 2, 3), dtype=torch.uint8)
    here, there = evaluate(pair, Split(images)), evaluate(pair, Split(images / 255))
    assert np.array_equal(here.confidence, there.confidence)
    assert here.elbo == there.elbo


@pytest.mark.slow
def test_a_random_mean_is_averaged_over_and_its_kl_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ELBO is the same at every call: E over loc ~ q = Normal(2, 1) of an item's ELBO, minus KL(q(loc) ‖ p(loc)).

    600 draws of loc: standard errors of 0.12 and 0.04, and the KL is 0.88.
    """
    monkeypatch.setattr("pyro_mfcvae.mfcvae._GLOBAL_DRAWS", 600)
    pair, x = random_mean_pair(), torch.tensor([[2.5]])
    pair.model.likelihood.forward = lambda output: dist.Normal(x + 0 * output, 0.3)  # log p(x | z) is known
    found = evaluate(pair, Split(x)).elbo
    assert found == evaluate(pair, Split(x)).elbo
    noise = torch.distributions.Normal(0.0, 0.3)
    reconstruction, entropy = noise.log_prob(torch.zeros(())).item(), noise.entropy().item()
    # -E[log p(z | loc)] over z ~ q(z | x) and loc ~ q(loc).
    cross_entropy = 0.5 * math.log(2 * math.pi * 0.25) + (0.5**2 + 1 + 0.3**2) / (2 * 0.25)
    kl_loc = math.log(3.0) + (1 + 4) / 18 - 0.5
    assert found == pytest.approx(reconstruction + entropy - cross_entropy - kl_loc, abs=0.4)


def test_without_labels_there_are_no_scores(make: Callable[..., MFCVAE], make_x: Callable[[int], Tensor]) -> None:
    result = evaluate(make(), Split(make_x(4)))
    assert result.scores.accuracy == {}
    assert result.assignments.shape == (4, 2)


def test_evaluation_has_no_side_effects(make: Callable[..., MFCVAE], split: Split) -> None:
    pair = make()
    evaluate(pair, split)
    assert pair.training
    assert all(parameter.grad is None for parameter in pair.parameters())
    assert list(pyro.get_param_store().keys()) == []


def test_an_evaluation_is_shown_as_a_table_of_groups(make: Callable[..., MFCVAE], split: Split) -> None:
    assert repr(split) == "Split(23 items 1 × 2 × 3, labels even, third)"
    result = evaluate(make(), split)
    head, columns, *rows = repr(result).splitlines()
    assert head == f"Evaluation of 23 items, ELBO {result.elbo:.2f} nats per item"
    assert columns.split() == ["facet", "groups", "label", "accuracy", "NMI", "ARI"]
    accuracy = result.group_scores.accuracy["third"][1]
    assert rows[3].split()[:4] == ["1", str(result.grouping.num_groups[1]), "third", f"{accuracy:.3f}"]
    html = result._repr_html_()
    assert html.count("<tr>") == 5 and f"<td>{accuracy:.3f}</td>" in html
    assert result.scores._repr_html_().startswith("<table><tr><th>facet</th><th>clusters in use</th>")
