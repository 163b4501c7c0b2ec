"""Many seeds on the command line: ``mfcvae sweep``."""

from itertools import chain
from typing import Annotated, Any

from pyro_mfcvae.cli.fit import choose_config, key_of, new_folder, suit_data
from pyro_mfcvae.cli.options import Count, Data, Device, Directory, Flag, Json, Parts, Preset, Root, Settings, option
from pyro_mfcvae.cli.terminal import console, print_json, print_sweep, say
from pyro_mfcvae.config.custom_parts import import_parts
from pyro_mfcvae.config.text import DEFAULT
from pyro_mfcvae.errors import InputError


def sweep(
    preset: Preset = None,
    /,
    seeds: Count = 10,
    data: Data = None,
    out: Directory = None,
    set: Settings = (),
    workers: Annotated[int | None, option("N")] = None,
    together: Flag = False,
    parts: Parts = (),
    device: Device = "auto",
    root: Root = None,
    json: Json = False,
) -> None:
    """Train several seeds and compare them: mean ± standard deviation, and whether they find the same.

    Given the folder of an earlier sweep, it continues the runs that are not finished. All runs are scored on the
    same test items. ARI across seeds is the agreement of a facet's clusters with those of the facet that matches it in
    another run: 1 where both cluster alike.

    Args:
        preset: A preset's name (see `mfcvae presets`). By default the one named as the data, or else shapes.
        seeds: How many; they count from 0.
        data: A data set's name, a .npz, .npy or .h5 file, or a folder of images; by default the preset's.
        out: Folder of the runs, seed-0, seed-1 and so on. By default a new one below runs/.
        workers: How many runs at a time; by default one per GPU, or one per CPU core.
        together: Train all seeds at once in one process, on one device: for a GPU that one seed does not fill.
    """
    if seeds < 1 or (workers is not None and workers < 1):
        raise InputError(f"expected --seeds and --workers of 1 or more, got {seeds} and {workers}: raise them")
    import_parts(parts)
    settings = list(chain.from_iterable(set))
    if "seed" in map(key_of, settings):
        raise InputError("the seeds of a sweep count from 0: leave --set seed out, and say how many with --seeds")
    config = choose_config(preset, data, settings)

    from pyro_mfcvae.atomic_io import write_json
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.runs.sweep import sweep as run_sweep

    config, _ = suit_data(config, preset, settings, root)
    folder = out or new_folder(preset or data or DEFAULT, "sweep-")
    if RunFolder(folder).config_path.is_file():
        raise InputError(f"{folder} holds a single run: choose another --out")
    console.quiet = json
    say(f"Training seeds 0 to {seeds - 1}. How far each is stands in {folder / 'seed-N' / 'metrics.jsonl'}.")

    def tell(seed: int, summary: dict[str, Any]) -> None:
        say(f"seed {seed}: ELBO {summary['elbo']:.2f}, {summary['seconds']:.0f} s")

    result = run_sweep(
        config, folder, seeds=range(seeds), root=root, device=device, workers=workers, together=together, on_done=tell
    )
    write_json(folder / "sweep.json", result.summary())
    print_sweep(result)
    say(f"\nBy its ELBO one would pick seed {result.best_seed}: {folder / f'seed-{result.best_seed}'}")
    say(f"Everything of this sweep lies in {folder}.")
    if json:
        print_json({"sweep": str(folder), **result.summary()})
