"""Print the tables of docs/auto.md, in Markdown, from results/auto-*.json and results/baselines-*.json.

    python benchmarks/tables.py

There are five tables: the results of auto on every data set; accuracy, NMI and ARI of auto and other methods; the mean
ARI over the labels of a data set, with the number of seeds if it is not three; the same for data with one label; and
NMI and Rand index of the four labels of the faces, each in the facet with the highest NMI.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tyro
from baselines import DEEP, RESULTS, SHALLOW

Rows = list[dict[str, Any]]

# Data set → its name in the tables, and the number of values of each label.
DATA: dict[str, tuple[str, dict[str, int]]] = {
    "stickfigures": ("`stickfigures`", {"upper": 3, "lower": 3}),
    "pairs": ("pairs of digits", {"left": 4, "right": 4}),
    "shapes": ("`shapes`", {"shape": 4, "hue": 6}),
    "nrletters": ("`nrletters`", {"letter": 6, "colour": 3, "corner": 4}),
    "triples": ("triples of digits", {"left": 4, "middle": 3, "right": 3}),
    "flowers": ("drawn flowers", {"species": 3, "colour": 4}),
    "vectors": ("vectors of 400 features", {"first": 5, "second": 3}),
    "angles": ("outlines at any angle", {"object": 5, "light": 3}),
    "rooms-wall": ("rendered rooms, walls", {"shape": 4, "wall_hue": 10}),
    "rooms-floor": ("rendered rooms, floors", {"shape": 4, "floor_hue": 10}),
    "cmu_faces": ("CMU faces", {"identity": 20, "pose": 4}),
    "photos": ("drawn photos", {"object": 4, "colour": 4, "background": 3}),
    "mnist": ("MNIST", {"digit": 10}),
    "fashion_mnist": ("Fashion-MNIST", {"class": 10}),
    "digits": ("digits of 8 × 8 pixels", {"digit": 10}),
    "wine": ("wine", {"cultivar": 3}),
    "iris": ("iris", {"species": 3}),
    "breast_cancer": ("breast cancer", {"diagnosis": 2}),
}
METHODS = {
    "kmeans": "k-means",
    "gmm": "Gaussian mixture",
    "nrkmeans": "Nr-Kmeans",
    "enrc": "ENRC",
    "vade": "VaDE",
}
_SEEDS = 3  # number of seeds of the other methods
FACES = ("identity", "pose", "emotion", "glasses")


def read(kind: str, data: str) -> Rows:
    """The rows of a record; an empty list if there is no such file.

    If the matching gives a label no facet for some seed, the label has the scores of its best facet for this seed.
    """
    path = RESULTS / f"{kind}-{data}.json"
    rows: Rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    matched = {label for row in rows for label in row["labels"]}
    for row in rows:
        best = row.get("best", {})
        row["labels"] |= {label: best[label] for label in matched & best.keys() if label not in row["labels"]}
    return rows


def mean(rows: Rows, label: str, metric: str, *, key: str = "labels") -> float:
    """Mean of a score over the seeds; NaN if there are none."""
    values = [row[key][label][metric] for row in rows if label in row.get(key, {})]
    return float(np.mean(values)) if values else float("nan")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Two decimals, or a dash."""
    return "–" if np.isnan(value) else f"{value:z.2f}"


def results(machine: str) -> str:
    """The results of auto, with the seconds of the rows that were measured on a certain machine."""
    lines = []
    for data, (name, labels) in DATA.items():
        rows = read("auto", data)
        for n, (label, size) in enumerate(labels.items()):
            own = [row for row in rows if label in row["labels"]]
            if not own:
                continue
            seconds = sorted(round(row["seconds"]) for row in own if row["machine"].startswith(machine) and not n)
            scores = [row["labels"][label] for row in own]
            found = [groups_of(row, label) for row in own]
            arise = [score["ari"] for score in scores]
            lines.append(
                (
                    "" if n else name,
                    f"{label.replace('_', ' ')} ({size})",
                    ", ".join(map(str, found)),
                    f"{number(float(np.mean(arise)))} ({number(min(arise))})",
                    number(mean(own, label, "nmi")),
                    number(max(score.get("leak", 0.0) for score in scores)),
                    "–".join(map(str, dict.fromkeys((seconds[0], seconds[-1])))) if seconds else "" if n else "–",
                )
            )
    head = ("data", "label (true groups)", "groups found, by seed", "ARI, mean (lowest)", "NMI, mean", "leak, largest")
    return table((*head, "seconds"), lines)


def groups_of(row: dict[str, Any], label: str) -> int:
    """The number of groups in the facet of a label.

    The record has the numbers of the facets, but not the label's facet. So the facet is the one whose number is nearest
    to the label's record of the criterion, which comes from other draws.
    """
    again = next(c["groups"] for c in row["criteria"] if c["label"] == label and "ours" in c["criterion"])
    return min(row["groups"], key=lambda num: abs(num - again))


def compared(*, one_label: bool = False) -> list[str]:
    """The data sets with several labels, or with one, on which other methods were run."""
    chosen = [data for data, (_, labels) in DATA.items() if (len(labels) == 1) == one_label]
    return [data for data in chosen if read("baselines", data) and read("auto", data)]


def of_method(data: str, method: str) -> Rows:
    """The rows of a method; those of auto for "auto"."""
    if method == "auto":
        return read("auto", data)
    return [row for row in read("baselines", data) if row["method"] == method]


def beside_others() -> str:
    """Accuracy, NMI and ARI of every label and method."""
    lines = []
    for data in compared():
        name, labels = DATA[data]
        for n, label in enumerate(labels):
            cells = []
            for method in ("auto", *METHODS):
                rows = of_method(data, method)
                scores = [mean(rows, label, metric) for metric in ("accuracy", "nmi", "ari")]
                cells.append("–" if np.isnan(scores).all() else " / ".join(map(number, scores)))
            lines.append(("" if n else name, label, *cells))
    return table(("data", "label", "`auto`, numbers not given", *METHODS.values()), lines)


def means(*, one_label: bool = False) -> str:
    """The mean ARI over the labels of a data set, and over the data sets, with the number of seeds if it is not
    three.
    """
    lines, values = [], []
    for data in compared(one_label=one_label):
        rows = [of_method(data, method) for method in ("auto", *METHODS)]
        values.append([float(np.mean([mean(own, label, "ari") for label in DATA[data][1]])) for own in rows])
        seeds = ["" if len(own) in (0, _SEEDS) or own is rows[0] else f" ({len(own)})" for own in rows]
        lines.append((DATA[data][0], *(number(v) + s for v, s in zip(values[-1], seeds, strict=True))))
    whole = ("mean", *map(number, np.mean(values, 0)))
    head = "data with one label" if one_label else "data"
    return table((head, "`auto`, numbers not given", *METHODS.values()), [*lines, whole])


def faces() -> str:
    """NMI and Rand index of the four labels."""
    lines = []
    for method, name in {"auto": "`auto`, numbers not given", **METHODS}.items():
        key = "best" if method == "auto" else "labels"
        rows = [row for row in of_method("cmu_faces", method) if key in row]
        if not rows:
            continue
        cells = [f"{number(mean(rows, x, 'nmi', key=key))} / {number(mean(rows, x, 'ri', key=key))}" for x in FACES]
        lines.append((name, str(len(rows)), *cells))
    return table(("method", "seeds", *FACES), lines)


def main(machine: str = "16") -> None:
    """Print the tables, with times only for machines whose description starts with ``machine``, such as 16 (cores)."""
    assert METHODS.keys() == SHALLOW.keys() | DEEP.keys()
    of_one_label = partial(means, one_label=True)
    tables: list[Callable[[], str]] = [lambda: results(machine), beside_others, means, of_one_label, faces]
    for show in tables:
        print(show() + "\n")


if __name__ == "__main__":
    tyro.cli(main)
