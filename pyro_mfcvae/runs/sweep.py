"""A sweep: many seeds of one configuration, to measure how much a result depends on the seed."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mfcvae.config.build import check_own_parts
from pyro_mfcvae.config.custom_parts import import_parts
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.metrics import ari
from pyro_mfcvae.runs.evaluation import Evaluation, evaluate
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.together import fit_together
from pyro_mfcvae.runs.workers import run_jobs
from pyro_mfcvae.safety.locks import clean, locked
from pyro_mfcvae.safety.stopping import stop_on_signals


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs of a sweep, all scored on the same test items.

    Attributes:
        seeds: the seeds, S of them.
        evaluations: one per seed.
        agreement: `facet_agreement` of the clusters for every pair of runs, (S, S, J).
    """

    seeds: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    agreement: NDArray[np.float64]

    def __repr__(self) -> str:
        """A line per seed, and the agreement of the seeds."""
        lines = (
            f"  seed {seed}: ELBO {evaluation.elbo:.2f} nats per item, groups {evaluation.grouping.num_groups}"
            for seed, evaluation in zip(self.seeds, self.evaluations, strict=True)
        )
        agreement = ", ".join(f"facet {j} {value:.2f}" for j, value in enumerate(self.group_stability()))
        return "\n".join([f"Sweep, best seed {self.best_seed}", *lines, f"  ARI of groups across seeds: {agreement}"])

    @property
    def best_seed(self) -> int:
        """The seed whose run has the highest ELBO on the test items. This choice needs no labels."""
        return self.seeds[int(np.argmax([evaluation.elbo for evaluation in self.evaluations]))]

    def scores(self, metric: str) -> Mapping[str, NDArray[np.float64]]:
        """Label → the metric (``accuracy``, ``hungarian``, ``nmi`` or ``ari``) of the groups of every run and
        facet, (S, J).
        """
        tables = [getattr(evaluation.group_scores, metric) for evaluation in self.evaluations]
        return {label: np.stack([table[label] for table in tables]) for label in tables[0]}

    def stability(self) -> NDArray[np.float64]:
        """Mean agreement of each facet's clusters over all pairs of different runs, (J,); NaN for a single run."""
        return _mean_of_pairs(self.agreement)

    def group_stability(self) -> NDArray[np.float64]:
        """Mean agreement of each facet's groups over all pairs of different runs, (J,); NaN for a single run."""
        runs = self.evaluations
        return _mean_of_pairs(np.array([[facet_agreement(a.groups, b.groups) for b in runs] for a in runs]))

    def redundancy(self) -> NDArray[np.float64]:
        """Mean adjusted mutual information between the groups of two facets over the runs, (J, J)."""
        return np.mean([evaluation.group_scores.redundancy for evaluation in self.evaluations], 0)

    def summary(self) -> dict[str, Any]:
        """All fields, as values that JSON supports."""
        runs = [
            {"seed": seed, "elbo": evaluation.elbo, "facets": evaluation.facet_records()}
            | evaluation.redundancy_record()
            for seed, evaluation in zip(self.seeds, self.evaluations, strict=True)
        ]
        return {
            "best_seed": self.best_seed,
            "stability": self.stability().tolist(),
            "group_stability": self.group_stability().tolist(),
            "group_redundancy": self.redundancy().tolist(),
            "runs": runs,
        }


def _mean_of_pairs(agreement: NDArray[np.float64]) -> NDArray[np.float64]:
    pairs = agreement[np.triu_indices(len(agreement), 1)]
    return pairs.mean(0) if len(pairs) else np.full(agreement.shape[-1], np.nan)


def sweep(
    config: Config,
    folder: Path,
    *,
    seeds: Sequence[int],
    root: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    together: bool = False,
    on_done: Callable[[int, dict[str, Any]], None] | None = None,
) -> Sweep:
    """Fit a configuration with every seed in parallel, each in its own process and with its own run folder ``seed-N``.

    Each run is equal to the run of `fit` with that seed. Finished runs are not fitted again, and stopped runs are
    resumed. Then all runs are scored on the same test items, those for the seed of the configuration.

    With ``together``, one process takes the steps of all seeds at once on one device (see `fit_together`), so that
    small models use more of a GPU. The runs differ from those of `fit` only by rounding.

    Args:
        config: what to train.
        folder: folder of the runs.
        seeds: seeds of the runs.
        root: folder of the data sets' files, see `load_dataset`.
        device: see `fit`.
        workers: number of parallel runs; by default one per GPU, or one per CPU core. They share the cores evenly.
        together: train all seeds at once in this process.
        on_done: called after every finished run, with its seed and summary.

    Raises:
        InputError: another process uses the folder, or a seed failed, for example because its training diverged or its
            process was killed. The other seeds are finished first.
        StoppedError: a signal asked the sweep to end; every training has saved its last step.
    """
    check_own_parts(config)
    with locked(folder):
        data = load_dataset(
            config.data.source, root=root, seed=config.seed, size=config.data.size, fit=config.data.fit
        )  # checked first, before any process starts
        if together:
            if workers is not None:
                raise InputError(
                    "expected either workers or together, since seeds that train together use one "
                    "process, got both: leave one of them out"
                )
            failures = _fit_together(config, folder, seeds, root, device, on_done)
        else:
            with stop_on_signals():
                failures = _fit_side_by_side(config, folder, seeds, root, device, workers, on_done)
        if failures:
            raise _describe(failures, seeds, folder)
        return compare(folder, seeds=seeds, data=data)


def _describe(failures: Mapping[int, InputError], seeds: Sequence[int], folder: Path) -> InputError:
    """One error that names every seed that failed, with its reason."""
    by_reason: dict[str, list[int]] = {}
    for seed in sorted(failures):
        by_reason.setdefault(str(failures[seed]), []).append(seed)
    reasons = "; ".join(f"seed {', '.join(map(str, names))} failed: {why}" for why, names in by_reason.items())
    if len(failures) == len(seeds):
        return InputError(reasons)
    return InputError(f"{reasons}. {len(seeds) - len(failures)} of {len(seeds)} runs are finished and kept in {folder}")


def compare(folder: Path, *, seeds: Sequence[int], data: Dataset) -> Sweep:
    """Score the finished runs ``seed-N`` of a folder on the test items, and against each other."""
    evaluations = []
    for seed in seeds:
        run = RunFolder.open(folder / f"seed-{seed}")
        pair = run.load_pair()
        evaluations.append(evaluate(pair, data.test, grouping=run.read_grouping(pair)))
    agreement = [[facet_agreement(a.assignments, b.assignments) for b in evaluations] for a in evaluations]
    return Sweep(tuple(seeds), tuple(evaluations), np.array(agreement))


def facet_agreement(here: NDArray[np.int64], there: NDArray[np.int64]) -> NDArray[np.float64]:
    """ARI of every facet's clusters, or groups, with those of the matching facet of another run, (J,).

    Facets are matched one to one so that the sum of the ARIs is largest. So two runs agree even if they found the same
    clusterings in different order.

    Args:
        here: clusters, or groups, of N items along the facets of one run, (N, J).
        there: the same items along the facets of another run, (N, J).
    """
    from scipy.optimize import linear_sum_assignment

    table = np.array([[ari(a, b) for b in there.T] for a in here.T])
    rows, columns = linear_sum_assignment(table, maximize=True)
    return np.asarray(table[rows, columns])


def _fit_side_by_side(
    config: Config,
    folder: Path,
    seeds: Sequence[int],
    root: Path | None,
    device: str,
    workers: int | None,
    on_done: Callable[[int, dict[str, Any]], None] | None,
) -> dict[int, InputError]:
    """Fit every seed in a separate process; return the failures."""
    gpus = torch.cuda.device_count() if device in ("auto", "cuda", "gpu") else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or gpus or cores, len(seeds))
    jobs = {
        seed: (
            replace(config, seed=seed),
            folder / f"seed-{seed}",
            root,
            f"cuda:{index % gpus}" if gpus else device,
            max(cores // workers, 1),
        )
        for index, seed in enumerate(seeds)
    }
    return run_jobs(_fit_one, jobs, name="seed", workers=workers, on_done=on_done or (lambda seed, summary: None))


def _fit_one(config: Config, path: Path, root: Path | None, device: str, threads: int) -> dict[str, Any]:
    import_parts(config.own_modules)  # the parent process has imported the modules of the custom parts, see `sweep`
    run = _run_of(config, path)
    if run.summary_path.is_file():
        clean(path)
        return run.read_summary()
    torch.set_num_threads(threads)
    data = load_dataset(config.data.source, root=root, seed=config.seed, size=config.data.size, fit=config.data.fit)
    return fit(config, run, data=data, device=device).summary


def _fit_together(
    config: Config,
    folder: Path,
    seeds: Sequence[int],
    root: Path | None,
    device: str,
    on_done: Callable[[int, dict[str, Any]], None] | None,
) -> dict[int, InputError]:
    """Fit all seeds in this process at once; return the failures."""
    configs, runs, failures = [], [], {}
    for seed in seeds:
        run = _run_of(replace(config, seed=seed), folder / f"seed-{seed}")
        if not run.summary_path.is_file():
            configs.append(replace(config, seed=seed))
            runs.append(run)
            continue
        clean(run.path)
        if on_done is not None:
            on_done(seed, run.read_summary())
    data = [load_dataset(c.data.source, root=root, seed=c.seed, size=c.data.size, fit=c.data.fit) for c in configs]
    for fitted, done in zip(configs, fit_together(configs, runs, data=data, device=device), strict=True):
        if isinstance(done, InputError):
            failures[fitted.seed] = done
        elif on_done is not None:
            on_done(fitted.seed, done.summary)
    return failures


def _run_of(config: Config, path: Path) -> RunFolder:
    run = RunFolder(path)
    if run.config_path.is_file() and run.read_config() != config:
        raise InputError(
            f"expected a run of this configuration, got {path} of another: choose another folder, or remove it"
        )
    return run
