import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_clustering,
    check_estimators_dtypes,
    check_estimators_nan_inf,
    check_estimators_pickle,
    check_fit2d_predict1d,
    check_fit_idempotent,
    parametrize_with_checks,
)
from torch.utils.data import DataLoader, TensorDataset

import pyro_mfcvae
from pyro_mfcvae import MultiFacetClustering
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.estimator import clustering
from pyro_mfcvae.estimator.clustering import _seeds

# The contract is about shapes, errors and reproducibility, for which a few steps are enough.
STEPS = 2

EXPECTED_FAILURES = {"check_clustering": "it needs more steps, and a one-dimensional labels_"}


@pytest.mark.parametrize(
    "check",
    [
        check_estimators_dtypes,
        check_estimators_nan_inf,
        check_estimators_pickle,
        check_fit2d_predict1d,
        check_fit_idempotent,
    ],
)
def test_parts_of_the_contract_of_scikit_learn(check: Any) -> None:
    torch.set_default_dtype(torch.float32)
    check("two facets", MultiFacetClustering(num_clusters=(3, 2), num_steps=STEPS))


@pytest.mark.slow
@parametrize_with_checks(
    [MultiFacetClustering(num_clusters=(3, 2), num_steps=STEPS)], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
def test_the_contract_of_scikit_learn(estimator: MultiFacetClustering, check: Any) -> None:
    torch.set_default_dtype(torch.float32)
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [MultiFacetClustering(num_clusters=(3,), num_steps=STEPS)], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
def test_the_contract_of_scikit_learn_with_one_facet(estimator: MultiFacetClustering, check: Any) -> None:
    torch.set_default_dtype(torch.float32)
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("readonly", [False, True])
def test_with_one_facet_the_check_of_clusterings_passes_as_well(readonly: bool) -> None:
    torch.set_default_dtype(torch.float32)
    check_clustering("one facet", MultiFacetClustering(num_clusters=(3,), num_steps=40), readonly_memmap=readonly)


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Data with two clusterings: three blobs in two dimensions, and two blobs in two other dimensions."""
    first, a = make_blobs(200, 2, centers=[[-6, 0], [6, 0], [0, 9]], cluster_std=0.7, random_state=0)
    second, b = make_blobs(200, 2, centers=[[-5, -5], [5, 5]], cluster_std=0.7, random_state=1)
    return np.hstack([first, second]), np.stack([a, b], 1)


@pytest.fixture(scope="module")
def fitted(blobs: tuple[np.ndarray, np.ndarray]) -> MultiFacetClustering:
    torch.set_default_dtype(torch.float32)
    return MultiFacetClustering(num_clusters=6, num_steps=50, random_state=0).fit(blobs[0])


def test_labels_are_groups_and_clusters_lie_in_them(
    fitted: MultiFacetClustering, blobs: tuple[np.ndarray, np.ndarray]
) -> None:
    X = blobs[0]
    assert fitted.labels_.shape == fitted.clusters_.shape == (200, 2)
    assert fitted.predict(X).tolist() == fitted.labels_.tolist()
    probs = fitted.predict_proba_per_facet(X)
    assert [q.shape[1] for q in probs] == list(fitted.num_groups_)
    np.testing.assert_allclose(fitted.predict_proba(X), np.hstack(probs))
    for j, q in enumerate(probs):
        np.testing.assert_allclose(q.sum(1), 1, rtol=1e-12)
        assert sorted(np.unique(fitted.labels_[:, j])) == list(range(fitted.num_groups_[j]))
    joint = fitted.labels_[:, 0] * 10 + fitted.labels_[:, 1]
    assert adjusted_rand_score(blobs[1][:, 0] * 2 + blobs[1][:, 1], joint) > 0.5


def test_the_seed_decides_the_result_and_global_states_are_kept(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    torch.set_default_dtype(torch.float32)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    X = blobs[0][::4]
    one, other = (MultiFacetClustering(num_clusters=3, num_steps=2, random_state=3).fit(X) for _ in range(2))
    assert one.transform(X).tolist() == other.transform(X).tolist()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


@pytest.mark.parametrize("way", ["pickle", "joblib", "clone of a fit"])
def test_a_fit_is_kept_by_copies_and_pickles(
    fitted: MultiFacetClustering, blobs: tuple[np.ndarray, np.ndarray], way: str, tmp_path: Path
) -> None:
    if way == "pickle":
        content = pickle.dumps(fitted)
        assert b"torch" not in content  # the pair is pickled as safetensors
        again = pickle.loads(content)
    elif way == "joblib":
        joblib.dump(fitted, tmp_path / "it")
        again = joblib.load(tmp_path / "it")
    else:
        with pytest.raises(NotFittedError):
            clone(fitted).predict(blobs[0])
        return
    assert again.predict_proba(blobs[0]).tolist() == fitted.predict_proba(blobs[0]).tolist()


def test_items_have_evidence_of_their_own_and_drawn_items_have_units(
    fitted: MultiFacetClustering, blobs: tuple[np.ndarray, np.ndarray]
) -> None:
    X = blobs[0]
    scores = fitted.score_samples(X)
    np.testing.assert_allclose(fitted.score_samples(X[5:9]), scores[5:9], rtol=1e-9)
    assert fitted.score(X) == pytest.approx(scores.mean()) == pytest.approx(fitted.evidence_, rel=1e-12)
    assert fitted.score_samples(X[:1] + 100)[0] < scores.min()
    drawn = fitted.sample(40, groups={0: 0})
    assert drawn.shape == (40, 4)
    assert (np.abs(drawn.mean(0)) < 12).all()
    with pytest.raises(InputError, match="expected a group of facet 0 from 0 to"):
        fitted.sample(1, groups={0: 99})
    with pytest.raises(InputError, match="expected a facet from 0 to 1, got 7: choose one"):
        fitted.sample(1, groups={7: 0})
    with pytest.raises(InputError, match="expected n_samples ≥ 1, got 0"):
        fitted.sample(0)


def test_it_works_in_pipelines_and_grid_searches(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    torch.set_default_dtype(torch.float32)
    X = pd.DataFrame(blobs[0][::4], columns=list("abcd"))
    fit = MultiFacetClustering(num_clusters=3, num_steps=2, random_state=0)
    z = make_pipeline(StandardScaler(), fit).set_output(transform="pandas").fit_transform(X)
    assert z.shape == (50, 8)
    assert next(iter(z.columns)) == "multifacetclustering0"
    search = GridSearchCV(MultiFacetClustering(num_steps=2, random_state=0), {"num_clusters": [2, (3, 2)]}, cv=2)
    assert search.fit(X).best_estimator_.feature_names_in_.tolist() == list("abcd")


def test_tables_of_polars_and_tensors_are_accepted(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    torch.set_default_dtype(torch.float32)
    X = blobs[0][::4]
    fit = MultiFacetClustering(num_clusters=3, num_steps=2, random_state=0)
    expected = fit.fit(X).labels_.tolist()
    assert fit.fit(pl.DataFrame(X, schema=list("abcd"))).labels_.tolist() == expected
    assert fit.fit(torch.as_tensor(X)).labels_.tolist() == expected
    items = TensorDataset(torch.as_tensor(X), torch.zeros(50))
    assert fit.fit(items).labels_.tolist() == expected
    assert fit.fit(DataLoader(items, batch_size=32)).labels_.tolist() == expected


def test_a_list_of_images_is_accepted_and_a_path_is_refused() -> None:
    torch.set_default_dtype(torch.float32)
    X = np.random.default_rng(0).integers(256, size=(30, 8, 8, 3), dtype=np.uint8)
    fit = MultiFacetClustering(num_clusters=3, num_steps=2, random_state=0)
    expected = fit.fit(X).labels_.tolist()
    assert fit.fit(list(X)).labels_.tolist() == expected
    assert fit.fit([Image.fromarray(image) for image in X]).labels_.tolist() == expected
    with pytest.raises(InputError, match=r"expected items in memory, got the path 'photos/': pyro_mfcvae.fit and"):
        fit.fit("photos/")


@pytest.mark.parametrize("shape", [(30, 8, 8), (30, 8, 8, 3), (30, 3, 8, 8), (30, 16, 16)])
def test_images_are_accepted_in_every_layout(shape: tuple[int, ...]) -> None:
    torch.set_default_dtype(torch.float32)
    X = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    fit = MultiFacetClustering(num_clusters=3, num_steps=2, random_state=0).fit(X)
    assert fit.labels_.shape == (30, 2)
    assert fit.n_features_in_ == np.prod(shape[1:])
    assert fit.sample(2).shape == (2, *shape[1:])
    assert fit.transform(X[:3]).shape == (3, 12)
    with pytest.raises(InputError, match=r"expected images \(.*\) as in fit, got images"):
        fit.predict(X[:, :-1] if shape[1] > 3 else X[:, :, :-1])
    with pytest.raises(InputError, match="expected images as in fit, got an array of shape"):
        fit.predict(X.reshape(30, -1))


def test_several_starts_end_with_the_chosen_seed(
    blobs: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_default_dtype(torch.float32)
    settings = {"num_clusters": 3, "num_steps": 2}
    tried: list[int] = []

    def choose_last(config: object, items: object, seeds: list[int], **_: object) -> int:
        tried.extend(seeds)
        return seeds[-1]

    monkeypatch.setattr(clustering, "choose_seed", choose_last)
    X = blobs[0][::4]
    several = MultiFacetClustering(n_init=3, random_state=8, **settings).fit(X)
    assert tried == [8, 9, 10]
    assert several.evidence_ == MultiFacetClustering(random_state=10, **settings).fit(X).evidence_


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": (3, 2), "num_facets": 3}, "got num_facets=3 and 2 entries"),
        ({"num_clusters": 0}, "expected num_clusters as a whole number ≥ 1, got 0"),
        ({"num_clusters": "many"}, "expected num_clusters as a number, one per facet, or 'auto', got 'many'"),
        ({"num_clusters": 201}, "at least as many items as clusters, got n_samples=200 and num_clusters=201"),
        ({"latent_dim": (2, 2), "num_clusters": (2,)}, "expected latent_dim of 1 entries, one per facet, got 2"),
        ({"num_steps": 1.5}, "expected num_steps as a whole number ≥ 1, got 1.5"),
        ({"n_init": 0}, "expected n_init as a whole number ≥ 1, got 0"),
        ({"learning_rate": -1.0}, "expected learning_rate > 0, got -1.0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    settings: dict[str, Any], message: str, blobs: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(InputError, match=message):
        MultiFacetClustering(**settings).fit(blobs[0])


@pytest.mark.parametrize(
    ("kind", "epochs"),  # 200 items hold three batches of 64
    [
        pytest.param("images", 5, marks=pytest.mark.slow),
        pytest.param("vectors", 5, marks=pytest.mark.slow),
        ("vectors", 1),
    ],
)
def test_it_gives_the_groups_of_a_run_with_this_seed(
    kind: str, epochs: int, blobs: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    torch.set_default_dtype(torch.float32)
    X = blobs[0] if kind == "vectors" else (blobs[0][:, :, None] * np.ones(4) * 8 + 100).clip(0, 255).astype(np.uint8)
    estimator = MultiFacetClustering(num_facets=2, num_steps=3 * epochs, random_state=5).fit(X)
    settings = {"seed": 5, "training.epochs": epochs}
    table = pyro_mfcvae.fit(X, settings=settings, out=tmp_path / "run", verbose=False).assignments
    for name, found in (("group", estimator.labels_), ("cluster", estimator.clusters_)):
        assert table[[f"facet_{j}_{name}" for j in range(2)]].to_numpy().tolist() == found.tolist()


def test_a_seed_numbers_the_trainings_and_a_generator_draws_them() -> None:
    assert _seeds(7, 3) == [7, 8, 9]
    assert _seeds(2**32 - 1, 2) == [2**32 - 1, 0]
    drawn = _seeds(np.random.RandomState(0), 2)
    assert drawn == np.random.RandomState(0).randint(2**31 - 1, size=2).tolist()
    with pytest.raises(ValueError, match="cannot be used to seed"):
        _seeds("x", 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected random_state from 0 to 4294967295, got -1"):
        _seeds(-1, 1)


def test_the_pair_takes_and_draws_vectors_in_their_units() -> None:
    torch.set_default_dtype(torch.float32)
    X = 1000 + 50 * np.random.default_rng(0).normal(size=(60, 3))
    estimator = MultiFacetClustering(num_clusters=2, num_steps=2, random_state=0).fit(X)
    drawn = estimator.pair_.sample(200)
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=60)
    probs = estimator.pair_.assign(torch.as_tensor(X))
    np.testing.assert_allclose(probs[0].numpy().argmax(1), estimator.clusters_[:, 0])


def test_verbose_shows_every_epoch_and_changes_nothing_else(
    blobs: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = MultiFacetClustering(num_clusters=3, num_steps=2, random_state=0).fit(blobs[0])
    assert capsys.readouterr().out == ""
    shown = MultiFacetClustering(num_clusters=3, num_steps=2, random_state=0, verbose=True).fit(blobs[0])
    # 200 items are three batches of 64, so two steps are less than an epoch; both facets train from the first step.
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/1"]
    assert shown.evidence_ == quiet.evidence_
