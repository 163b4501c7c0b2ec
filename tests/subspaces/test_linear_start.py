"""Linear start: planted subspaces of the data are found, and the networks learn to encode and decode by them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet
from pyro_mfcvae.guides import MLPLadderEncoder, MultiFacetGuide
from pyro_mfcvae.guides.encoders import MakeHead
from pyro_mfcvae.guides.posteriors import FullCovarianceHead, GaussianHead
from pyro_mfcvae.metrics import ari
from pyro_mfcvae.models import GaussianLikelihood, Likelihood, MixturePrior, MLPLadderDecoder, MultiFacetModel
from pyro_mfcvae.models.likelihoods import BernoulliLikelihood
from pyro_mfcvae.subspaces import linear_start
from pyro_mfcvae.subspaces.linear_start import _Features, _loss, find_linear_facets, start_linearly

SCALE = 0.5


def planted(counts: tuple[int, ...], num: int = 900, size: int = 20) -> tuple[np.ndarray, list[np.ndarray]]:
    """Items (N, size): one offset for each label of each kind, and noise of standard deviation SCALE."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(count, size=num) for count in counts]
    offsets = [rng.normal(size=(count, size)) for count in counts]
    items = sum(offset[label] for offset, label in zip(offsets, labels, strict=True))
    return items + SCALE * rng.normal(size=(num, size)), labels


@pytest.mark.parametrize(
    ("counts", "dims"), [((3, 2), (2, 2)), pytest.param((3, 2, 4), (2, 2, 3), marks=pytest.mark.slow)]
)
def test_every_kind_of_label_gets_a_facet_of_its_own(counts: tuple[int, ...], dims: tuple[int, ...]) -> None:
    from sklearn.mixture import GaussianMixture

    items, labels = planted(counts)
    reported: list[tuple[str, int, int]] = []
    num_tries = 10 if len(dims) == 2 else 30  # with 10 rotations three facets are found with half of the seeds only
    facets = find_linear_facets(
        items, dims, scale=SCALE, most_clusters=8, num_tries=num_tries, on_progress=lambda *part: reported.append(part)
    )
    tries = 10 if len(dims) == 2 else 30 + 3 * 8  # the axes of each of three pairs of facets are divided again
    assert reported == [("search for subspaces", n, tries) for n in range(1, tries + 1)]
    z = (items - facets.mean) @ facets.matrix
    slices = np.split(z, np.cumsum(dims)[:-1], 1)
    table = np.array(
        [
            [ari(GaussianMixture(count, n_init=3, random_state=0).fit_predict(part), label) for part in slices]
            for count, label in zip(counts, labels, strict=True)
        ]
    )
    assert sorted(table.argmax(1)) == list(range(len(counts)))
    assert (table.max(1) > 0.95).all()
    # Offsets in 20 dimensions are not orthogonal, so the best rotation leaves a little of one label beside another.
    assert (np.sort(table, 1)[:, :-1] < (0.05 if len(dims) == 2 else 0.15)).all()
    assert min(facets.sizes) > 1


def test_coordinates_are_orthogonal_and_have_the_unit_and_width_of_their_description() -> None:
    items, _ = planted((3, 2))
    facets = find_linear_facets(items, (2, 2), scale=SCALE, most_clusters=4, num_tries=2)
    z = (items - facets.mean) @ facets.matrix
    assert (z**2).mean() == pytest.approx(1.0, rel=1e-9)
    # A step of SCALE in the data is a step of one width in z.
    np.testing.assert_allclose(facets.matrix.T @ facets.matrix, (facets.width / SCALE) ** 2 * np.eye(4), atol=1e-12)
    variance = (z**2).mean(0)
    assert variance[2:].sum() > variance[:2].sum()  # the deepest facet comes last


@pytest.mark.parametrize("without", [(0,), (1,), (0, 2)])
def test_facets_without_clusters_get_the_components_that_the_others_leave(without: tuple[int, ...]) -> None:
    items, _ = planted((3, 2))
    dims = (2, 3, 1)
    facets = find_linear_facets(items, dims, scale=SCALE, most_clusters=4, without_clusters=without, num_tries=2)
    assert [size == 1 for size in facets.sizes] == [j in without for j in range(3)]
    axes = np.linalg.svd(items - facets.mean, full_matrices=False)[2].T
    num_first = sum(dim for j, dim in enumerate(dims) if j not in without)
    slices = np.split(facets.matrix * SCALE / facets.width, np.cumsum(dims)[:-1], 1)
    first = np.concatenate([part for j, part in enumerate(slices) if j not in without], 1)
    others = np.concatenate([slices[j] for j in without], 1)
    np.testing.assert_allclose(first @ first.T, axes[:, :num_first] @ axes[:, :num_first].T, atol=1e-6)
    np.testing.assert_allclose(np.abs(others), np.abs(axes[:, num_first:6]), atol=1e-6)


def test_facets_that_all_have_no_clusters_share_the_components() -> None:
    items, _ = planted((3, 2))
    common = {"scale": SCALE, "most_clusters": 1, "num_tries": 2}
    facets = find_linear_facets(items, (2, 3), without_clusters=(0, 1), **common)
    assert facets.sizes == (1, 1)
    np.testing.assert_array_equal(facets.matrix, find_linear_facets(items, (2, 3), **common).matrix)


def test_without_a_scale_the_scale_of_probabilistic_pca_is_used() -> None:
    items, _ = planted((3, 2))
    unit = find_linear_facets(items, (2, 2), most_clusters=4, num_tries=1)
    spectrum = np.linalg.eigvalsh(np.cov(items.T))[::-1]
    scale = math.sqrt(spectrum[4:].sum() / (20 - 4))
    np.testing.assert_allclose(unit.matrix.T @ unit.matrix, (unit.width / scale) ** 2 * np.eye(4), rtol=2e-3, atol=1e-3)


def test_more_dimensions_than_the_data_have_stay_empty() -> None:
    items, _ = planted((3, 2), size=3)
    facets = find_linear_facets(items, (2, 2), scale=SCALE, most_clusters=4, num_tries=2)
    assert facets.matrix.shape == (3, 4)
    assert np.linalg.matrix_rank(facets.matrix) == 3


def test_a_few_items_are_enough() -> None:
    facets = find_linear_facets(planted((3, 2), num=10)[0], (6, 6), scale=SCALE, most_clusters=25, num_tries=3)
    assert facets.matrix.shape == (20, 12)
    assert np.isfinite(facets.matrix).all()


def make_pair(
    likelihood: Likelihood, *, size: int = 20, missing: bool = False, head: MakeHead = GaussianHead
) -> MFCVAE:
    facets = (Facet(num_clusters=4, latent_dim=2), Facet(num_clusters=4, latent_dim=2))
    decoder = MLPLadderDecoder(facets, (20,), rung_dims=(32, 32), hidden_dim=32, merge_weight=1.0)
    model = MultiFacetModel([MixturePrior(f) for f in facets], decoder, likelihood, missing=missing)
    encoder = MLPLadderEncoder(facets, (20,), rung_dims=(32, 32), head_init_scale=1.0, head=head)
    return MFCVAE(model, MultiFacetGuide(model, encoder=encoder))


def drawer(items: Tensor) -> tuple[object, list[int]]:
    asked: list[int] = []

    def draw(num: int) -> Tensor:
        asked.append(num)
        return items[torch.randperm(len(items))[:num]]

    return draw, asked


def test_the_loss_is_what_its_docstring_says() -> None:
    items, _ = planted((3, 2))
    pair, x = make_pair(GaussianLikelihood(scale=SCALE)), torch.from_numpy(items[:6])
    targets = torch.randn(6, 2), torch.randn(6, 2)
    state = torch.get_rng_state()
    loss = _loss(pair.model, pair.guide, x, targets, 0.3)
    torch.set_rng_state(state)
    expected, zs = torch.zeros(6), []
    for q, target in zip(pair.guide.encoder(x), targets, strict=True):
        zs.append(q.mean + q.stddev * torch.randn(6, 2))
        ratio = q.variance / 0.09
        expected += ((ratio - 1 - ratio.log() + (q.mean - target).square() / 0.09) / 2).sum(-1)
    residual = (x - pair.model.decoder(zs, torch.ones(2))) / SCALE
    expected += (residual.square() / 2 + math.log(SCALE) + math.log(2 * math.pi) / 2).sum(-1)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-10)


@pytest.fixture
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try three rotations instead of thirty."""
    monkeypatch.setattr(linear_start, "find_linear_facets", partial(find_linear_facets, num_tries=3))


@pytest.mark.usefixtures("quick_search")
@pytest.mark.parametrize("head", [GaussianHead, pytest.param(FullCovarianceHead, marks=pytest.mark.slow)])
def test_networks_encode_by_the_coordinates_and_decode_from_them(head: MakeHead) -> None:
    items, _ = planted((3, 2))
    pair, x = make_pair(GaussianLikelihood(scale=SCALE), head=head), torch.from_numpy(items)
    draw, asked = drawer(x)
    facets = start_linearly(pair.model, pair.guide, draw, num_steps=300, batch_size=64, learning_rate=5e-3)
    assert asked == [3000, *[64] * 300]
    with torch.no_grad():
        loc = torch.cat([q.mean for q in pair.guide.encoder(x)], -1)
        error = (x - pair.model.decoder(loc.split(2, -1), torch.ones(2))).square().mean()
    wanted = (x - torch.from_numpy(facets.mean)) @ torch.from_numpy(facets.matrix)
    assert (loc - wanted).square().mean().sqrt() < facets.width
    assert error < 1.2 * SCALE**2
    assert all(p.grad is None or not p.grad.any() for p in pair.parameters())


@pytest.mark.usefixtures("quick_search")
def test_missing_elements_are_replaced_by_their_mean_and_do_not_count() -> None:
    items, _ = planted((3, 2), num=90)
    x = torch.from_numpy(items)
    x[torch.rand(x.shape) < 0.2] = math.nan
    pair = make_pair(GaussianLikelihood(scale=SCALE), missing=True)
    features = _Features(pair.model, x)
    np.testing.assert_allclose(features(x).numpy(), np.where(np.isnan(items), np.nanmean(items, 0), items), rtol=1e-12)
    targets = (features(x)[:, :4]).split(2, -1)
    loss = _loss(pair.model, pair.guide, x, targets, 0.3)
    assert math.isfinite(loss.item())
    draw, _ = drawer(x)
    facets = start_linearly(pair.model, pair.guide, draw, num_steps=2, batch_size=64, learning_rate=1e-3)
    assert np.isfinite(facets.matrix).all()


@pytest.mark.usefixtures("quick_search")
def test_other_likelihoods_start_linearly_too() -> None:
    items, _ = planted((3, 2), num=90)
    pair, x = make_pair(BernoulliLikelihood()), (torch.from_numpy(items) > 0).double()
    draw, _ = drawer(x)
    reported: list[tuple[str, int, int]] = []
    facets = start_linearly(
        pair.model,
        pair.guide,
        draw,
        num_steps=2,
        batch_size=64,
        learning_rate=1e-3,
        on_progress=lambda *part: reported.append(part),
    )
    assert 0 < facets.width < 1
    assert reported[:1] == [("search for subspaces", 1, 3)]
    assert reported[2:] == [("search for subspaces", 3, 3), ("linear start", 1, 2), ("linear start", 2, 2)]
