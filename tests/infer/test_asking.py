"""Queries do not change a pair, run in batches, and take numbers of any type."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, InputError
from pyro_mfcvae.guides import ConvLadderEncoder, MLPLadderEncoder, MultiFacetGuide
from pyro_mfcvae.infer import asking
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    ConvLadderDecoder,
    GaussianLikelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    PoissonLikelihood,
)

FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=4, latent_dim=3))
SHAPE = (1, 8, 8)
QUESTIONS: dict[str, Callable[[MFCVAE, Tensor], Tensor]] = {
    "assign": lambda pair, x: torch.cat(pair.assign(x), -1),
    "encode": lambda pair, x: pair.encode(x)[1].mean,
    "reconstruct": lambda pair, x: pair.reconstruct(x),
    "swap": lambda pair, x: pair.swap(x, x.flip(-1), facets=[0]),
    "traverse": lambda pair, x: pair.traverse(x, facet=0, dim=1, values=torch.tensor([-1.0, 1.0]))[1],
    "kl": lambda pair, x: pair.elbo_terms(x).kl,
}
DRAWN: dict[str, Callable[[MFCVAE, Tensor], Tensor]] = {
    "sample": lambda pair, _: pair.sample(5),
    "log_evidence": lambda pair, x: pair.log_evidence(x, num_samples=3),
    "reconstruction": lambda pair, x: pair.elbo_terms(x).reconstruction,
    "weigh": lambda pair, x: pair.weigh(x, num_samples=3).log_weights,
}


def make() -> MFCVAE:
    """A pair with batch norm, whose statistics change in a pass in training mode."""
    sizes = {"channels": (3, 4)}
    model = MultiFacetModel(
        [MixturePrior(f) for f in FACETS], ConvLadderDecoder(FACETS, SHAPE, **sizes), GaussianLikelihood(scale=0.1)
    )
    return MFCVAE(model, MultiFacetGuide(model, encoder=ConvLadderEncoder(FACETS, SHAPE, head_init_scale=1.0, **sizes)))


@pytest.mark.parametrize("name", QUESTIONS | DRAWN)
def test_a_query_changes_nothing(name: str) -> None:
    """Statistics of batch norm, the mode of every module, gradients and Pyro's parameter store."""
    pair = make().train()
    pair.guide.encoder.levels[0].eval()
    modes = [module.training for module in pair.modules()]
    state = copy.deepcopy(pair.state_dict())
    answer = (QUESTIONS | DRAWN)[name](pair, torch.rand(6, *SHAPE))
    assert not answer.requires_grad and answer.isfinite().all()
    assert [module.training for module in pair.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in pair.state_dict().items())
    assert all(p.grad is None for p in pair.parameters()) and len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_result_of_an_item_does_not_depend_on_other_items(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training mode, batch norm would make the result of an item depend on the other items. The batch size has
    no effect either.
    """
    pair, x = make().train(), torch.rand(7, *SHAPE)
    whole = QUESTIONS[name](pair, x)
    torch.testing.assert_close(QUESTIONS[name](pair, x[2:4]), whole[2:4], rtol=0, atol=1e-12)
    monkeypatch.setattr(asking, "_MAX_VALUES", 2 * 64)
    torch.testing.assert_close(QUESTIONS[name](pair, x), whole, rtol=0, atol=1e-12)
    assert torch.equal(QUESTIONS[name](copy.deepcopy(pair).eval(), x), QUESTIONS[name](pair, x))


@pytest.mark.parametrize("name", (*QUESTIONS, "log_evidence"))
def test_memory_is_bounded(name: str) -> None:
    """Networks get at most a million values at once, so 10,000 items with 64 draws each take at least 40 passes."""
    pair, seen = make(), []

    def count(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        items = args[0][0].shape[:-1] if isinstance(args[0], list) else args[0].shape[:1]
        seen.append(64 * items.numel())

    for network in (pair.model.decoder, pair.guide.encoder):
        network.register_forward_pre_hook(count)
    x = torch.rand(1, *SHAPE).expand(5000, *SHAPE)
    if name == "log_evidence":
        assert pair.log_evidence(x[:600], num_samples=64).shape == (600,)
    else:
        QUESTIONS[name](pair, x)
    assert max(seen) <= asking._MAX_VALUES and len(seen) > 1


@pytest.mark.parametrize("name", QUESTIONS)
def test_numbers_of_any_type_are_accepted(name: str) -> None:
    pair = make().float()
    pixels = torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
    x = pixels.float()
    expected = QUESTIONS[name](pair, x) if name != "swap" else pair.swap(x, x.flip(-1), facets=[0])
    assert expected.dtype == torch.float32
    for data in (x.double(), x.half(), pixels.int()):
        torch.testing.assert_close(QUESTIONS[name](pair, data), expected, rtol=1e-5, atol=1e-5)
    array = np.asarray(pixels)
    arrays = (array.astype(np.float64)[::-1][::-1], array.astype(">f4"), array.astype(np.int16))
    for given in arrays:
        assert torch.equal(torch.cat(pair.assign(given), -1), torch.cat(pair.assign(x), -1))


def test_bytes_of_images_are_divided_by_255_as_in_training() -> None:
    """This holds for every continuous likelihood. Training also divides bytes, so other values would be other items."""
    pair = make()
    pixels = torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
    for likelihood in (GaussianLikelihood(scale=0.1), BernoulliLikelihood()):
        pair.model.likelihood = likelihood
        for given in (pixels, pixels.numpy()):
            for name, ask in QUESTIONS.items():
                if name != "swap":
                    torch.testing.assert_close(ask(pair, given), ask(pair, pixels / 255.0), rtol=0, atol=1e-6)


def test_bytes_that_are_counts_or_vectors_keep_their_value() -> None:
    counts = torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
    pair = make()
    pair.model.likelihood = PoissonLikelihood()
    assert all(torch.equal(a, b) for a, b in zip(pair.assign(counts), pair.assign(counts.double()), strict=True))
    decoder = MLPLadderDecoder(FACETS, (6,), rung_dims=(4, 4))
    model = MultiFacetModel([MixturePrior(f) for f in FACETS], decoder, GaussianLikelihood(scale=0.1))
    encoder = MLPLadderEncoder(FACETS, (6,), rung_dims=(4, 4), head_init_scale=1.0)
    pair = MFCVAE(model, MultiFacetGuide(model, encoder=encoder))
    vectors = torch.randint(0, 256, (5, 6), dtype=torch.uint8)
    assert all(torch.equal(a, b) for a, b in zip(pair.assign(vectors), pair.assign(vectors.double()), strict=True))


def test_masked_and_sparse_arrays_are_accepted() -> None:
    """Masked values are missing, whatever their number is; the zeros of a sparse tensor are zeros."""
    pair, x = make(), torch.rand(5, *SHAPE)
    under = np.ma.masked_greater(x.numpy(), 0.9)
    assert under.mask.any()
    with pytest.raises(InputError, match="expected x without NaN"):
        pair.assign(under)
    pair.model.missing = True
    expected = pair.assign(torch.where(x > 0.9, torch.nan, x))
    assert all(torch.equal(a, b) for a, b in zip(pair.assign(under), expected, strict=True))
    sparse = torch.where(x > 0.5, x, 0)
    assert torch.equal(pair.reconstruct(sparse.to_sparse()), pair.reconstruct(sparse))


def test_latents_of_any_kind_are_rendered() -> None:
    pair = make()
    zs = [torch.randn(3, 2), torch.randn(3, 3)]
    images = pair.render(zs)
    assert torch.equal(pair.render([z.numpy() for z in zs]), images)
    torch.testing.assert_close(pair.render([z[1] for z in zs]), images[1])
    for wrong, message in (
        (zs[:1], r"shapes \(…, 2\), \(…, 3\), got \[\(3, 2\)\]: pass one for every facet"),
        (zs[::-1], r"got \[\(3, 3\), \(3, 2\)\]"),
        ([zs[0], zs[1][:2]], r"leading dimensions broadcast, got \[\(3, 2\), \(2, 3\)\]: pass equally many items"),
    ):
        with pytest.raises(InputError, match=message):
            pair.render(wrong)


def test_numbers_of_facets_and_clusters_are_integers_of_any_kind() -> None:
    pair, x = make(), torch.rand(2, *SHAPE)
    assert torch.equal(pair.swap(x, x.flip(0), facets=1), pair.swap(x, x.flip(0), facets=[np.int64(1)]))
    pyro.set_rng_seed(0)
    expected = pair.sample(3, clusters={1: 2})
    pyro.set_rng_seed(0)
    assert torch.equal(pair.sample(np.int64(3), clusters={np.int64(1): torch.tensor(2)}), expected)
    for ask, message in (
        (lambda: pair.sample(3.0), "expected num ≥ 1, got 3.0: pass a whole number"),
        (lambda: pair.log_evidence(x, num_samples=2.5), "expected num_samples ≥ 1, got 2.5: pass a whole number"),
        (lambda: pair.sample(3, clusters=[0, 1]), r"expected one cluster by facet, clusters=\{0: 2\}, got \[0, 1\]"),
        (lambda: pair.sample(2, clusters={0: torch.tensor([0, 1])}), r"from 0 to 2, got tensor\(\[0, 1\]\)"),
        (lambda: pair.swap(x, x, facets=["deep"]), "expected a facet from 0 to 1, got 'deep': choose one of them"),
    ):
        with pytest.raises(InputError, match=message):
            ask()
