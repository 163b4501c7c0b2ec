"""Make the HTML page from the content and a template."""

from collections import Counter
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from pyro_mfcvae.atomic_io import read_text, write_text
from pyro_mfcvae.metrics import redundancy
from pyro_mfcvae.report.charts import Chart, draw_chart
from pyro_mfcvae.report.content import RunContent, gather
from pyro_mfcvae.runs.fit import fit_epochs
from pyro_mfcvae.runs.folder import RunFolder

# The page says that two facets repeat each other if their adjusted mutual information is above this.
_OVERLAP = 0.1

_CITATION = """\
@inproceedings{falck2021multifacet,
  title     = {Multi-Facet Clustering Variational Autoencoders},
  author    = {Falck, Fabian and Zhang, Haoting and Willetts, Matthew and Nicholson, George and Yau, Christopher
               and Holmes, Chris},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {34},
  year      = {2021}
}

@software{pyro_mfcvae,
  title   = {pyro-mfcvae: Multi-Facet Clustering Variational Autoencoders in Pyro},
  author  = {{The pyro-mfcvae authors}},
  version = {VERSION}
}"""


def write_report(run: RunFolder, path: Path | None = None) -> Path:
    """Write the report of a finished run, and return its path.

    Args:
        run: the run's folder.
        path: the file; ``report.html`` in the folder if None.
    """
    path = path or run.path / "report.html"
    write_text(path, render(run))
    return path


def render(run: RunFolder) -> str:
    """The report as one HTML page, without scripts and without requests to the network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("pyro_mfcvae.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content, facets = gather(run)
    checks = content.checks()
    return environment.get_template("report.html").render(
        name=run.path.resolve().name,
        facts=_facts(content),
        facets=facets,
        whole=_whole_sentence(content, checks),
        checks=[check for check in checks.get("checks", ()) if check.get("verdict") != "good"],
        counts=Counter(
            "aside" if check.get("set_aside") else check.get("verdict") for check in checks.get("checks", ())
        ),
        overlaps=_overlaps(content),
        charts=_charts(content),
        sweep=content.sweep(),
        settings=read_text(run.config_path),
        citation=_CITATION.replace("VERSION", version("pyro-mfcvae")),
        run_path=str(run.path),
    )


def _facts(content: RunContent) -> list[tuple[str, str]]:
    """The model, the data and the training, as rows of a table."""
    summary, config, items = content.summary, content.run.read_config(), content.items
    splits = ", ".join(f"{num:,} {name}" for name, num in items["split"].value_counts(sort=False).items())
    labels = [name.removeprefix("label_") for name in items.columns if name.startswith("label_")]
    shape = " × ".join(map(str, content.pair.model.event_shape))
    data = summary["data"]
    facts = [
        ("Data", str(data["source"] if isinstance(data, dict) else data)),
        ("Items", f"{splits}; {shape} each"),
        ("Labels, for scores only", ", ".join(labels) or "none"),
        ("Model", config.description or "settings of its own"),
        ("Training", f"{summary['epochs']} epochs, {summary['seconds']:,.0f} s on {summary['device']}"),
        ("Seed", str(summary["seed"])),
        ("ELBO on scored items", f"{summary['elbo']:.2f} nats per item"),
    ]
    return facts + ([("Version", f"pyro-mfcvae {summary['version']}")] if "version" in summary else [])


def _whole_sentence(content: RunContent, checks: dict[str, Any]) -> str:
    sentences = checks.get("sentences", ())
    return str(sentences[-1]) if len(sentences) > content.pair.num_facets else ""


def _overlaps(content: RunContent) -> list[tuple[int, int, float, bool]]:
    """The information that the groups of each two facets share, from 0 (none) to 1 (all)."""
    num_facets = content.pair.num_facets
    scores = redundancy(content.items[[f"facet_{j}_group" for j in range(num_facets)]].to_numpy())
    return [(i, j, max(scores[i, j], 0.0), scores[i, j] > _OVERLAP) for i, j in combinations(range(num_facets), 2)]


def _charts(content: RunContent) -> list[Chart]:
    num_facets = content.pair.num_facets
    records = [record for record in content.run.read_metrics() if len(record["kl"]) == num_facets]
    if not records:
        return []
    epochs = [record["epoch"] for record in records]
    facets = range(num_facets)

    def per_facet(key: str) -> dict[str, list[float]]:
        joined = [[float(record["alpha"][j]) > 0 for record in records] for j in facets]
        return {
            f"facet {j}": [
                float(record[key][j]) if there else float("nan")
                for record, there in zip(records, joined[j], strict=True)
            ]
            for j in facets
        }

    fits = fit_epochs(content.run.read_config(), records)
    return [
        draw_chart("ELBO, nats per item", epochs, {"ELBO": [record["elbo"] for record in records]}, marks=fits),
        draw_chart("Information in each facet, nats per item", epochs, per_facet("kl"), marks=fits),
        draw_chart("Clusters in use", epochs, per_facet("active_clusters"), marks=fits),
    ]
