import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TINY, make_images, save_data
from lightning_fabric.loggers import CSVLogger
from PIL import Image

import pyro_mfcvae
from pyro_mfcvae import InputError, Run, fit, load
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.data.datasets import as_float, load_dataset
from pyro_mfcvae.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("place")

SETTINGS = {
    "networks.kind": "mlp",
    "facets.num_clusters": (4, 3),
    "facets.latent_dim": np.array([2, 2]),
    "networks.encoder_dims": [8, 8],
    "networks.decoder_dims": [8, 8],
    "networks.hidden_dim": 8,
    "training.epochs": [2, 2],
    "training.batch_size": 20,
    "mixture_fit.warmup_steps": 2,
    "mixture_fit.refit_steps": [],
    "mixture_fit.joint_refit_steps": [],
    "schedule.fade_in_steps": 4,
}


@pytest.mark.usefixtures("without_figures")
def test_a_fit_in_python_is_the_fit_of_the_command_line(fitted: Path) -> None:
    run = fit("data.npz", settings=SETTINGS, out="here", verbose=False)
    assert (run.path / "model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()
    assert run.config.data.source == str(Path("data.npz").resolve())
    table = run.assignments
    assert len(table) == 80 and {"facet_0_group", "facet_1_cluster", "label_side"} <= set(table.columns)
    assert list(run.scores.columns) == ["facet", "groups", "label", "accuracy", "nmi", "ari"]
    assert run.scores["accuracy"][1] == run.summary["facets"][1]["groups"]["accuracy"]["side"]
    assert repr(run).splitlines()[0] == "Run('here')"
    assert "facet 1: " in repr(run) and "<table" in run._repr_html_()
    assert run.report().name == "report.html"
    run.folder.write_summary({**run.summary, "data": "<script>"})
    assert "&lt;script&gt;, " in run._repr_html_() and "<script>" not in run._repr_html_()
    run.folder.summary_path.unlink()
    run.path.rename("<b>bold")
    assert Run("<b>bold")._repr_html_() == "<div><strong>Run(&#x27;&lt;b&gt;bold&#x27;)</strong><br></div>"


@pytest.mark.usefixtures("without_figures")
def test_an_array_is_fitted_and_its_run_is_continued(place: Path) -> None:
    images = make_images()
    run = fit(
        torch.as_tensor(images),
        settings=SETTINGS,
        labels={"side": ["a", "b"] * 40},
        verbose=False,
        loggers=[CSVLogger(place)],
    )
    assert run.path == Path("runs/array-1")
    assert len(list(place.rglob("metrics.csv"))) == 1
    assert run.summary["epochs"] == 4
    longer = run.continue_(epochs=3, verbose=False)
    assert longer.summary["epochs"] == 7 and longer.config.training.epochs == (2, 5)
    assert len(longer.folder.read_metrics()) == 7
    with pytest.raises(InputError, match="expected the array that the run was trained on"):
        Run(run.path).continue_(epochs=1)
    assert Run(str(run.path), data=images).continue_(epochs=1, verbose=False).summary["epochs"] == 8
    with pytest.raises(InputError, match="expected epochs ≥ 1, got 0"):
        longer.continue_(epochs=0)
    assigned = longer.assign(images[:5])
    assert assigned["facet_0_cluster"].tolist() == longer.assignments["facet_0_cluster"].tolist()[:5]
    assert assigned["unlike"].dtype == bool


@pytest.mark.usefixtures("without_figures")
def test_a_training_that_ended_early_is_continued_from_its_end() -> None:
    settings = SETTINGS | {"training.epochs": [0, 20], "training.tolerance": 1e9}
    run = fit(make_images(), settings=settings, verbose=False)
    assert run.summary["epochs"] == 5
    longer = run.continue_(epochs=2, verbose=False)
    assert longer.summary["epochs"] == 7
    assert (longer.config.training.epochs, longer.config.training.tolerance) == ((0, 7), 0.0)
    whole = fit(make_images(), settings=settings | {"training.epochs": [0, 7], "schedule.scale": 0.3}, verbose=False)
    assert whole.summary["epochs"] == 3
    assert whole.continue_(epochs=1, verbose=False).summary["epochs"] == 4


@pytest.mark.usefixtures("fitted")
def test_a_pair_is_saved_and_loaded_by_path_or_text(place: Path) -> None:
    pair = load("run")
    pair.save("pair.safetensors")
    again = load(Path("pair.safetensors"))
    x = torch.rand(3, 1, 6, 6)
    for one, other in zip(pair.assign(x), again.assign(x), strict=True):
        assert torch.equal(one, other)
    assert repr(pair).splitlines()[0].startswith("MFCVAE of items 1 × 6 × 6: GaussianLikelihood, ")
    assert "facet 0: 4 clusters in 2 dimensions, MixturePrior" in repr(pair)
    build_pair(Run("run").config, (1, 6, 6)).double().save("double.safetensors")
    assert load("double.safetensors").model.alpha.dtype == torch.float64


def test_files_that_are_not_models_are_refused(place: Path) -> None:
    with pytest.raises(InputError, match="expected the file of a model, got none"):
        load("none")
    with pytest.raises(InputError, match=r"expected safetensors in data\.npz, got other bytes"):
        load("data.npz")
    Path("folder").mkdir()
    with pytest.raises(InputError, match=r"expected a run folder with a config\.toml"):
        load("folder")


@pytest.mark.usefixtures("fitted")
def test_tensors_without_a_recipe_are_refused() -> None:
    with pytest.raises(InputError, match="tensors without the configuration of their model: give the run's folder"):
        load("run/model.safetensors")
    pair = load("run")
    copy = pyro_mfcvae.MFCVAE(pair.model, pair.guide)
    with pytest.raises(InputError, match="expected a pair that was built from a configuration, got one of your own"):
        copy.save("x")


def test_settings_of_the_tests_are_those_of_the_command_line() -> None:
    assert [setting.partition("=")[0] for setting in TINY] == list(SETTINGS)


def test_labels_need_an_array(place: Path) -> None:
    save_data(place / "again.npz", make_images())
    with pytest.raises(InputError, match="expected labels only with an array"):
        fit("again.npz", labels={"y": [1]}, settings=SETTINGS)


@pytest.mark.usefixtures("without_figures")
def test_photos_of_several_sizes_are_fitted_by_auto_assigned_and_go_on(place: Path) -> None:
    for folder, sides in (("photos", (10, 14)), ("others", (9, 17))):
        Path(folder).mkdir()
        for n in range(20):
            pixels = np.random.default_rng(n).integers(256, size=(sides[n % 2], 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{folder}/{n}.png")
    short = {"schedule.scale": 0.005, "data.size": 8}
    run = fit("photos", settings=short, verbose=False)
    assert run.pair.model.event_shape == (3, 8, 8)
    assert len(run.assign("others")) == 20
    epochs = run.summary["epochs"]
    assert run.continue_(epochs=1, verbose=False).summary["epochs"] > epochs
    mixed = fit("photos", settings={"schedule.scale": 0.005, "facets.latent_dim": [2, 2]}, verbose=False)
    assert (mixed.config.data.size, mixed.pair.model.event_shape) == (32, (3, 32, 32))


@pytest.mark.usefixtures("without_figures")
def test_new_images_of_several_sizes_are_assigned_by_a_run_whose_images_had_one(place: Path) -> None:
    for folder, sides in (("grey", (6, 6)), ("others", (9, 17))):
        Path(folder).mkdir()
        for n, image in enumerate(make_images()):
            Image.fromarray(image).resize((6, sides[n % 2])).save(f"{folder}/{n}.png")
    run = fit("grey", settings=SETTINGS, verbose=False)
    assert run.config.data.size is None
    table = run.assign("others")
    again = load_dataset("others", size=6)
    probs = run.pair.assign(as_float(again.train.images))[0].numpy()
    assert table["file"].tolist() == sorted(f"{n}.png" for n in range(80))
    assert table["facet_0_cluster_probability"].tolist() == pytest.approx(
        probs[range(80), table["facet_0_cluster"]].tolist(), abs=1e-5
    )
    assert len(run.assign(np.zeros((3, 12, 10), np.float32))) == 3


@pytest.mark.usefixtures("without_figures")
def test_an_array_can_be_resized_too() -> None:
    images = make_images()
    run = fit(images, settings={**SETTINGS, "data.size": 4}, verbose=False)
    assert run.pair.model.event_shape == (1, 4, 4)
    epochs = run.summary["epochs"]
    again = Run(run.path, data=images).continue_(epochs=1, verbose=False)
    assert again.summary["epochs"] == epochs + 1


def test_a_folder_in_use_is_refused_before_data_are_read_or_settings_change(fitted: Path, place: Path) -> None:
    """Another process has locked the folders."""
    run, config = Run(fitted), (fitted / "config.toml").read_text()
    command = [sys.executable, "-c", HOLD, str(fitted), str(place / "new")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(InputError, match="expected a folder that no other run uses"):
                run.continue_(epochs=1, verbose=False)
            with pytest.raises(InputError, match="expected a folder that no other run uses"):
                fit("there is no such file.npz", out=place / "new")
        finally:
            holder.kill()
    assert (fitted / "config.toml").read_text() == config


HOLD = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from pyro_mfcvae.safety.locks import locked
with ExitStack() as stack:
    for folder in sys.argv[1:]:
        stack.enter_context(locked(Path(folder)))
    print("held", flush=True)
    time.sleep(60)
"""


def test_fits_without_a_folder_get_one_each(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    folders: list[Path] = []

    def train(config: Config, folder: RunFolder, *_: object, **__: object) -> None:
        folders.append(folder.path)
        folder.write_config(config)
        if len(folders) < 3:
            fit(images, settings=settings)  # as another process would while this one trains

    settings = {"facets.num_clusters": [3, 2], "facets.latent_dim": [2, 2]}
    images = make_images(40)
    monkeypatch.setattr("pyro_mfcvae.api.run._train", train)
    fit(images, preset="shapes", settings=settings)
    assert [folder.name for folder in folders] == ["array-1", "array-2", "array-3"]
