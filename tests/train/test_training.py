import math
from dataclasses import asdict
from itertools import chain

import pyro
import pytest
import torch
from small_configs import SMALL
from torch import Tensor, nn
from trainings import STILL, draw_images, prepare, watch_batches

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.parts import ASSIGNMENTS
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.dependence import FacetDependence
from pyro_mfcvae.infer.objective import FacetELBO
from pyro_mfcvae.infer.schedule import ProgressiveSchedule, steps_per_epoch
from pyro_mfcvae.train.objective import Objective
from pyro_mfcvae.train.training import Training

# --- what an epoch does and says ------------------------------------------------------------------------------------


def test_the_record_is_the_mean_over_the_items() -> None:
    training = prepare(f"training.learning_rate={STILL}")
    pair = training.pair
    nn.init.zeros_(pair.model.decoder.output.weight)  # type: ignore[arg-type]  # p(x|z) needs no draw of z
    nn.init.normal_(pair.model.decoder.output.bias)  # type: ignore[arg-type]
    record = training.run_epoch()
    terms = FacetELBO().terms(pair.model, pair.guide, training.images).mean()
    logits = pair.model.decoder.output.bias
    assert isinstance(logits, Tensor)
    x = training.images.flatten(1)
    by_hand = (x * logits - nn.functional.softplus(logits)).sum(-1).mean()
    assert record.reconstruction == pytest.approx(by_hand.item(), rel=1e-12)
    assert record.kl == pytest.approx(terms.kl.tolist(), rel=1e-12)
    assert record.elbo == pytest.approx(by_hand.item() - terms.kl[1].item(), rel=1e-12)  # facet 0 has not joined yet
    assert (record.alpha, record.beta) == ([0.0, 1.0], [0.0, 1.0])
    assert (record.epoch, record.step, record.learning_rate) == (1, 3, STILL)


def test_the_elbo_uses_the_beta_of_each_step() -> None:
    training = prepare(f"training.learning_rate={STILL}", "schedule.fade_in_steps=3", "training.epochs=[1, 2]")
    pair = training.pair
    nn.init.zeros_(pair.model.decoder.output.weight)  # type: ignore[arg-type]
    training.run_epoch()
    batches = watch_batches(training)
    elbos: list[float] = []
    record = training.run_epoch(lambda _, elbo: elbos.append(elbo))
    expected = []
    for batch, beta in zip(tuple(batches), (1 / 3, 2 / 3, 1.0), strict=True):
        terms = FacetELBO().terms(pair.model, pair.guide, training.images[batch]).mean()
        expected.append((terms.reconstruction - beta * terms.kl[0] - terms.kl[1]).item())
    assert elbos == pytest.approx(expected, rel=1e-12)
    assert record.elbo == pytest.approx(sum(expected) / 3, rel=1e-12)
    assert record.alpha == record.beta == [1.0, 1.0]


@pytest.mark.parametrize("free_nats", [0.0, 0.5, 1e3])
def test_free_nats_of_each_facets_kl_cost_nothing_and_have_no_gradient(free_nats: float) -> None:
    pair = prepare().pair
    pair.model.beta.copy_(torch.tensor([0.5, 1.0]))
    x = draw_images(20)
    pyro.set_rng_seed(3)
    loss, terms = Objective(pair, num_items=len(x), free_nats=free_nats)(x)
    reconstruction, kl = terms[1], terms[2:]
    expected = -reconstruction + 0.5 * kl[0].clamp_min(free_nats) + kl[1].clamp_min(free_nats)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    paid = [prior.loc.grad is not None and bool(prior.loc.grad.any()) for prior in pair.model.priors]
    assert paid == [bool(value > free_nats) for value in kl]


def test_the_loss_adds_the_dependence_of_the_facets_and_the_record_leaves_it_out() -> None:
    pair, x = prepare().pair, draw_images(20)
    found = []
    for independence in (0.0, 2.0):
        pyro.set_rng_seed(3)
        found.append(Objective(pair, num_items=len(x), independence=independence)(x))
    pyro.set_rng_seed(3)
    draws = FacetELBO().raw_terms(pair.model, pair.guide, x, None, with_draws=True).draws
    dependence = FacetDependence(pair.model.facets, x)(draws, pair.model.alpha)
    (plain, terms), (loss, same_terms) = found
    assert loss.item() == pytest.approx(plain.item() + 2 * dependence.item(), rel=1e-12)
    assert dependence.item() > 0
    torch.testing.assert_close(same_terms, terms, rtol=0, atol=0)


def test_a_facet_without_clusters_is_trained_and_never_fitted() -> None:
    training = prepare("facets.num_clusters=[1, 4]", "training.epochs=[1, 1]")
    records = [training.run_epoch() for _ in range(2)]
    assert all(record.active_clusters[0] == 1 for record in records)
    assert math.isfinite(records[1].elbo)


def test_active_clusters_are_counted_on_the_items() -> None:
    training = prepare()
    record = training.run_epoch()
    assert record.active_clusters == [len(p.argmax(-1).unique()) for p in training.pair.assign(training.images)]


def test_epochs_and_steps_are_counted() -> None:
    training = prepare("training.epochs=[1, 2]")
    assert (training.num_epochs, training.steps_per_epoch, training.epoch, training.step) == (3, 3, 0, 0)
    records = [training.run_epoch() for _ in range(3)]
    assert [(r.epoch, r.step) for r in records] == [(1, 3), (2, 6), (3, 9)]
    assert (training.epoch, training.step) == (3, 9)


@pytest.mark.parametrize("rule", ASSIGNMENTS)
def test_every_assignment_rule_trains(rule: str) -> None:
    training = prepare(f"assignment.kind={rule}", "training.epochs=6", "training.learning_rate=0.01")
    records = [training.run_epoch() for _ in range(12)]
    assert all(math.isfinite(r.elbo) for r in records)
    assert records[-1].reconstruction > records[0].reconstruction


def test_bytes_train_like_the_floats_they_stand_for() -> None:
    bytes_ = torch.randint(256, (60, 1, 6, 6), dtype=torch.uint8)
    records = []
    for images in (bytes_, bytes_.to(torch.get_default_dtype()) / 255):
        pyro.set_rng_seed(3)
        schedule = ProgressiveSchedule(stage_steps=(3, 3))
        training = Training(build_pair(SMALL, (1, 6, 6)), images, schedule=schedule, settings=SMALL.training)
        records.append(asdict(training.run_epoch()))
    assert records[0] == records[1]


def test_nothing_is_left_in_pyros_parameter_store() -> None:
    training = prepare("mixture_fit.warmup_steps=1", "training.data_dependent_init=true")
    training.run_epoch()
    assert list(pyro.get_param_store().keys()) == []


def test_the_users_entries_in_pyros_parameter_store_are_kept() -> None:
    mine = pyro.param("mine", torch.tensor(3.0))
    training = prepare()
    training.run_epoch()
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine") is mine


# --- batches --------------------------------------------------------------------------------------------------------


def batches_of(num: int, *, seed: int = 0, epochs: int = 1, ambient: int = 0) -> list[list[int]]:
    pyro.set_rng_seed(ambient)
    training = prepare(num=num, seed=seed)
    batches = watch_batches(training)
    for _ in range(epochs):
        training.run_epoch()
    return batches


def flat(batches: list[list[int]]) -> list[int]:
    return list(chain(*batches))


def test_batches_cover_every_item_once() -> None:
    batches = batches_of(60)
    assert [len(batch) for batch in batches] == [20, 20, 20]
    assert sorted(flat(batches)) == list(range(60))
    assert flat(batches) != list(range(60))


def test_items_after_the_last_batch_come_in_another_epoch() -> None:
    first, second = (flat(batches_of(75, epochs=2)[k : k + 3]) for k in (0, 3))
    assert len(set(first)) == len(set(second)) == 60
    assert set(range(75)) - set(first) != set(range(75)) - set(second)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    here = batches_of(60, epochs=2)
    assert batches_of(60, epochs=2, ambient=7) == here
    assert here[:3] != here[3:]
    assert batches_of(60, seed=1) != here[:3]
    # Seed and epoch are not added: epoch 1 of seed 0 differs from epoch 0 of seed 1.
    assert batches_of(60, seed=1) != here[3:]


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    (batch,) = batches_of(10)
    assert sorted(batch) == list(range(10))


def test_steps_per_epoch_are_whole_batches() -> None:
    assert [steps_per_epoch(num, 20) for num in (1, 19, 20, 39, 40)] == [1, 1, 1, 1, 2]


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_a_schedule_must_end_with_an_epoch() -> None:
    with pytest.raises(InputError, match="expected epochs of 3 steps, got 7 steps in all"):
        Training(
            build_pair(SMALL, (1, 6, 6)),
            draw_images(60),
            schedule=ProgressiveSchedule(stage_steps=(4, 3)),
            settings=SMALL.training,
        )


def test_more_clusters_than_items_are_refused_before_training() -> None:
    with pytest.raises(InputError, match="expected at least 3 items for the clusters of facet 0, got 2: choose fewer"):
        prepare(num=2)
    with pytest.raises(InputError, match="expected at least 4 items for the clusters of facet 1, got 3"):
        prepare("mixture_fit.items=3")
    prepare("mixture_fit.items=4").run_epoch()


def test_low_precision_networks_leave_the_densities_in_full_precision() -> None:
    """bf16 has 8 significant bits: the terms change by a few per cent at most, and keep the parameters' dtype."""
    pair, x = build_pair(SMALL, (1, 6, 6)).float(), torch.rand(64, 1, 6, 6, dtype=torch.float32)
    for parameter in pair.guide.encoder.heads.parameters():
        nn.init.normal_(parameter, std=0.1)
    elbo = FacetELBO(num_particles=50)
    with torch.no_grad():
        pyro.set_rng_seed(0)
        full = elbo.terms(pair.model, pair.guide, x).mean()
        pyro.set_rng_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = elbo.terms(pair.model, pair.guide, x).mean()
    assert mixed.kl.dtype == mixed.reconstruction.dtype == torch.float32
    assert not torch.equal(mixed.kl, full.kl)
    torch.testing.assert_close(mixed.kl, full.kl, rtol=0.05, atol=0.05)
    torch.testing.assert_close(mixed.reconstruction, full.reconstruction, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_setting_decides_the_precision_of_the_networks_alone(precision: str) -> None:
    torch.set_default_dtype(torch.float32)
    training = prepare(f"training.precision={precision}")
    seen: set[torch.dtype] = set()
    training.pair.guide.encoder.rungs[0].register_forward_hook(  # type: ignore[index]
        lambda _, __, output: seen.add(output.dtype) if torch.is_grad_enabled() else None
    )
    record = training.run_epoch()
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert {p.dtype for p in training.pair.parameters()} == {torch.float32}
    assert math.isfinite(record.elbo)
