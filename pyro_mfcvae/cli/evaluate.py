"""Scores on the command line: ``mfcvae evaluate``."""

from pyro_mfcvae.cli.options import Data, Json, Parts, Root, Run
from pyro_mfcvae.cli.terminal import console, print_json, print_scores, say
from pyro_mfcvae.config.custom_parts import import_parts


def evaluate(run: Run, /, data: Data = None, parts: Parts = (), root: Root = None, json: Json = False) -> None:
    """Score a run: facet by label, accuracy, NMI, ARI and clusters in use.

    Accuracy is by majority label: every cluster takes the most frequent label of its members. It grows with the number
    of clusters; NMI and ARI do not.

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
        facets = result.facet_records()
        print_json(
            {"run": str(run), "data": dataset.name, "items": len(dataset.test), "elbo": result.elbo, "facets": facets}
        )
