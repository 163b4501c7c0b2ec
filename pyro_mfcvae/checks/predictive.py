"""Does the model draw items like those it was shown? Posterior predictive checks on statistics of items."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.arviz_data import assigned_clusters, num_facets, values
from pyro_mfcvae.checks.check import Check, Threshold

THRESHOLD = Threshold(
    warn=0.1,
    bad=0.5,
    source="ours: a tenth and a half of the statistic's standard deviation over items; chance by a Bayesian p-value "
    "within 0.05 … 0.95 (Gelman, Meng and Stern 1996)",
)
_FEWEST = 20  # members for a p-value of a cluster


def bayesian_p_value(observed: NDArray[Any], replicated: NDArray[Any]) -> float:
    """P(mean of a replicated data set ≥ mean of the observed one), ties counted half.

    Args:
        observed: a statistic of every item, (N,).
        replicated: the same of its replications, (S, N).
    """
    there, here = replicated.mean(-1), observed.mean()
    return float(np.mean(there > here) + np.mean(there == here) / 2)


def check_predictions(data: Any) -> list[Check]:
    """One check per statistic, with p-values and shifts of every cluster of every facet among the details."""
    clusters = assigned_clusters(data)
    checks = []
    for name in sorted(set(data["observed_data"].data_vars) - {"x"}):
        observed = values(data, "observed_data", name).astype(float)
        replicated = values(data, "posterior_predictive", name).astype(float)
        spread = float(observed.std()) or float(replicated.std()) or 1.0
        shift = float(replicated.mean() - observed.mean()) / spread
        p_value = bayesian_p_value(observed, replicated)
        by_cluster = []
        for j in range(num_facets(data)):
            for k, size in zip(*np.unique(clusters[:, j], return_counts=True), strict=True):
                if size >= _FEWEST:
                    members = clusters[:, j] == k
                    here, there = observed[members], replicated[:, members]
                    by_cluster.append(
                        {"facet": j, "cluster": int(k), "items": int(size), "p_value": bayesian_p_value(here, there)}
                        | {"shift": float(there.mean() - here.mean()) / spread}
                    )
        checks.append(
            Check(
                name=f"replicated {name}",
                asks=f"Do replicated items have the {name} of the data?",
                value=abs(shift),
                unit="standard deviations off",
                threshold=THRESHOLD,
                is_noise=0.05 <= p_value <= 0.95,
                advice=f"Replications have {'more' if shift > 0 else 'less'} of it. Change the likelihood: learn its "
                "scale, or take one for grey values. If single clusters are off, add dimensions.",
                details={"p_value": p_value, "shift": shift, "clusters": by_cluster},
            )
        )
    return checks
