"""The groups of a run with the user's changes: the group of every cluster, and the names of the groups."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_mfcvae.atomic_io import read_text, write_json
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.groups import Merge, MergeTree


@dataclass(frozen=True, eq=False)
class FacetGroups:
    """The groups of one facet.

    Attributes:
        tree: the merges of the facet's clusters.
        labels: the group of every cluster, (K,), a number from 0 to G-1; every group has at least one cluster.
        names: names of the groups, (G,); an empty text if a group has no name.
    """

    tree: MergeTree
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        expected = self.tree.num_clusters
        if self.labels.shape != (expected,) or not np.array_equal(np.unique(self.labels), np.arange(self.num_groups)):
            raise InputError(
                f"expected one group for each of {expected} clusters, numbered from 0 without a gap, got "
                f"{self.labels.tolist()}: number the groups from 0 without a gap"
            )
        if len(self.names) != self.num_groups:
            raise InputError(
                f"expected a name, which may be empty, for each of {self.num_groups} groups, got {len(self.names)}: "
                "give one per group"
            )

    @property
    def num_groups(self) -> int:
        """G."""
        return int(self.labels.max(initial=-1)) + 1

    @property
    def is_cut(self) -> bool:
        """Whether the groups are a cut through the tree. If not, the user has merged or split groups."""
        if self.num_groups > len(self.tree.merges) + 1:
            return False
        return {*_members(self.labels)} == {*_members(self.tree.labels(self.num_groups))}

    def name(self, group: int) -> str:
        """The name of a group, or its number if it has no name."""
        return self.names[group] or f"group {group}"

    def members(self, group: int) -> list[int]:
        """The clusters of a group, in order."""
        return np.flatnonzero(self.labels == group).tolist()

    def next_overlaps(self) -> list[float | None]:
        """The overlap of each group's next merge, (G,).

        It is None if the facet has one group, or if its groups are not a cut through the tree.
        """
        found: list[float | None] = [None] * self.num_groups
        if self.is_cut:
            in_use = self.tree.clusters_in_use
            for merge in self.tree.merges[len(in_use) - self.num_groups :]:
                for cluster in (merge.first, merge.second):
                    g = int(self.labels[cluster])
                    found[g] = merge.overlap if found[g] is None else found[g]
        return found


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of every facet. Each change gives a new `Grouping`.

    Groups that do not change keep their names. If a group is divided, its largest part keeps the name.
    """

    facets: tuple[FacetGroups, ...]

    @classmethod
    def from_trees(cls, trees: Iterable[MergeTree]) -> "Grouping":
        """The groups that the trees suggest, without names."""
        return cls(tuple(FacetGroups(tree, tree.labels(), ("",) * tree.num_groups) for tree in trees))

    def __repr__(self) -> str:
        """A line per facet with the numbers of groups and clusters, and the names."""
        lines = (
            f"  facet {j}: {groups.num_groups} of {groups.tree.num_clusters} clusters"
            + (f" ({', '.join(self.names(j))})" if any(groups.names) else "")
            for j, groups in enumerate(self.facets)
        )
        return "\n".join(["Grouping: groups", *lines])

    @property
    def num_groups(self) -> tuple[int, ...]:
        """G of every facet."""
        return tuple(groups.num_groups for groups in self.facets)

    def labels(self, facet: int) -> NDArray[np.int64]:
        """The group of every cluster of a facet, (K,)."""
        return self._facet(facet).labels

    def names(self, facet: int) -> tuple[str, ...]:
        """The names of a facet's groups, (G,); a group without a name has its number."""
        groups = self._facet(facet)
        return tuple(map(groups.name, range(groups.num_groups)))

    def members(self, facet: int, group: int) -> list[int]:
        """The clusters of a group, in order."""
        own = self._facet(facet)
        return own.members(self._check_group(own, group))

    def of_clusters(self, assignments: ArrayLike) -> NDArray[np.int64]:
        """Map the cluster of each item in each facet to its group: (N, J) → (N, J)."""
        columns = np.asarray(assignments).T
        return np.stack([groups.labels[column] for groups, column in zip(self.facets, columns, strict=True)], 1)

    def probs(self, facet: int, probs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sums of q(c | x) over the clusters of each group: (N, K) → (N, G)."""
        groups = self._facet(facet)
        membership = groups.labels[:, None] == np.arange(groups.num_groups)
        return np.asarray(probs, dtype=np.float64) @ membership

    def cut(self, facet: int, num_groups: int) -> "Grouping":
        """Cut the tree of a facet at a number of groups, from 1 to the number of clusters in use."""
        return self._regroup(facet, self._facet(facet).tree.labels(num_groups))

    def reset(self, facet: int) -> "Grouping":
        """Restore the groups that the tree suggests."""
        return self.cut(facet, self._facet(facet).tree.num_groups)

    def merge(self, facet: int, groups: Sequence[int]) -> "Grouping":
        """Merge several groups into one, which gets their smallest number and their first name."""
        own = self._facet(facet)
        chosen = sorted({self._check_group(own, group) for group in groups})
        if len(chosen) < 2:
            raise InputError(f"expected two groups or more to merge, got {len(chosen)}: choose other groups")
        labels = np.where(np.isin(own.labels, chosen), chosen[0], own.labels)
        merged = self._regroup(facet, np.unique(labels, return_inverse=True)[1])
        name = next((own.names[group] for group in chosen if own.names[group]), "")
        return merged.rename(facet, chosen[0], name)

    def split(self, facet: int, clusters: Sequence[int]) -> "Grouping":
        """Move clusters from their groups to a new group with the last number; the rest of a group keeps its name."""
        own = self._facet(facet)
        chosen = sorted(set(clusters))
        if not chosen or not all(0 <= k < len(own.labels) for k in chosen):
            raise InputError(f"expected clusters from 0 to {len(own.labels) - 1}, got {chosen}: choose other clusters")
        labels = own.labels.copy()
        labels[chosen] = own.num_groups
        labels = np.unique(labels, return_inverse=True)[1]
        return self._regroup(facet, labels, nameless=labels[chosen[0]])

    def recall(self, facet: int, earlier: Sequence["Grouping"]) -> "Grouping":
        """Give groups without a name the latest name that the same clusters had in ``earlier`` groupings, the oldest of
        which comes first.
        """
        own = self._facet(facet)
        known = {
            members: name
            for grouping in earlier
            for members, name in zip(_members(grouping.labels(facet)), grouping.facets[facet].names, strict=True)
        }
        names = [name or known.get(members, "") for members, name in zip(_members(own.labels), own.names, strict=True)]
        return self._with(facet, replace(own, names=tuple(names)))

    def rename(self, facet: int, group: int, name: str) -> "Grouping":
        """Name a group; an empty name removes its name."""
        own = self._facet(facet)
        names = list(own.names)
        names[self._check_group(own, group)] = " ".join(name.split())
        return self._with(facet, replace(own, names=tuple(names)))

    def write(self, path: Path, *, model: str) -> None:
        """Replace ``groups.json``, in one step.

        Args:
            path: the file.
            model: fingerprint of the saved model that has these clusters.
        """
        content = {"model": model, "facets": [_record(groups) for groups in self.facets]}
        write_json(path, {**content, _CHECKSUM: _checksum(content)})

    @classmethod
    def read(cls, path: Path, *, model: str, num_clusters: Sequence[int]) -> "Grouping | None":
        """Read the file that `write` wrote; None if there is no file, or if it belongs to another model.

        Args:
            path: the file.
            model: fingerprint of the saved model.
            num_clusters: number of clusters of each facet of the model.
        """
        if not path.is_file():
            return None
        try:
            content = json.loads(read_text(path))
            if content.pop(_CHECKSUM) != _checksum(content):
                raise ValueError("another checksum, so it was damaged or changed")
            if content["model"] != model:
                return None
            grouping = cls(tuple(map(_from_record, content["facets"])))
            if (found := [len(facet.labels) for facet in grouping.facets]) != list(num_clusters):
                raise ValueError(f"facets of {found} clusters, where the run has {list(num_clusters)}")
            return grouping
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise InputError(
                f"expected the groups of a run in {path}, got something else ({error!r}): remove the file, and the "
                "groups are found again"
            ) from None

    def _facet(self, j: int) -> FacetGroups:
        if not 0 <= j < len(self.facets):
            raise InputError(f"expected a facet from 0 to {len(self.facets) - 1}, got {j}: choose one of these")
        return self.facets[j]

    def _check_group(self, own: FacetGroups, group: int) -> int:
        if not 0 <= group < own.num_groups:
            raise InputError(f"expected a group from 0 to {own.num_groups - 1}, got {group}: choose one of these")
        return group

    def _regroup(self, j: int, labels: NDArray[np.int64], *, nameless: int | None = None) -> "Grouping":
        """Replace the groups of a facet. The group ``nameless`` gets no name from the group that it was part of."""
        own = self._facet(j)
        before = dict(zip(_members(own.labels), own.names, strict=True))
        after = _members(labels)
        names = [before.get(members, "") for members in after]
        for old, name in before.items():
            parts = [g for g, members in enumerate(after) if g != nameless and set(members) < set(old)]
            if name and parts:
                names[max(parts, key=lambda g: float(own.tree.shares[labels == g].sum()))] = name
        return self._with(j, FacetGroups(own.tree, labels, tuple(names)))

    def _with(self, j: int, groups: FacetGroups) -> "Grouping":
        return Grouping((*self.facets[:j], groups, *self.facets[j + 1 :]))


_CHECKSUM = "sha256"


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _members(labels: NDArray[np.int64]) -> list[tuple[int, ...]]:
    return [tuple(np.flatnonzero(labels == g).tolist()) for g in range(labels.max() + 1)]


def _record(groups: FacetGroups) -> dict[str, Any]:
    tree = groups.tree
    return {
        "num_groups": groups.num_groups,
        "labels": groups.labels.tolist(),
        "names": list(groups.names),
        "tree": {
            "merges": [[merge.first, merge.second, merge.overlap] for merge in tree.merges],
            "shares": tree.shares.tolist(),
            "nearest": tree.nearest.tolist(),
            "num_groups": tree.num_groups,
        },
    }


def _from_record(record: dict[str, Any]) -> FacetGroups:
    tree = record["tree"]
    return FacetGroups(
        MergeTree(
            merges=tuple(Merge(int(a), int(b), float(overlap)) for a, b, overlap in tree["merges"]),
            shares=np.array(tree["shares"], dtype=np.float64),
            nearest=np.array(tree["nearest"], dtype=np.int64),
            num_groups=int(tree["num_groups"]),
        ),
        np.array(record["labels"], dtype=np.int64),
        tuple(str(name).encode().decode() for name in record["names"]),  # a lone surrogate cannot be encoded
    )
