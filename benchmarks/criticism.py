"""How often do the checks cry wolf, and how often do they see a fault? The two tables of docs/checks.md.

    python benchmarks/criticism.py exact --seeds 40
    python benchmarks/criticism.py faults --seeds 20

`exact` checks models whose guide is the posterior (known_models.py): any verdict other than good is a false alarm.
`faults` builds one fault at a time into the guide or the model; a fault is found where a check that concerns it, of the
facet that it concerns, is not good. Both add what they ran to results/criticism.json, so that a long table can be made
in parts.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

import pyro
import torch
import tyro
from known_models import Fault, draw, make_pair
from provenance import provenance
from reproduction import RESULTS

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.draws.arviz_data import attach_groups, to_inference_data
from pyro_mfcvae.guides import VaDEAssignment
from pyro_mfcvae.mfcvae import MFCVAE

NUM_DRAWS, NUM_SIMULATED, NUM_REFERENCE = 32, 2000, 200
SIZES = tuple(product((200, 2000), (3, 25, 100), (2, 10), (False, True)))  # N, K, D, whether pixels are missing


@dataclass(frozen=True)
class Case:
    """A fault: the pair that has it, the data it is shown, and the checks that concern it, with their facets."""

    pair: Callable[[int, int], MFCVAE]
    names: tuple[str, ...]
    facets: tuple[int | None, ...] = (1,)
    offset: float = 0.0


def of_guide(**fault: Any) -> Callable[[int, int], MFCVAE]:
    return lambda k, d: make_pair(k, d, fault=Fault(**fault))


MODEL = ("replicated contrast", "replicated mean", "evidence of the data", "held-out half of an item")
FAULTS: dict[str, Case] = {
    "facet 1 collapsed": Case(lambda k, d: make_pair(k, d, cut=(1,)), ("items without the facet",)),
    "q(z|x) half as wide": Case(of_guide(spread=0.5), ("width of q(z|x)",)),
    "q(z|x) twice as wide": Case(of_guide(spread=2.0), ("width of q(z|x)",)),
    "q(z|x) shifted by half an sd": Case(of_guide(shift=0.5), ("shift of q(z|x)",)),
    "correlation .7 that is not there": Case(of_guide(correlation=0.7), ("correlation within q(z|x)",)),
    "q(c|x)^.5": Case(of_guide(temper=0.5), ("calibration of q(c|x)", "q(c|x) against p(c|x)")),
    "q(c|x)^2": Case(of_guide(temper=2.0), ("calibration of q(c|x)", "q(c|x) against p(c|x)")),
    "10 % of items narrowed to .3": Case(of_guide(narrowed=0.1), ("width of q(z|x)", "k-hat of q(z|x)")),
    "decoder off for one cluster": Case(make_pair, MODEL, (None,), offset=2.0),
    "two clusters of the prior merged": Case(
        lambda k, d: make_pair(k, d, merged=True),
        (*MODEL, "aggregate posterior", "use of clusters", "holes of the prior"),
        (None, 1),
    ),
    "VaDE's rule": Case(
        lambda k, d: make_pair(k, d, rule=VaDEAssignment(num_samples=30)), ("nats lost by the rule for q(c|x)",), (0, 1)
    ),
    "a mode dropped from q(z|x)": Case(
        of_guide(dropped=0),
        ("width of q(z|x)", "shift of q(z|x)", "calibration of q(c|x)", "correlation within q(z|x)"),
    ),
    "noise of the likelihood 1.5 times too large": Case(lambda k, d: make_pair(k, d, noise=1.5), MODEL, (None,)),
}


def run_checks(pair: MFCVAE, source: MFCVAE, num: int, seed: int, groups: Any, *, offset: float = 0.0) -> list[Check]:
    """All checks of a pair on items of another, the source."""
    pyro.set_rng_seed(seed)
    x, reference = draw(source, num, offset=offset), draw(source, NUM_REFERENCE, offset=offset)
    data = to_inference_data(
        pair,
        x,
        reference=reference,
        num_samples=NUM_DRAWS,
        num_simulated=NUM_SIMULATED,
        pixels=False,
    )
    attach_groups(data, groups)
    return list(criticise(data).checks)


def groups_of(pair: MFCVAE) -> list[Any]:
    return [tree.labels() for tree in pair.groups()]


def measure_exact(num: int, num_clusters: int, latent_dim: int, missing: bool, seeds: range) -> dict[str, Any]:
    """Alarms of one size: the seeds that have any bad, and any warn, and which checks these were."""
    pair = make_pair(num_clusters, latent_dim, missing=missing)
    groups, alarms, start = groups_of(pair), {}, time.perf_counter()
    for seed in seeds:
        checks = run_checks(pair, pair, num, seed, groups)
        if found := {f"{c.name}, {c.facet}": c.verdict for c in checks if c.verdict != "good"}:
            alarms[str(seed)] = found
    return {
        "seeds": [seeds.start, seeds.stop],
        "checks": len(checks),
        "any_bad": sum("bad" in found.values() for found in alarms.values()),
        "any_warn": sum("warn" in found.values() for found in alarms.values()),
        "alarms": alarms,
        "seconds_per_seed": round((time.perf_counter() - start) / len(seeds), 2),
    }


def measure_fault(name: str, num_clusters: int, latent_dim: int, seeds: range, *, num: int = 2000) -> dict[str, Any]:
    """In how many seeds the fault is found by a check that concerns it, and which checks are not good at all."""
    case, source = FAULTS[name], make_pair(num_clusters, latent_dim)
    pair = case.pair(num_clusters, latent_dim)
    groups, found, others = groups_of(pair), [], {}
    if name == "facet 1 collapsed":
        source = pair
    for seed in seeds:
        checks = run_checks(pair, source, num, seed, groups, offset=case.offset)
        off = [check for check in checks if check.verdict != "good"]
        found.append(any(c.name in case.names and c.facet in case.facets for c in off))
        for check in off:
            key = f"{check.name}, {'whole' if check.facet is None else f'facet {check.facet}'}"
            others[key] = others.get(key, 0) + 1
    return {"seeds": [seeds.start, seeds.stop], "found": sum(found), "not_good": others}


def main(
    table: Annotated[Literal["exact", "faults"], tyro.conf.Positional],
    /,
    seeds: int = 40,
    first: int = 0,
    only: tuple[str, ...] = (),
) -> None:
    """Measure.

    Args:
        table: Which of the two.
        seeds: How many per cell.
        first: The first seed.
        only: Cells, such as "200,3,2,False", or faults; all where none is given.
    """
    torch.set_num_threads(1)
    path = RESULTS / "criticism.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    results |= provenance() | {"draws": NUM_DRAWS, "simulated": NUM_SIMULATED, "reference": NUM_REFERENCE}
    span = range(first, first + seeds)
    if table == "exact":
        cells = {",".join(map(str, size)): size for size in SIZES}
        todo = {key: lambda size=size: measure_exact(*size, span) for key, size in cells.items()}
    else:
        todo = {
            f"{name}; K = {k}, D = {d}": lambda name=name, k=k, d=d: measure_fault(name, k, d, span)
            for k, d in ((3, 2), (25, 10))
            for name in FAULTS
        }
    for key, measure in todo.items():
        if not only or key in only:
            results.setdefault(table, {})[key] = measure()
            print(key, results[table][key], flush=True)
            write_text(path, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
