"""Scores and groups on the command line: ``mfcvae evaluate`` and ``mfcvae groups``."""

from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import UseAppendAction

from pyro_mfcvae.cli.options import Data, Flag, Json, Parts, Root, Run, Several, is_number, option, parse_choices
from pyro_mfcvae.cli.terminal import console, print_groups, print_json, print_scores, say
from pyro_mfcvae.config.custom_parts import import_parts
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from pyro_mfcvae.runs.grouping import Grouping


def evaluate(run: Run, /, data: Data = None, parts: Parts = (), root: Root = None, json: Json = False) -> None:
    """Score a run: accuracy, NMI and ARI of every facet with every label, and clusters in use.

    Accuracy is by majority label: the label of a cluster is the most frequent label of its members. It grows with the
    number of clusters; NMI and ARI do not.

    Args:
        data: Another data set's name, .npz, .npy, .h5, .csv or .parquet file, or folder of images; by default the
            run's test items.
    """
    import_parts(parts)

    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.runs.evaluation import evaluate as evaluate_split
    from pyro_mfcvae.runs.folder import RunFolder

    console.quiet = json
    folder = RunFolder.open(run)
    pair, config = folder.load_pair(), folder.read_config()
    dataset = load_dataset(
        data or config.data.source, root=root, seed=config.seed, size=config.data.size, fit=config.data.fit
    )
    dataset.check_event_shape(pair.model.event_shape)
    if data is None and folder.summary_path.is_file():
        before, now = folder.read_summary().get("data_fingerprint"), dataset.fingerprint()
        if before != now:
            say(f"These data differ from those that the run was trained on (fingerprint {before}, now {now}).")
    result = evaluate_split(pair, dataset.test, grouping=folder.read_grouping(pair))
    say(f"{len(dataset.test)} items of {dataset.name}; ELBO {result.elbo:.2f} nats per item")
    print_scores(result)
    if json:
        scores = {"elbo": result.elbo, "facets": result.facet_records(), **result.redundancy_record()}
        print_json({"run": str(run), "data": dataset.name, "items": len(dataset.test), **scores})


def groups(
    run: Run,
    /,
    num_groups: Annotated[Several, UseAppendAction, option("FACET=NUMBER ...")] = (),
    name: Annotated[Several, UseAppendAction, option("FACET.GROUP=NAME ...")] = (),
    reset: Flag = False,
    parts: Parts = (),
    json: Json = False,
) -> None:
    """List the groups of every facet with their clusters; change their number, and name them.

    Groups are made by merging the clusters that overlap most, one pair at a time. The table has the overlap of each
    group with the group that it merges with next. Changes are saved in the run's folder, and all other commands use
    them.

    Args:
        num_groups: Numbers of groups, such as 0=5 for five groups in facet 0; other facets are not changed.
        name: Names of groups, such as 0.2=cats for group 2 of facet 0; an empty name removes one.
        reset: First restore the groups that the model suggests.
    """
    import_parts(parts)

    from pyro_mfcvae.runs.folder import RunFolder

    console.quiet = json
    folder = RunFolder.open(run)
    grouping = before = folder.read_grouping()
    if reset:
        for j in range(len(grouping.facets)):
            grouping = grouping.reset(j)
    for j, number in parse_choices(num_groups, "number of groups").items():
        grouping = grouping.cut(j, number)
    for j, group, text in _parse_names(name):
        grouping = grouping.rename(j, group, text)
    if grouping is not before:
        folder.write_grouping(grouping)
    records = _describe_groups(grouping)
    print_groups(records)
    if json:
        print_json({"run": str(run), "facets": records})


def _parse_names(texts: Several) -> list[tuple[int, int, str]]:
    named = []
    for text in chain.from_iterable(texts):
        place, equals, name = text.partition("=")
        facet, _, group = place.partition(".")
        if not (equals and is_number(facet) and is_number(group)):
            raise InputError(
                f"expected a name such as 0.2=cats (facet 0, group 2), got {text[:50]!r}: write FACET.GROUP=NAME"
            )
        named.append((int(facet), int(group), name))
    return named


def _describe_groups(grouping: "Grouping") -> list[list[dict[str, Any]]]:
    """A record per group of every facet: its name, its share of the items, its clusters, and its next merge."""
    facets = []
    for j, own in enumerate(grouping.facets):
        shares = own.tree.shares / own.tree.shares.sum()
        overlaps = own.next_overlaps()
        facets.append(
            [
                {
                    "group": g,
                    "name": own.names[g],
                    "share": float(shares[own.members(g)].sum()),
                    "clusters": own.members(g),
                    "next_overlap": overlaps[g],
                }
                for g in range(grouping.num_groups[j])
            ]
        )
    return facets
