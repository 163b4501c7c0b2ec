"""How quickly the explorer answers on a run of 60,000 items, and whether its memory stays flat.

python benchmarks/explorer.py                     # 1,000 requests
python benchmarks/explorer.py --requests 10000

The items are drawn and the model is the preset `mnist`, untrained: answers take as long. Writes results/explorer.json.
"""

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pyro
from provenance import ROOT, provenance

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.server import address_of, build_server, listen, open_desk
from pyro_mfcvae.runs.checkpoints import save_pair
from pyro_mfcvae.runs.folder import RunFolder

NUM_ITEMS = 60_000
PATHS = ("/", "/facet/0", "/facet/0/group/0", "/facet/0/map", "/facet/0/map.png", "/item/7", "/samples")
WALK = ("/facet/0/group/0?page={n}", "/facet/1", "/item/{n}", "/swap?a={n}&b=7&facet0=on", "/facet/0/latent?item={n}")


def write_run(folder: Path) -> RunFolder:
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


def main(num_requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        desk = open_desk(write_run(Path(folder)))
        print(f"ready after {time.perf_counter() - start:.0f} s")
        listener = listen("127.0.0.1", 0)
        server = build_server(build_app(desk))
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
        client = httpx.Client(base_url=address_of(listener, "127.0.0.1", None), timeout=60)
        seconds = {}
        for path in PATHS:
            times = []
            for _ in range(3):
                start = time.perf_counter()
                client.get(path).raise_for_status()
                times.append(round(time.perf_counter() - start, 3))
            seconds[path] = times
            print(f"{path:24} {times[0]:.3f} s, then {min(times[1:]):.3f} s")
        memory = []
        for n in range(num_requests):
            client.get(WALK[n % len(WALK)].format(n=n)).raise_for_status()
            if n % max(1, num_requests // 10) == 0:
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        print(f"peak memory, MiB, along {num_requests} requests: {memory}")
        server.should_exit = True
    record = {**provenance(), "items": NUM_ITEMS, "seconds": seconds, "requests": num_requests, "memory_mib": memory}
    write_json(ROOT / "benchmarks" / "results" / "explorer.json", record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    main(parser.parse_args().requests)
