"""How often do the checks raise a false alarm, and how often do they find a fault? The two tables of docs/checks.md.

    python benchmarks/criticism.py exact --first 40 --seeds 40
    python benchmarks/criticism.py faults --first 20 --seeds 20
    python benchmarks/criticism.py table

`exact` checks models whose guide is the posterior (known_models.py, trained_models.py): so every verdict that is not
good is a false alarm. `faults` builds one fault at a time into the guide or the model. A fault is found if a check that
is meant for it, in the facet of the fault, is not good. Both commands run all cells seed by seed, write every table of
checks to results/criticism.json immediately, and resume after a stop. The file has a record per commit, since the rates
depend on the version of the checks. `table` prints the tables of docs/checks.md. Earlier records are added to the
newest one if they have the same numbers, see `OTHER_GROUPS`.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Annotated, Any, Literal

import pyro
import torch
import tyro
from known_models import Fault, draw, make_pair
from provenance import commit, provenance
from reproduction import RESULTS
from trained_models import exact_trained_pair

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.draws.arviz_data import attach_groups, to_inference_data
from pyro_mfcvae.guides import VaDEAssignment
from pyro_mfcvae.mfcvae import MFCVAE

NUM_ITEMS, NUM_DRAWS, NUM_SIMULATED, NUM_REFERENCE = 2000, 32, 2000, 200
# For the same seed, all these records have the same values and p-values in every bit, except for one row, the refits,
# which change with the groups of the clusters. In these cells the groups differ from those of the newest record.
OTHER_GROUPS = {
    "3394408574 and before": ("K = 3, D = 2", "K = 25, D = 2", "K = 100"),
    "34ad45d2ee": ("K = 100, D = 10",),
}
SIZES = tuple(product((2000, 200), (100, 25, 3), (10, 2), ("yes", "no")))


@dataclass(frozen=True)
class Case:
    """A fault: the pair that has it, the checks that are meant for it, with their facets, and the source of the
    data.
    """

    pair: Callable[[int, int], MFCVAE]
    names: tuple[str, ...]
    facets: tuple[int | None, ...] = (1,)
    offset: float = 0.0
    source: Callable[[int, int], MFCVAE] = make_pair


def of_guide(**fault: Any) -> Callable[[int, int], MFCVAE]:
    return lambda k, d: make_pair(k, d, fault=Fault(**fault))


def tempered(exponent: float) -> Case:
    """A pair whose q(c | x) has an exponent. Clusters 1 and 2 of facet 1 overlap, because an exponent changes no
    probability if clusters are far apart.
    """

    def pair(k: int, d: int) -> MFCVAE:
        return make_pair(k, d, fault=Fault(temper=exponent), layout="close")

    names = ("calibration of q(c|x)", "q(c|x) against p(c|x)")
    return Case(pair, names, source=lambda k, d: make_pair(k, d, layout="close"))


MODEL = ("replicated contrast", "replicated mean", "evidence of the data", "held-out half of an item")
FAULTS: dict[str, Case] = {
    "facet 1 collapsed": Case(lambda k, d: make_pair(k, d, cut=(1,)), ("items without the facet",)),
    "q(z|x) half as wide": Case(of_guide(spread=0.5), ("width of q(z|x)",)),
    "q(z|x) twice as wide": Case(of_guide(spread=2.0), ("width of q(z|x)",)),
    "q(z|x) shifted by half an sd": Case(of_guide(shift=0.5), ("shift of q(z|x)",)),
    "correlation .7 that is not there": Case(of_guide(correlation=0.7), ("correlation within q(z|x)",)),
    "q(c|x)^.5": tempered(0.5),
    "q(c|x)^2": tempered(2.0),
    "10 % of items narrowed to .3": Case(of_guide(narrowed=0.1), ("width of q(z|x)", "k-hat of q(z|x)")),
    "decoder off for one cluster": Case(make_pair, MODEL, (None,), offset=2.0),
    "two clusters of the prior merged": Case(
        lambda k, d: make_pair(k, d, layout="merged"),
        (*MODEL, "shape of clusters", "aggregate posterior", "holes of the prior"),
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
    """Run all checks of a pair on items that another pair, ``source``, draws."""
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


def add_exact(cell: dict[str, Any], checks: list[Check], seed: int) -> None:
    """Add a table of an exact pair to a cell: whether it has a bad or a warn verdict, and the checks that are not
    good.
    """
    off = {f"{c.name}, {c.facet}": c.verdict for c in checks if c.verdict != "good"}
    if off:
        cell.setdefault("alarms", {})[str(seed)] = off
    cell["any_bad"] = cell.get("any_bad", 0) + ("bad" in off.values())
    cell["any_warn"] = cell.get("any_warn", 0) + ("warn" in off.values())


def add_fault(cell: dict[str, Any], checks: list[Check], case: Case) -> None:
    """Add a table of a pair with a fault to a cell: whether a check that is meant for the fault found it, and all
    checks that are not good.
    """
    off = [check for check in checks if check.verdict != "good"]
    cell["found"] = cell.get("found", 0) + any(c.name in case.names and c.facet in case.facets for c in off)
    others = cell.setdefault("not_good", {})
    for check in off:
        key = f"{check.name}, {'whole' if check.facet is None else f'facet {check.facet}'}"
        others[key] = others.get(key, 0) + 1


@cache
def exact_pair(name: str) -> tuple[MFCVAE, list[Any]]:
    """A pair of the table "exact", and its groups."""
    if name.startswith("trained"):
        pair = exact_trained_pair()
    else:
        num_clusters, latent_dim, missing = (part.partition(" = ")[2] for part in name.split(", ")[1:])
        pair = make_pair(int(num_clusters), int(latent_dim), missing=missing == "yes")
    return pair, groups_of(pair)


def ask_exact(name: str, cell: dict[str, Any], seed: int) -> None:
    pair, groups = exact_pair(name)
    num = int(name.partition("N = ")[2].partition(",")[0])
    add_exact(cell, run_checks(pair, pair, num, seed, groups), seed)


def ask_fault(name: str, cell: dict[str, Any], seed: int) -> None:
    fault, _, sizes = name.partition("; ")
    num_clusters, latent_dim = (int(part.partition(" = ")[2]) for part in sizes.split(", "))
    case = FAULTS[fault]
    pair = case.pair(num_clusters, latent_dim)
    source = pair if fault == "facet 1 collapsed" else case.source(num_clusters, latent_dim)
    add_fault(cell, run_checks(pair, source, NUM_ITEMS, seed, groups_of(pair), offset=case.offset), case)


ASK = {"exact": ask_exact, "faults": ask_fault}
CELLS = {
    "exact": [f"N = {n}, K = {k}, D = {d}, missing = {m}" for n, k, d, m in SIZES]
    + [f"trained, N = {n}" for n in (200, 2000)],
    "faults": [f"{name}; K = {k}, D = {d}" for k, d in ((25, 10), (25, 2), (3, 2)) for name in FAULTS],
}


def main(
    table: Annotated[Literal["exact", "faults", "table"], tyro.conf.Positional],
    /,
    first: int = 0,
    seeds: int = 40,
    only: tuple[str, ...] = (),
) -> None:
    """Measure, or print what was measured.

    Args:
        table: The measurement to run (exact or faults), or table to print both tables as Markdown.
        first: The first seed. If no earlier commit used these seeds, the sums are over different data sets.
        seeds: Number of seeds per cell; seeds in the record of this commit are not run again.
        only: Run only cells whose name contains one of these texts, such as "K = 25, D = 2"; all cells by default.
    """
    torch.set_num_threads(1)
    path = RESULTS / "criticism.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if table == "table":
        print("\n".join([*markdown_exact(results["exact"]), "", *markdown_faults(results["faults"])]))
        return
    sizes = {"draws": NUM_DRAWS, "simulated": NUM_SIMULATED, "reference": NUM_REFERENCE}
    new = {**provenance(), **sizes, "first_seed": first, "cells": {}}
    record = results.setdefault(table, {}).setdefault(commit(), new)
    for number, name in product(range(seeds), CELLS[table]):
        cell = record["cells"].setdefault(name, {"tables": 0, "seconds": 0.0})
        if cell["tables"] > number or (only and not any(text in name for text in only)):
            continue
        start = time.process_time()
        ASK[table](name, cell, record["first_seed"] + number)
        cell["tables"] += 1
        cell["seconds"] = round(cell["seconds"] + time.process_time() - start, 2)
        # The file is read again, because another process may have written the other table meanwhile.
        there = json.loads(path.read_text()) if path.is_file() else {}
        write_text(path, json.dumps(there | {table: results[table]}, indent=1) + "\n")
        print(record["first_seed"] + number, name, cell, flush=True)


def markdown_exact(records: dict[str, Any]) -> list[str]:
    """The table of false alarms: a row per cell, and the sums. Tables with other groups than today are counted
    separately.
    """
    titles = ["cell", "tables", "*bad*", "*warn*", "with earlier groups", "*bad*", "*warn*", "rows that were not good"]
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    sums = [0] * 6
    for name in dict.fromkeys(name for record in records.values() for name in record["cells"]):
        kinds: tuple[list[Any], list[Any]] = ([], [])
        for which, record in records.items():
            cell = record["cells"].get(name, {"tables": 0})
            if cell["tables"]:
                kinds[any(text in name for text in OTHER_GROUPS.get(which, ()))].append(cell)
        counts = [sum(cell[key] for cell in cells) for cells in kinds for key in ("tables", "any_bad", "any_warn")]
        sums = [total + count for total, count in zip(sums, counts, strict=True)]
        found = [alarms for cells in kinds for cell in cells for alarms in cell.get("alarms", {}).values()]
        alarms = "; ".join(
            sorted({key.replace(", None", "").replace(", ", ", facet ") for keys in found for key in keys})
        )
        row = f"| {name} | {' | '.join(map(str, counts))} | {alarms or '-'} |"
        rows.append(row.replace("|x)", "\\|x)"))
    shares = [f"{n} ({100 * n / max(sums[i - i % 3], 1):.1f} %)" if i % 3 else str(n) for i, n in enumerate(sums)]
    return [*rows, f"| all | {' | '.join(shares)} | |"]


def markdown_faults(records: dict[str, Any]) -> list[str]:
    """The table of faults from the newest record: a row per fault, a column per size."""
    cells = list(records.values())[-1]["cells"]
    sizes = sorted({name.partition("; ")[2] for name in cells}, key=len)
    rows = [f"| fault | {' | '.join(sizes)} | checks that are most often not good |", "|---" * (len(sizes) + 2) + "|"]
    for fault in FAULTS:
        found = [cells.get(f"{fault}; {size}", {"tables": 0}) for size in sizes]
        counts = [f"{cell['found']} of {cell['tables']}" if cell["tables"] else "-" for cell in found]
        total: Counter[str] = sum((Counter(cell.get("not_good", {})) for cell in found), Counter())
        most = "; ".join(name for name, _ in total.most_common(3))
        rows.append("| " + " | ".join(text.replace("|x", "\\|x") for text in (fault, *counts, most)) + " |")
    return rows


if __name__ == "__main__":
    tyro.cli(main)
