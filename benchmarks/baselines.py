"""Other methods on the same data, with the same scores: k-means and Gaussian mixtures on PCA, and three methods of
ClustPy.

    pip install "pyro-mfcvae[bench]"
    python benchmarks/baselines.py stickfigures
    python benchmarks/baselines.py pairs.npz --methods nrkmeans enrc --seeds 0 1 2
    python benchmarks/baselines.py photos/ --size 32

Tables are standardised.

The script writes results/baselines-NAME.json after every fit; records of methods and seeds that are not run again are
kept. All these methods are given the true numbers of clusters; ours is not. A method with a single clustering is fitted
once per label, with the label's number of clusters.
"""

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from provenance import provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.metrics import ari, hungarian_accuracy, majority_accuracy, nmi

Items = NDArray[np.float32]
Clusterings = NDArray[np.int64]
"""The cluster of every item in each clustering, (N, J)."""

RESULTS = Path(__file__).parent / "results"
_DIMS = 50  # components of PCA
_EPOCHS = {"pretrain_epochs": 100, "clustering_epochs": 150}  # the defaults of ClustPy


def reduce(x: Items, seed: int) -> NDArray[Any]:
    """The leading principal components."""
    from sklearn.decomposition import PCA

    reduced: NDArray[Any] = PCA(min(_DIMS, *x.shape), random_state=seed).fit_transform(x)
    return reduced


def k_means(x: Items, sizes: Sequence[int], seed: int) -> Clusterings:
    """One k-means per number of clusters."""
    from sklearn.cluster import KMeans

    z = reduce(x, seed)
    return np.stack([KMeans(k, n_init=10, random_state=seed).fit_predict(z) for k in sizes], 1).astype(np.int64)


def gaussian_mixture(x: Items, sizes: Sequence[int], seed: int) -> Clusterings:
    """One mixture of full Gaussians per number of clusters."""
    from sklearn.mixture import GaussianMixture

    z = reduce(x, seed)
    fits = [GaussianMixture(k, reg_covar=1e-3, n_init=3, random_state=seed).fit_predict(z) for k in sizes]
    return np.stack(fits, 1).astype(np.int64)


def nr_kmeans(x: Items, sizes: Sequence[int], seed: int) -> Clusterings:
    """Nr-Kmeans: a clustering per subspace."""
    from clustpy.alternative import NrKmeans

    model = NrKmeans(list(sizes), n_init=10, random_state=seed).fit(reduce(x, seed))
    return np.asarray(model.labels_, np.int64)[:, : len(sizes)]


def enrc(x: Items, sizes: Sequence[int], seed: int, *, epochs: float) -> Clusterings:
    """ENRC: an autoencoder whose embedding has a clustering per subspace."""
    from clustpy.deep import ENRC

    model = ENRC(list(sizes), random_state=seed, **_share_of_epochs(epochs)).fit(x)
    return np.asarray(model.labels_, np.int64)[:, : len(sizes)]


def vade(x: Items, sizes: Sequence[int], seed: int, *, epochs: float) -> Clusterings:
    """VaDE: one clustering for each number of clusters, all trained from the same autoencoder."""
    from clustpy.deep import VaDE

    numbers = _share_of_epochs(epochs)
    start = VaDE(sizes[0], random_state=seed, **{**numbers, "clustering_epochs": 0}).fit(x).neural_network_trained_
    fits = {
        k: VaDE(k, random_state=seed, neural_network=deepcopy(start), **numbers).fit(x).labels_
        for k in dict.fromkeys(sizes)
    }
    return np.stack([fits[k] for k in sizes], 1).astype(np.int64)


def _share_of_epochs(share: float) -> dict[str, int]:
    return {name: round(share * number) for name, number in _EPOCHS.items()}


SHALLOW: dict[str, Callable[[Items, Sequence[int], int], Clusterings]] = {
    "kmeans": k_means,
    "gmm": gaussian_mixture,
    "nrkmeans": nr_kmeans,
}
DEEP: dict[str, Callable[..., Clusterings]] = {"enrc": enrc, "vade": vade}


def rand_index(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Share of the pairs of items that are together in both clusterings or separate in both."""
    from sklearn.metrics import rand_score

    return float(rand_score(labels, clusters))


def score_one(clusters: NDArray[np.int64], label: NDArray[np.int64]) -> dict[str, float]:
    """Agreement of a clustering with a label."""
    return {
        "accuracy": majority_accuracy(clusters, label),
        "hungarian": hungarian_accuracy(clusters, label),
        "nmi": nmi(clusters, label),
        "ari": ari(clusters, label),
        "ri": rand_index(clusters, label),
    }


def score(found: Clusterings, labels: dict[str, NDArray[np.int64]]) -> dict[str, dict[str, float]]:
    """The scores of every label in its clustering, by a one-to-one matching by NMI, and its largest NMI in any other
    clustering.
    """
    from scipy.optimize import linear_sum_assignment

    table = np.array([[nmi(column, label) for column in found.T] for label in labels.values()])
    scores = {}
    for row, column in zip(*linear_sum_assignment(table, maximize=True), strict=True):
        name = list(labels)[row]
        leak = float(np.delete(table[row], column).max(initial=0.0))
        scores[name] = {**score_one(found[:, column], labels[name]), "leak": leak}
    return scores


def score_best(found: Clusterings, labels: dict[str, NDArray[np.int64]]) -> dict[str, dict[str, float]]:
    """The scores of every label in the clustering with the highest NMI; several labels may have the same clustering."""
    scores = {}
    for name, label in labels.items():
        best = int(np.argmax([nmi(column, label) for column in found.T]))
        scores[name] = {"clustering": best, **score_one(found[:, best], label)}
    return scores


def main(
    data: Annotated[str, tyro.conf.Positional],
    methods: tuple[str, ...] = (*SHALLOW, *DEEP),
    seeds: tuple[int, ...] = (0,),
    num: int = 10_000,
    size: int | None = None,
    epochs: float = 1.0,
) -> None:
    """Run the methods on a data set's items; MFCVAE_DATA names the folder of the data sets' files.

    Args:
        num: largest number of items.
        size: height and width that images are resized to, in pixels.
        epochs: share of ClustPy's default numbers of epochs that ENRC and VaDE train for.
    """
    dataset = load_dataset(data, size=size)
    order = np.random.default_rng(0).permutation(len(dataset.test))[:num]
    x = as_float(dataset.test.images[np.sort(order)]).flatten(1).numpy()
    if dataset.test.images.ndim == 2:  # a table, whose columns have units of their own; `auto` standardises it too
        x = (x - x.mean(0)) / x.std(0)
    labels = {name: values[np.sort(order)].numpy() for name, values in dataset.test.labels.items()}
    sizes = [len(np.unique(values[values >= 0])) for values in labels.values()]
    path = RESULTS / f"baselines-{dataset.name}.json"
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    if path.is_file():
        rows = {(row["method"], row["seed"]): row for row in json.loads(path.read_text())["rows"]}
    for method in methods:
        for seed in seeds:
            start = time.perf_counter()
            deep = {"epochs": epochs} if method in DEEP else {}
            found = DEEP[method](x, sizes, seed, **deep) if deep else SHALLOW[method](x, sizes, seed)
            scores = score(found, labels)
            seconds = round(time.perf_counter() - start, 1)
            rows[method, seed] = {"method": method, "seed": seed, "seconds": seconds, **deep, "labels": scores}
            said = "; ".join(
                f"{name}: NMI {s['nmi']:.2f}, ARI {s['ari']:.2f}, leak {s['leak']:.2f}" for name, s in scores.items()
            )
            print(f"{method}, seed {seed}: {said} ({seconds:.0f} s)", flush=True)
            fingerprint = dataset.fingerprint()
            record = {
                "data": dataset.name,
                "data_fingerprint": fingerprint,
                "rows": [rows[key] for key in sorted(rows)],
            }
            write_json(path, {**provenance(), **record})


if __name__ == "__main__":
    tyro.cli(main)
