"""k-means on the raw pixels of the embedded images, to show that the demo is not solved by this.

python benchmarks/pixel_kmeans.py
"""

import json

from provenance import provenance
from reproduction import RESULTS
from sklearn.cluster import KMeans

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.metrics import majority_accuracy, nmi


def main() -> None:
    data = load_dataset("shapes", seed=0)
    pixels = as_float(data.test.images).flatten(1).numpy()
    rows = []
    for num_clusters in (4, 6, 8, 12, 16, 24):
        clusters = KMeans(num_clusters, n_init=5, random_state=0).fit_predict(pixels)
        row: dict[str, float] = {"num_clusters": num_clusters}
        for label, values in data.test.labels.items():
            row[f"{label}_accuracy"] = majority_accuracy(clusters, values.numpy())
            row[f"{label}_nmi"] = nmi(clusters, values.numpy())
        rows.append(row)
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    result = {"data_fingerprint": data.fingerprint(), **provenance(), "kmeans": rows}
    write_text(RESULTS / "pixel_kmeans.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
