import itertools

import pytest
import torch

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.infer.mixture_fit import align_clusters
from pyro_mfcvae.infer.schedule import ProgressiveSchedule
from pyro_mfcvae.models import MixturePrior
from pyro_mfcvae.train.known import KnownItems, choose_known_items
from pyro_mfcvae.train.training import Training

IMAGES = torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1).expand(12, 1, 2, 2)
LABELS = {"sort": torch.tensor([7, 7, 7, 2, 2, 2, 9, 9, 9, 9, 9, 9])}


def choose(**settings: object) -> KnownItems:
    usual = {"label": "sort", "facet": 1, "items_per_value": 2, "batch_size": 5}
    return choose_known_items(IMAGES, LABELS, **{**usual, **settings})  # type: ignore[arg-type]


def test_the_given_number_of_items_of_every_value_is_chosen() -> None:
    known_items = choose()
    assert known_items.known[1].tolist() == [0, 0, 1, 1, 2, 2]
    labels = LABELS["sort"][known_items.items[:, 0, 0, 0].long()]
    assert labels.tolist() == [2, 2, 7, 7, 9, 9]
    assert len(known_items.items.unique(dim=0)) == 6
    assert torch.equal(choose().items, known_items.items)
    assert not torch.equal(choose(seed=1).items, known_items.items)


def test_an_unlabelled_item_is_not_a_known_item() -> None:
    """A negative label means unlabelled: it is not a value."""
    labels = {"sort": torch.where(torch.arange(12) % 3 == 0, -1, LABELS["sort"])}
    known_items = choose_known_items(IMAGES, labels, label="sort", facet=1, items_per_value=2, batch_size=5)
    numbers = known_items.items[:, 0, 0, 0].long()
    assert labels["sort"][numbers].tolist() == [2, 2, 7, 7, 9, 9]
    assert known_items.known[1].tolist() == [0, 0, 1, 1, 2, 2]


def test_known_items_join_a_batch_with_their_clusters() -> None:
    known_items = choose()
    x, known, num_others = known_items.join(torch.zeros(3, 1, 2, 2))
    assert (x.shape, x.dtype) == ((8, 1, 2, 2), torch.float64)
    assert num_others == 3
    assert known[1][:3].tolist() == [-1, -1, -1]
    numbers = (x[3:, 0, 0, 0] * 255).round().long()
    values = {2: 0, 7: 1, 9: 2}
    assert known[1][3:].tolist() == [values[int(LABELS["sort"][n])] for n in numbers]


def test_mistakes_are_reported() -> None:
    with pytest.raises(InputError, match=r"expected a label set of the data \(sort\), got 'kind'"):
        choose(label="kind")
    with pytest.raises(InputError, match=r"expected 4 items with sort = 2, got 3: lower supervision\.items_per_value"):
        choose(items_per_value=4)


def test_clusters_of_a_prior_that_numbers_them_itself_cannot_be_known() -> None:
    settings = ["facets.num_clusters=[2, 3]", "facets.latent_dim=[2, 2]", "prior.kind=vamp"]
    pair = build_pair(override(Config(data=DataConfig(source="none")), settings), (1, 2, 2))
    with pytest.raises(InputError, match=r"got a VampPrior for facet 1: take a MixturePrior"):
        Training(
            pair,
            IMAGES,
            schedule=ProgressiveSchedule(stage_steps=(2, 2)),
            settings=override(Config(data=DataConfig(source="none")), ["training.batch_size=6"]).training,
            known_items=choose(),
        )


@pytest.mark.parametrize("covariance", ("diagonal", "full", "spherical", "tied"))
def test_renumbering_moves_every_parameter(covariance: str) -> None:
    prior = MixturePrior(Facet(num_clusters=3, latent_dim=2), covariance=covariance)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    z, order = torch.randn(5, 2), torch.tensor([2, 0, 1])
    before = prior().log_weights() + prior().log_prob(z)
    prior.renumber(order)
    torch.testing.assert_close(prior().log_weights() + prior().log_prob(z), before[:, order])


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three kinds of images, one bright stripe each."""
    kinds = torch.eye(3).repeat_interleave(2, 1).reshape(3, 1, 1, 6).expand(3, 1, 6, 6)
    c = torch.arange(90) % 3
    return (0.9 * kinds[c] + 0.1 * torch.rand(90, 1, 6, 6)), c


@pytest.mark.parametrize("permutation", [pytest.param((0, 1, 2), marks=pytest.mark.slow), (2, 0, 1)])
def test_a_facet_ends_with_the_users_numbers(monkeypatch: pytest.MonkeyPatch, permutation: tuple[int, ...]) -> None:
    """Three known items of each kind; five clusters, the first three for the user's categories."""
    x, c = blobs()
    settings = ["facets.num_clusters=[5]", "facets.latent_dim=[2]", "networks.encoder_dims=[16]"]
    settings += ["networks.decoder_dims=[16]", "networks.hidden_dim=16", "training.batch_size=30"]
    settings += ["likelihood=gaussian", "likelihood.scale=0.3", "training.learning_rate=1e-2"]
    config = override(Config(data=DataConfig(source="none")), settings)
    torch.manual_seed(0)
    named = torch.tensor(permutation)[c]
    known_items = choose_known_items(x, {"kind": named}, label="kind", facet=0, items_per_value=3, batch_size=9)
    pair = build_pair(config, (1, 6, 6))
    schedule = ProgressiveSchedule(stage_steps=(90,), warmup_steps=45)
    training = Training(
        pair,
        x,
        schedule=schedule,
        settings=config.training,
        mixture_fit=config.mixture_fit,
        known_items=known_items,
    )
    for _ in range(30):
        training.run_epoch()
    pair.eval()
    with torch.no_grad():
        found = pair.assign(x)[0].argmax(-1)
    # Clusters 3 and 4 may hold items too. Every item in the user's clusters is of the user's category.
    owned = found < 3
    assert owned.float().mean() > 0.3
    assert torch.equal(found[owned], named[owned])


def test_alignment_picks_the_best_renumbering() -> None:
    pair = build_pair(
        override(Config(data=DataConfig(source="none")), ["facets.num_clusters=[3]", "facets.latent_dim=[2]"]),
        (1, 2, 2),
    )
    x = torch.rand(6, 1, 2, 2)
    known = {0: torch.tensor([0, 0, 1, 1, 2, -1])}

    @torch.no_grad()
    def share() -> float:
        prior = pair.model.priors[0]
        probs = (prior().log_weights() + prior().log_prob(pair.guide.posteriors(x)[0].mean)).softmax(-1)
        return float(probs[torch.arange(5), known[0][:5]].sum())

    values = []
    for order in itertools.permutations(range(3)):
        state = {name: value.clone() for name, value in pair.state_dict().items()}
        pair.model.priors[0].renumber(torch.tensor(order))
        values.append(share())
        pair.load_state_dict(state)
    align_clusters(pair.model, pair.guide, x, known)
    assert share() == pytest.approx(max(values))
