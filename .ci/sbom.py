"""A bill of materials of this environment, as CycloneDX 1.5 in JSON on standard output: ``make sbom``."""

import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Any

PROJECT = "pyro-mfcvae"
STATIC = Path(__file__).parents[1] / "pyro_mfcvae/explore/static"
# What the explorer brings along: file, and where its version stands in it. Both licences are beside the files.
BROUGHT = {"htmx": ("htmx.min.js", r'version:"([\d.]+)"', "0BSD"), "pico": ("pico.min.css", r"v([\d.]+)", "MIT")}


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _describe(package: Distribution) -> dict[str, Any]:
    name, metadata = _normalize(package.metadata["Name"]), package.metadata
    component = {"type": "library", "bom-ref": name, "name": name, "version": package.version}
    component["purl"] = f"pkg:pypi/{name}@{package.version}"
    if expression := metadata.get("License-Expression"):
        return component | {"licenses": [{"expression": expression}]}
    text = metadata.get("License", "")  # some give the licence's whole text
    return component | ({"licenses": [{"license": {"name": text}}]} if text and "\n" not in text else {})


def _describe_brought(name: str) -> dict[str, Any]:
    file, pattern, licence = BROUGHT[name]
    [version] = re.findall(pattern, (STATIC / file).read_text())[:1]
    component = {"type": "library", "bom-ref": f"static/{name}", "name": name, "version": version}
    return component | {"licenses": [{"license": {"id": licence}}]}


def main() -> None:
    """Print it; SOURCE_DATE_EPOCH sets its time."""
    packages = {_normalize(package.metadata["Name"]): package for package in distributions()}
    needs = {
        name: {_normalize(match[0]) for text in package.requires or [] if (match := re.match(r"[\w.-]+", text))}
        for name, package in packages.items()
    }
    graph = {name: sorted(needs[name] & packages.keys()) for name in sorted(packages)}
    graph[PROJECT] += [f"static/{name}" for name in BROUGHT]
    time = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", datetime.now(UTC).timestamp())), UTC)
    metadata = {"timestamp": time.isoformat(), "component": _describe(distribution(PROJECT))}
    metadata["properties"] = [{"name": "python", "value": platform.python_version()}]
    components = [_describe(packages[name]) for name in sorted(packages) if name != PROJECT]
    components += [_describe_brought(name) for name in BROUGHT]
    dependencies = [{"ref": name, "dependsOn": others} for name, others in graph.items()]
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": metadata}
    print(json.dumps(bill | {"components": components, "dependencies": dependencies}, indent=2))


if __name__ == "__main__":
    main()
