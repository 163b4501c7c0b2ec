"""Images on the command line: ``mfcvae sample``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction

from pyro_mfcvae.cli.options import COMMON, Common, Count, Run, Seed, Several, option, parse_choices
from pyro_mfcvae.cli.terminal import console, print_json, say
from pyro_mfcvae.config.custom_parts import import_parts
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_mfcvae.data.images import Split
    from pyro_mfcvae.mfcvae import MFCVAE
    from pyro_mfcvae.runs.grouping import Grouping

_MOST_COLUMNS = 1_000  # a figure of them is 70,000 pixels wide

_Table = tuple[str, str, "Tensor", list[str] | None]
"""File name, title, images and row labels."""


def sample(
    run: Run,
    /,
    groups: Annotated[Several, UseAppendAction, option("FACET=GROUP ...")] = (),
    clusters: Annotated[Several, UseAppendAction, option("FACET=CLUSTER ...")] = (),
    num: Count = 10,
    temperature: Annotated[float, option("T")] = 1.0,
    seed: Seed = 0,
    common: Common = COMMON,
) -> None:
    """Draw new images, and swap facets between images.

    Writes two tables for every facet to figures/ in the run's folder. One has images drawn from the facet's largest
    groups; the images of a column differ only in this facet. The other has the test image of the row with this facet
    taken from the test image of the column. If a facet has only one group, its clusters are used instead. With --groups
    or --clusters the command only draws images from these.

    Args:
        groups: Draw only from these groups, such as 0=3 1=0; other facets are drawn freely. The clusters of a group are
            drawn in proportion to their items.
        clusters: Draw only from these clusters, such as 0=3 1=5.
        num: Number of columns, and largest number of groups.
        temperature: Factor on the distance of the draws from the means of their clusters: 0 gives typical images, 1
            samples of the model.
    """
    if not 1 <= num <= _MOST_COLUMNS:
        raise InputError(f"expected --num from 1 to {_MOST_COLUMNS}, got {num}: draw fewer images at a time")
    chosen, of_groups = parse_choices(clusters, "cluster"), parse_choices(groups, "group")
    if both := sorted(chosen.keys() & of_groups.keys()):
        raise InputError(f"expected a group or a cluster of facet {both[0]}, got both: leave one of them out")
    import_parts(common.parts)

    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.plots import image_grid, save_figure
    from pyro_mfcvae.runs.compositions import draw_groups
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.train.devices import set_seed

    console.quiet = common.json
    folder = RunFolder.open(run)
    pair, config = folder.load_pair(), folder.read_config()
    set_seed(seed)
    if chosen or of_groups:
        drawn = draw_groups(
            pair, folder.read_grouping(pair), of_groups, num=num, clusters=chosen, temperature=temperature
        )
        tables: Iterable[_Table] = [(*_describe(of_groups, chosen), drawn[None], None)]
    else:
        split = load_dataset(
            config.data.source, root=common.root, seed=config.seed, size=config.data.size, fit=config.data.fit
        ).test
        tables = _draw_tables(pair, folder.read_grouping(pair), split, num, temperature)
    written = []
    for name, title, images, row_labels in tables:
        path = folder.figures_path / f"{name}.png"
        save_figure(image_grid(images[:, :, :3].numpy(), row_labels=row_labels, title=title), path)
        say(f"{title}: {path}")
        written.append({"figure": str(path), "title": title})
    if common.json:
        print_json(written)


def _describe(groups: Mapping[int, int], clusters: Mapping[int, int]) -> tuple[str, str]:
    """File name and title of images drawn from groups and clusters, by facet."""
    parts = sorted([(j, "group", g) for j, g in groups.items()] + [(j, "cluster", k) for j, k in clusters.items()])
    name = "-".join(f"{j}-{number}" if kind == "cluster" else f"{j}-{kind}-{number}" for j, kind, number in parts)
    return f"drawn-{name}", ", ".join(f"facet {j} in {kind} {number}" for j, kind, number in parts)


def _draw_tables(
    pair: "MFCVAE", grouping: "Grouping", split: "Split", num: int, temperature: float
) -> Iterator[_Table]:
    """Every facet's tables: of its groups, or of the clusters of its only group."""
    import torch

    from pyro_mfcvae.data.images import as_float
    from pyro_mfcvae.runs.compositions import compose, generate_rows, largest_parts, typical_items
    from pyro_mfcvae.runs.evaluation import evaluate

    found = evaluate(pair, split, grouping=grouping)
    rows = as_float(split.images[torch.randperm(len(split))[:num]])
    for j in range(pair.num_facets):
        by_group = grouping.num_groups[j] > 1
        kind, own = ("groups", found.groups[:, j]) if by_group else ("clusters", found.assignments[:, j])
        certainty = (found.group_confidence if by_group else found.confidence)[:, j]
        largest = largest_parts(own, num)
        labels = [grouping.names(j)[g] if by_group else f"cluster {g}" for g in largest]
        parts = [grouping.members(j, g) if by_group else [g] for g in largest]
        drawn = generate_rows(pair, grouping, parts, facet=j, num=num, temperature=temperature)
        yield f"generated-{j}", f"drawn from the largest {kind} of facet {j}", drawn, labels
        columns = as_float(split.images[typical_items(own, certainty, largest)])
        composed = compose(pair, rows, columns, facet=j)
        yield f"composed-{j}", f"the images at the left with facet {j} of those on top", composed, None
