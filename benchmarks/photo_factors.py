"""How accurately the principal components of the drawn photos predict their object, colour and background.

    python benchmarks/photo_factors.py photos/

For every factor and number of principal components, the script prints the accuracy of two classifiers that are given
labels, by five-fold cross-validation: linear discriminants, which need classes in different linear directions, and the
three nearest neighbours, which do not. Then it removes the directions in which the mean photo depends on the other two
factors (their labels are used), fits mixtures with as many Gaussians as the factor has values, and prints the accuracy
by majority label, the largest overlap of two components, and the number of groups that `pyro_mfcvae.groups` makes of
them. It writes results/photo_factors.json.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from baselines import RESULTS
from numpy.typing import NDArray
from provenance import provenance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.spectrum import centred, choose_scale, measure_spectrum
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.groups import merge_clusters
from pyro_mfcvae.metrics import ari, majority_accuracy

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
_DIMS = (6, 9, 12, 18)
_NUM_DRAWS = 4000


def classify(points: Array, labels: Labels) -> dict[str, float]:
    """Cross-validated accuracy of two classifiers."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return {
        name: round(float(cross_val_score(model, points, labels, cv=folds).mean()), 3)
        for name, model in (("linear", LinearDiscriminantAnalysis()), ("neighbours", KNeighborsClassifier(3)))
    }


def without(points: Array, others: list[Labels]) -> Array:
    """The points projected on the complement of the directions in which their mean depends on the other labels."""
    known = np.concatenate([np.eye(other.max() + 1)[other][:, 1:] for other in others], 1)
    slopes = np.linalg.lstsq(np.c_[np.ones(len(points)), known], points, rcond=None)[0][1:]
    directions = np.linalg.svd(slopes)[2]
    complement: Array = points @ directions[len(slopes) :].T
    return complement


def fit_mixture(points: Array, labels: Labels, scale: float, seed: int) -> dict[str, Any]:
    """A mixture with full covariances and the true number of Gaussians, the best of ten starts by its likelihood."""
    rng = np.random.default_rng(seed)
    draws = points + scale * rng.normal(size=points.shape)
    size = labels.max() + 1
    mixture = GaussianMixture(size, reg_covar=1e-2 * scale**2, n_init=10, random_state=seed).fit(draws)
    mass = np.empty((size, size))
    for k in range(size):
        z = rng.multivariate_normal(mixture.means_[k], mixture.covariances_[k], _NUM_DRAWS)
        mass[k] = mixture.weights_[k] * mixture.predict_proba(z).mean(0)
    found = mixture.predict(draws)
    tree = merge_clusters(mass)
    return {
        "accuracy": round(majority_accuracy(found, labels), 3),
        "ari": round(ari(found, labels), 3),
        "overlap": round(max(merge.overlap for merge in tree.merges), 3),
        "groups": tree.num_groups,
    }


def main(folder: Annotated[Path, tyro.conf.Positional], seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    """Read the factors of drawn photos, from a folder that draw_product_photos.py made."""
    train = load_dataset(str(folder), size=32).train
    items = centred(train.images, len(train.images), standardize=False)
    labels = {name: values.numpy() for name, values in train.labels.items()}
    # `centred` keeps the order of the items, since it takes all of them
    directions = np.linalg.svd(items, full_matrices=False)[2]
    scale = choose_scale(measure_spectrum(train.images))
    rows = []
    for name, own in labels.items():
        others = [other for other_name, other in labels.items() if other_name != name]
        for dims in _DIMS:
            points = items @ directions[:dims].T
            row = {"factor": name, "dims": dims, "classifiers": classify(points, own)}
            if dims - sum(other.max() for other in others) >= 1:
                rest = without(points, others)
                row |= {"dims_left": rest.shape[1], "mixtures": [fit_mixture(rest, own, scale, s) for s in seeds]}
            rows.append(row)
            print(row, flush=True)
    write_json(RESULTS / "photo_factors.json", {**provenance(), "seeds": seeds, "rows": rows})


if __name__ == "__main__":
    tyro.cli(main)
