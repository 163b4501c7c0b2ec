"""Measure how fast the explorer answers on a run of 60,000 items, and whether its memory grows.

python benchmarks/explorer.py --requests 10000         # drawn items, the untrained model of the preset `mnist`
python benchmarks/explorer.py --run runs/mnist         # a run that exists

The script writes results/explorer.json. The first view is measured until the server's answer and, if playwright and
Chromium are installed, until the browser shows the page and its pictures. Every page of tiles is requested once. Its
processor time is that of client and server together, and does not depend on other work on the machine. For pages that
take more than 300 ms, the record has the time for which their threads waited for a processor, and the time of a second
request.
"""

import argparse
import gc
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyro
from provenance import ROOT, provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.pages import PER_PAGE
from pyro_mfcvae.explore.server import address_of, build_server, listen, open_desk
from pyro_mfcvae.runs.checkpoints import save_pair
from pyro_mfcvae.runs.folder import RunFolder

NUM_ITEMS = 60_000
LIMIT = 0.3  # longest time for a page of tiles, in seconds
FIRST_VIEWS = (
    "/",
    "/facet/0",
    "/facet/0/group/0",
    "/facet/0/map",
    "/facet/0/map.png",
    "/item/7",
    "/samples",
    "/checks",
)
WALK = ("/facet/0/group/0?page={n}", "/facet/1", "/item/{n}", "/swap?a={n}&b=7&facet0=on", "/facet/0/latent?item={n}")


def write_run(folder: Path) -> RunFolder:
    """Write a run on 60,000 drawn items of 28 × 28 pixels."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 256, (20, 28, 28))
    pixels = centres[rng.integers(0, 20, NUM_ITEMS)] * 0.7 + rng.normal(0, 30, (NUM_ITEMS, 28, 28))
    np.savez(folder / "items.npz", images=pixels.clip(0, 255).astype(np.uint8))
    config = override(load_preset("mnist"), [f"data.source={folder / 'items.npz'}"])
    run = RunFolder(folder)
    run.write_config(config)
    pyro.set_rng_seed(0)
    save_pair(build_pair(config, (1, 28, 28)), run.model_path)
    return run


def seconds_of(client: httpx.Client, path: str) -> float:
    """Seconds from the request to the last byte of the answer."""
    start = time.perf_counter()
    client.get(path).raise_for_status()
    return time.perf_counter() - start


def tile_pages(client: httpx.Client, desk: Desk) -> dict[str, Any]:
    """Every page of members of every group of facet 0, in both orders, and the page of tiles of every facet."""
    paths = [f"/facet/{j}?sort={sort}" for j in range(desk.num_facets) for sort in ("size", "confidence")]
    for g, size in enumerate(desk.view(0).sizes):
        pages = range(1, max(1, -(-int(size) // PER_PAGE)) + 1)
        paths += [f"/facet/0/group/{g}?order={order}&page={n}" for order in ("most", "least") for n in pages]
    seconds, cpu, waited = np.zeros(len(paths)), np.zeros(len(paths)), np.zeros(len(paths))
    with timed_collections() as collections:
        for n, path in enumerate(paths):
            start, before = time.process_time(), seconds_in_queue()
            seconds[n] = seconds_of(client, path)
            cpu[n], waited[n] = time.process_time() - start, seconds_in_queue() - before
    slowest = int(seconds.argmax())
    late = [
        {"seconds": seconds[n], "cpu": cpu[n], "waited": waited[n], "again": seconds_of(client, paths[n])}
        for n in np.flatnonzero(seconds > LIMIT)
    ]
    return {
        "pages": len(paths),
        "median": round(float(np.median(seconds)), 4),
        "quantile_99": round(float(np.quantile(seconds, 0.99)), 4),
        "most": round(float(seconds[slowest]), 4),
        "slowest": paths[slowest],
        "cpu_median": round(float(np.median(cpu)), 4),
        "cpu_most": round(float(cpu.max()), 4),
        "share_above_300_ms": float((seconds > LIMIT).mean()),
        "above_300_ms": [{name: round(float(value), 4) for name, value in page.items()} for page in late],
        "longest_garbage_collection": round(max(collections, default=0.0), 4),
    }


def seconds_in_queue() -> float:
    """Seconds for which the threads of this process have waited for a processor; 0 if unknown."""
    total = 0.0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            total += int(file.read_text().split()[1]) / 1e9
    return total


@contextmanager
def timed_collections() -> Iterator[list[float]]:
    """Context that records the seconds of every garbage collection."""
    spans: list[float] = []
    start = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal start
        if phase == "start":
            start = time.perf_counter()
        else:
            spans.append(time.perf_counter() - start)

    gc.callbacks.append(note)
    yield spans
    gc.callbacks.remove(note)


def in_chromium(address: str) -> dict[str, list[float]] | None:
    """Seconds until a page and its pictures are shown in a new browser window, three times each."""
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if executable is None:
        return None
    seconds: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for path in ("", "facet/0", "facet/0/group/0", "facet/0/map"):
            for _ in range(3):
                page = browser.new_context().new_page()
                start = time.perf_counter()
                page.goto(address + path, wait_until="load")
                seconds.setdefault(f"/{path}", []).append(round(time.perf_counter() - start, 3))
                page.context.close()
        browser.close()
    return seconds


def memory_mib() -> int:
    """Memory of this process now, in MiB."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # on other systems than Linux, the largest memory so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def measure(desk: Desk, num_requests: int) -> dict[str, Any]:
    """All figures of one run."""
    listener = listen("127.0.0.1", 0)
    server = build_server(build_app(desk))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    address = address_of(listener, "127.0.0.1", None)
    client = httpx.Client(base_url=address, timeout=60)
    seconds = {path: [round(seconds_of(client, path), 3) for _ in range(3)] for path in FIRST_VIEWS}
    for path, (first, *later) in seconds.items():
        print(f"{path:24} {first:.3f} s, then {min(later):.3f} s")
    record = {"seconds": seconds, "chromium": in_chromium(address), "tiles": tile_pages(client, desk)}
    print(f"in Chromium: {record['chromium']}")
    print(f"pages of tiles: {record['tiles']}")
    memory = [memory_mib()]
    for n in range(num_requests):
        seconds_of(client, WALK[n % len(WALK)].format(n=n % len(desk.items)))
        if (n + 1) % max(1, num_requests // 10) == 0:
            memory.append(memory_mib())
    print(f"memory along {num_requests} requests, MiB: {memory}")
    server.should_exit = True
    return {**record, "requests": num_requests, "memory_mib": memory}


def main(run: Path | None, num_requests: int) -> None:
    """Measure a run and write the record."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        desk = open_desk(write_run(Path(folder)) if run is None else RunFolder.open(run))
        ready = round(time.perf_counter() - start, 1)
        print(f"ready after {ready} s, {len(desk.items)} items")
        items = "drawn, the model untrained" if run is None else desk.run.read_config().data.source
        figures = measure(desk, num_requests)
    load = [round(value, 1) for value in os.getloadavg()]  # load of the machine, because other work delays answers
    record = {**provenance(), "items": len(desk.items), "data": items, "ready_after": ready, "load": load, **figures}
    write_json(ROOT / "benchmarks" / "results" / "explorer.json", record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    main(options.run, options.requests)
