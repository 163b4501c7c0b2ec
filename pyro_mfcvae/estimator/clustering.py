"""Multi-facet clustering as a scikit-learn estimator, which takes and returns NumPy arrays."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_mfcvae.api.inputs import is_image_array, to_array
from pyro_mfcvae.api.model_files import pair_from_bytes
from pyro_mfcvae.data.images import as_float, check_complete, validate_images
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.estimator.training import choose_config, train_pair
from pyro_mfcvae.infer.importance import weigh
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.runs.trials import choose_seed
from pyro_mfcvae.train.devices import open_fabric

# Number of items at once, and of draws of z per item for estimates of the evidence.
_BATCH_SIZE = 1024
_NUM_DRAWS = 32


class MultiFacetClustering(ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin, BaseEstimator):
    """Several clusterings of the same items, one per facet, by a multi-facet clustering VAE (Falck et al. 2021).

    Items are images, (n, h, w), (n, h, w, c) or (n, c, h, w), as bytes or floats in [0, 1]; or vectors, (n, p), which
    are standardised. Tensors, tables of pandas and polars, and PyTorch data sets and loaders are accepted as well.

    A facet has ``num_clusters`` clusters. Clusters that overlap are merged into one group, and `predict` returns
    groups. With "auto" a facet has more clusters than groups.

    Args:
        num_facets: J; if None, the number of entries of ``num_clusters``, or 2 if that has no entries.
        num_clusters: number of clusters of each facet, shallowest first; or one number for all; or "auto", at most 20.
        latent_dim: D of each facet, or one number for all; or "auto", at most 6.
        num_steps: number of training steps, all stages together, or "auto". Parameters that are "auto", the likelihood
            and the networks follow from the items, as in the preset ``auto`` of ``mfcvae fit``.
        batch_size: items per step, or "auto".
        learning_rate: learning rate of Adam at the first step, or "auto".
        n_init: number of seeds that short trainings choose from, by their ELBO on held-out items.
        merge_groups: whether clusters that overlap are merged; otherwise every cluster with an item is a group.
        device: auto, cpu or cuda.
        verbose: whether to show a progress bar.
        random_state: the first seed, as ``seed`` of ``mfcvae fit``; further seeds are the next numbers. A NumPy
            generator draws the seeds. Global random states are not changed.

    Attributes:
        labels_: group of every item, (n, J); (n,) if J = 1.
        clusters_: cluster of every item, (n, J); (n,) if J = 1.
        num_groups_: number of groups of each facet, (J,).
        grouping_: the clusters of each group.
        pair_: the fitted `MFCVAE`.
        evidence_: mean log p(x) of the training items in nats, importance-weighted; it is ``score(X)``.
        n_features_in_: elements of an item.
    """

    labels_: NDArray[np.int64]
    clusters_: NDArray[np.int64]
    num_groups_: tuple[int, ...]
    grouping_: Grouping
    pair_: MFCVAE
    evidence_: float

    def __init__(
        self,
        num_facets: int | None = None,
        *,
        num_clusters: int | Sequence[int] | Literal["auto"] = "auto",
        latent_dim: int | Sequence[int] | Literal["auto"] = "auto",
        num_steps: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: float | Literal["auto"] = "auto",
        n_init: int = 1,
        merge_groups: bool = True,
        device: str = "auto",
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.num_facets = num_facets
        self.num_clusters = num_clusters
        self.latent_dim = latent_dim
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_init = n_init
        self.merge_groups = merge_groups
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Train on items; ``y`` is not used.

        Raises:
            InputError: there are fewer items than clusters, or a parameter does not fit.
        """
        items = self._read(X, reset=True)
        if not isinstance(self.n_init, Integral) or self.n_init < 1:
            raise InputError(f"expected n_init as a whole number ≥ 1, got {self.n_init!r}: choose another")
        trained = items.to(torch.get_default_dtype()) if items.ndim == 2 else items
        config = choose_config(self, trained)
        seeds = _seeds(self.random_state, self.n_init)
        with own_randomness(seeds[0]):
            seed = choose_seed(config, trained, seeds, fabric=open_fabric(self.device))
        with own_randomness(seed):
            self.pair_ = train_pair(config, trained, seed=seed, device=self.device, verbose=self.verbose)
        with own_randomness(0):
            self.evidence_ = float(np.mean(self._evidence(self.pair_, items)))
        self._n_features_out = sum(facet.latent_dim for facet in self.pair_.model.facets)
        probs = self._probs(items)
        self.grouping_ = self._group(items, probs)
        self.num_groups_ = self.grouping_.num_groups
        self.labels_ = self._best([self.grouping_.probs(j, q) for j, q in enumerate(probs)])
        self.clusters_ = self._best(probs)
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Most probable group of each item in each facet, (n, J); (n,) if J = 1."""
        return self._best(self.predict_proba_per_facet(X))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of each group, for all facets side by side, (n, sum of the groups)."""
        return np.hstack(self.predict_proba_per_facet(X))

    def predict_proba_per_facet(self, X: Any) -> list[NDArray[np.float64]]:
        """Probability of each group, (n, G_j) per facet."""
        check_is_fitted(self)
        return [self.grouping_.probs(j, q) for j, q in enumerate(self._probs(self._read(X)))]

    def transform(self, X: Any) -> NDArray[np.float64]:
        """E[z | x] of all facets side by side, shallowest first, (n, sum of latent_dim)."""
        check_is_fitted(self)
        items = self._read(X)
        with torch.no_grad(), pyro.get_param_store().scope():
            parts = [torch.cat([q.mean for q in self.pair_.encode(self._to_pair(x))], -1) for x in _batches(items)]
        return torch.cat(parts).cpu().double().numpy()

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Evidence log p(x) of each item in nats, importance-weighted, with the same draws for all items, (n,)."""
        check_is_fitted(self)
        with own_randomness(0):
            return self._evidence(self.pair_, self._read(X))

    def score(self, X: Any, y: object = None) -> float:
        """Mean of `score_samples`; a larger score is better, so a grid search can maximise it."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, *, groups: Mapping[int, int] | None = None) -> NDArray[np.float64]:
        """Draw items from the model, in the units and the layout of the training items.

        Args:
            n_samples: number of items, ≥ 1.
            groups: maps a facet to the group of all these items; all other facets are free.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise InputError(f"expected n_samples ≥ 1, got {n_samples}: ask for one or more")
        generator = check_random_state(self.random_state)
        clusters: dict[int, NDArray[np.int64]] = {}
        for j, g in (groups or {}).items():
            if not 0 <= j < len(self.num_groups_):
                raise InputError(f"expected a facet from 0 to {len(self.num_groups_) - 1}, got {j}: choose one")
            if not 0 <= g < self.num_groups_[j]:
                raise InputError(
                    f"expected a group of facet {j} from 0 to {self.num_groups_[j] - 1}, got {g}: choose one"
                )
            members = self.grouping_.facets[j].members(g)
            shares = self.grouping_.facets[j].tree.shares[members]
            clusters[j] = generator.choice(members, size=n_samples, p=shares / shares.sum())
        with own_randomness(int(generator.randint(2**31 - 1))), torch.no_grad(), pyro.get_param_store().scope():
            drawn = [
                self.pair_.sample(1, clusters={j: int(c[i]) for j, c in clusters.items()}) for i in range(n_samples)
            ]
        items = torch.cat(drawn).cpu().double().numpy()
        return items[:, 0] if self._layout == 3 else items.transpose(0, 2, 3, 1) if self._layout == "last" else items

    def _read(self, X: Any, *, reset: bool = False) -> Tensor:
        """Items in the form that the pair takes: images (N, C, H, W), or vectors (N, P) in double precision."""
        array = to_array(X)
        if is_image_array(array):
            return self._read_images(np.asarray(array), reset=reset)
        if not reset and self._layout != "vectors":
            raise InputError(f"expected images as in fit, got an array of shape {np.shape(array)}: reshape it")
        values = validate_data(self, array, reset=reset, dtype=np.float64, ensure_min_samples=2 if reset else 1)
        if reset:
            self._layout: str | int = "vectors"
        return torch.from_numpy(np.require(values, requirements=["C", "W"]))

    def _read_images(self, array: NDArray[Any], *, reset: bool) -> Tensor:
        images = validate_images(array)
        check_complete(images)
        shape = tuple(images.shape[1:])
        if reset:
            self._image_shape = shape
            self._layout = 3 if array.ndim == 3 else "first" if shape == array.shape[1:] else "last"
            self.n_features_in_ = int(np.prod(shape))
        elif self._layout == "vectors" or shape != self._image_shape:
            are_vectors = self._layout == "vectors"
            expected = f"vectors of {self.n_features_in_}" if are_vectors else f"images {self._image_shape}"
            raise InputError(f"expected {expected} as in fit, got images {shape}: resize or reshape them")
        return images

    def _to_pair(self, x: Tensor) -> Tensor:
        buffer = self.pair_.model.alpha
        return as_float(x).to(buffer.device, buffer.dtype)

    @torch.no_grad()
    def _probs(self, items: Tensor) -> list[NDArray[np.float64]]:
        with pyro.get_param_store().scope(), own_randomness(0):
            parts = [self.pair_.assign(self._to_pair(x)) for x in _batches(items)]
        facets = [torch.cat(columns).cpu().double() for columns in zip(*parts, strict=True)]
        return [(q / q.sum(-1, keepdim=True)).numpy() for q in facets]

    @torch.no_grad()
    def _evidence(self, pair: MFCVAE, items: Tensor) -> NDArray[np.float64]:
        """Weigh draws of z. All items share the standard normal draws, so none depends on the other items."""
        buffer, found = pair.model.alpha, []
        noise = [torch.randn(_NUM_DRAWS, 1, facet.latent_dim, dtype=torch.float64) for facet in pair.model.facets]
        with pyro.get_param_store().scope():
            for x in _batches(items):
                x = as_float(x).to(buffer.device, buffer.dtype)
                posteriors = pair.encode(x)
                zs = [q.mean + q.stddev * eps.to(q.mean) for q, eps in zip(posteriors, noise, strict=True)]
                log_weights = weigh(pair.model, [pair.priors], posteriors, zs, x).log_weights
                found.append(log_weights.logsumexp(0) - np.log(_NUM_DRAWS))
        return torch.cat(found).cpu().double().numpy()

    def _group(self, items: Tensor, probs: list[NDArray[np.float64]]) -> Grouping:
        """The groups, cut so that every group has an item."""
        with own_randomness(0), pyro.get_param_store().scope():
            grouping = Grouping.from_trees(self.pair_.groups(self._to_pair(items)))
        for j, q in enumerate(probs):
            in_use = len(grouping.facets[j].tree.merges) + 1
            first = grouping.num_groups[j] if self.merge_groups else in_use
            for num_groups in range(first, 0, -1):
                grouping = grouping.cut(j, num_groups)
                if len(np.unique(grouping.probs(j, q).argmax(1))) == num_groups:
                    break
        return grouping

    def _best(self, probs: list[NDArray[np.float64]]) -> NDArray[np.int64]:
        best = np.stack([q.argmax(1) for q in probs], 1)
        return best[:, 0] if best.shape[1] == 1 else best

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy or a pickle. The fitted pair is stored as safetensors bytes with its configuration."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "pair_" in state:
            state["pair_"] = state["pair_"].to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        pair = state.get("pair_")
        super().__setstate__(state if pair is None else state | {"pair_": pair_from_bytes(pair)})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _seeds(random_state: int | np.random.RandomState | None, num: int) -> list[int]:
    """A seed for every training."""
    if isinstance(random_state, Integral):
        if not 0 <= random_state < 2**32:
            raise InputError(f"expected random_state from 0 to {2**32 - 1}, got {random_state}: choose another")
        return [(int(random_state) + i) % 2**32 for i in range(num)]
    return [int(seed) for seed in check_random_state(random_state).randint(2**31 - 1, size=num)]


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Run with all random states seeded, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        pyro.set_rng_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _batches(items: Tensor) -> Sequence[Tensor]:
    return items.split(_BATCH_SIZE)
