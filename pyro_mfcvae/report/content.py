"""Read the contents of the report from a run's folder: numbers, groups and images."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray

from pyro_mfcvae.atomic_io import read_text
from pyro_mfcvae.explore.dendrogram import Dendrogram, draw_tree
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.report.strips import Strip, draw_strip, draw_table
from pyro_mfcvae.runs.assignments import read_assignments
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.safety.json_files import parse_object

if TYPE_CHECKING:
    import pandas

_NUM_IMAGES = 8
_NUM_OF_CLUSTER = 6
_MOST_GROUPS = 40
_MOST_CLUSTERS = 20
_COMPOSED_ROWS, _COMPOSED_COLUMNS = 5, 8
_SURE = 0.9


@dataclass(frozen=True)
class ClusterPart:
    """A cluster of a group: its number, its number of items, and its most certain items."""

    number: int
    num_items: int
    surest: Strip | None


@dataclass(frozen=True)
class GroupPart:
    """A group: its most and least certain items, images drawn from the model, and its clusters."""

    name: str
    num_items: int
    share: float
    surest: Strip | None
    least_sure: Strip | None
    drawn: Strip | None
    clusters: tuple[ClusterPart, ...]


@dataclass(frozen=True)
class FacetPart:
    """A facet: sentences, groups, tree of merges, group of every cluster, scores, and composed images."""

    number: int
    place: str
    sentences: tuple[str, ...]
    groups: tuple[GroupPart, ...]
    num_left_out: int
    tree: Dendrogram
    group_of_cluster: tuple[int, ...]
    scores: tuple[tuple[str, ...], ...]
    composed: Strip | None

    @property
    def num_groups(self) -> int:
        """The number of all groups of the facet, including those that are left out."""
        return len(self.groups) + self.num_left_out


class RunContent:
    """Reader of the parts of the report, from a run's folder.

    Args:
        run: a finished run with its ``assignments.parquet``.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.pair: MFCVAE = run.load_pair().eval()
        self.grouping: Grouping = run.read_grouping(self.pair)
        self.summary = run.read_summary()
        self.items: pandas.DataFrame = read_assignments(
            run.assignments_path, model=run.model_fingerprint(), grouping=self.grouping
        )
        self._images = _read_images(run.assignments_path)

    def checks(self) -> dict[str, Any]:
        """The results of ``mfcvae check``; empty if it has not run."""
        path = self.run.path / "checks" / "checks.json"
        return parse_object(read_text(path), path) if path.is_file() else {}

    def sweep(self) -> dict[str, Any]:
        """The results of the sweep that contains the run; empty if the run is not part of a sweep."""
        path = self.run.path.resolve().parent / "sweep.json"
        return parse_object(read_text(path), path) if path.is_file() else {}

    @torch.no_grad()
    def facet(self, j: int, sentences: Sequence[str]) -> FacetPart:
        """The part of one facet."""
        num_facets = self.pair.num_facets
        place = {num_facets - 1: "the deepest", 0: "the shallowest"}.get(j, "between the others")
        counts = self.items[f"facet_{j}_group"].value_counts()
        groups = tuple(self._group(j, int(g)) for g in counts.index[:_MOST_GROUPS])
        record = self.summary["facets"][j]
        scores = record.get("groups", {})
        sure = float((self.items[f"facet_{j}_probability"] > _SURE).mean())
        size = self.pair.model.facets[j]
        use = f"{record['clusters_in_use']} of {size.num_clusters} clusters in {size.latent_dim} dimensions"
        own = (
            f"It sorts {len(self.items):,} items into {_count(len(counts), 'group')}, by {use}; {sure:.0%} of the "
            f"items are in their group with a probability above {_SURE}."
        )
        return FacetPart(
            number=j,
            place=place if num_facets > 1 else "the only one",
            sentences=(own, *sentences),
            groups=groups,
            num_left_out=max(len(counts) - _MOST_GROUPS, 0),
            tree=draw_tree(self.grouping.facets[j].tree),
            group_of_cluster=tuple(self.grouping.labels(j).tolist()),
            scores=tuple(
                (label, *(f"{scores[name][label]:z.{n}f}" for name, n in (("accuracy", 3), ("nmi", 2), ("ari", 2))))
                for label in scores.get("accuracy", {})
            ),
            composed=self._compose(j) if self._images is not None and num_facets > 1 else None,
        )

    def _group(self, j: int, g: int) -> GroupPart:
        members = self.items[self.items[f"facet_{j}_group"] == g].sort_values(
            f"facet_{j}_probability", ascending=False, kind="stable"
        )
        name = self.grouping.names(j)[g]
        clusters = members[f"facet_{j}_cluster"].value_counts()
        return GroupPart(
            name=name[:1].upper() + name[1:],
            num_items=len(members),
            share=len(members) / len(self.items),
            surest=self._strip(members.index[:_NUM_IMAGES], f"surest items of {name}"),
            least_sure=self._strip(members.index[_NUM_IMAGES:][-_NUM_IMAGES:][::-1], f"least sure items of {name}"),
            drawn=self._draw(j, clusters.to_dict(), name),
            clusters=tuple(
                ClusterPart(
                    number=int(k),
                    num_items=int(num),
                    surest=self._strip(
                        members[members[f"facet_{j}_cluster"] == k]
                        .sort_values(f"facet_{j}_cluster_probability", ascending=False, kind="stable")
                        .index[:_NUM_OF_CLUSTER],
                        f"surest items of cluster {k}",
                    ),
                )
                for k, num in clusters.head(_MOST_CLUSTERS).items()
            ),
        )

    def _strip(self, rows: Sequence[int], what: str) -> Strip | None:
        if self._images is None or not len(rows):
            return None
        names = [str(name) for name in self.items.loc[rows, "file"] if name]
        listed = f": {', '.join(names)}" if names else ""
        return draw_strip([self._image(row) for row in rows], alt=f"The {len(rows)} {what}{listed}")

    def _draw(self, j: int, clusters: dict[int, int], name: str) -> Strip | None:
        """Draw images from the clusters of a group, in proportion to their items."""
        if self._images is None:
            return None
        weights = torch.tensor(list(clusters.values()), dtype=torch.float64)
        chosen = torch.multinomial(weights, _NUM_IMAGES, replacement=True)
        parts = [
            self.pair.sample(int(num), clusters={j: int(k)})
            for k, num in zip(clusters, chosen.bincount(minlength=len(clusters)), strict=True)
            if num
        ]
        return draw_strip(_to_rgb(torch.cat(parts)), alt=f"{_NUM_IMAGES} images that the model draws of {name}")

    def _compose(self, j: int) -> Strip:
        """Items (rows) with facet j taken from the most certain items (columns) of its largest groups, or of its
        clusters if there is one group.
        """
        kind = "group" if self.items[f"facet_{j}_group"].nunique() > 1 else "cluster"
        certainty = f"facet_{j}_probability" if kind == "group" else f"facet_{j}_cluster_probability"
        of_part = self.items.groupby(f"facet_{j}_{kind}")[certainty]
        largest = of_part.count().sort_values(ascending=False).index[:_COMPOSED_COLUMNS]
        columns = [int(of_part.idxmax()[part]) for part in largest]
        rows = np.random.default_rng(0).choice(len(self.items), min(_COMPOSED_ROWS, len(self.items)), replace=False)
        table: list[list[NDArray[np.float64] | None]] = [[None, *(self._image(column) for column in columns)]]
        for row in rows:
            zs = []
            for facet in range(self.pair.num_facets):
                taken = columns if facet == j else [int(row)] * len(columns)
                z = np.stack(self.items[f"facet_{facet}_z"].iloc[taken].to_list())
                zs.append(torch.as_tensor(z, dtype=torch.get_default_dtype()))
            table.append([self._image(int(row)), *_to_rgb(self.pair.render(zs))])
        return draw_table(
            table,
            alt=f"A table of images: each is the item at the left with facet {j} of the item on top",
        )

    def _image(self, row: int) -> NDArray[np.float64]:
        from PIL import Image

        picture = Image.open(BytesIO(self._images[row]["bytes"].as_py())).convert("RGB")
        return np.asarray(picture, dtype=np.float64) / 255


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _read_images(path: Path) -> Any:
    import pyarrow.parquet as pq

    if "image" not in pq.read_schema(path).names:
        return None
    return pq.read_table(path, columns=["image"])["image"]


def _to_rgb(images: torch.Tensor) -> list[NDArray[np.float64]]:
    pixels = images[:, :3].double().numpy().transpose(0, 2, 3, 1)
    return list(np.repeat(pixels, 3 // pixels.shape[-1], axis=-1))


def gather(run: RunFolder, *, seed: int = 0) -> tuple[RunContent, list[FacetPart]]:
    """The content of a run, and the parts of all facets, deepest first. Pyro's and torch's random states are not
    changed.
    """
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        content = RunContent(run)
        sentences = [str(sentence) for sentence in content.checks().get("sentences", ())]
        torch.manual_seed(seed)
        facets = [content.facet(j, sentences[j : j + 1]) for j in reversed(range(content.pair.num_facets))]
    return content, facets
