import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pyro_mfcvae import cli
from pyro_mfcvae.config import Config
from pyro_mfcvae.datasets import DATASETS
from pyro_mfcvae.fitting import Fit
from pyro_mfcvae.presets import load_preset, preset_names
from pyro_mfcvae.runs import RunFolder

TINY = [
    "networks.kind=mlp",
    "facets.num_clusters=[4, 3]",
    "facets.latent_dim=[2, 2]",
    "networks.encoder_dims=[8, 8]",
    "networks.decoder_dims=[8, 8]",
    "networks.hidden_dim=8",
    "training.epochs=2",
    "training.batch_size=20",
    "training.warmup_steps=2",
    "training.refit_steps=[]",
]

PUBLISHED = os.environ.get("MFCVAE_DATA", "")


def make_images(num: int = 80, size: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(256, size=(num, size, size), dtype=np.uint8)


def save_data(path: Path, images: NDArray[np.generic]) -> str:
    np.savez(path, images=images, side=np.arange(len(images)) % 2)
    return str(path)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder but for `data.npz`; single precision and a wide screen, no data folder."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MFCVAE_DATA", raising=False)
    monkeypatch.setattr(cli.console, "width", 300)
    save_data(tmp_path / "data.npz", make_images())
    return tmp_path


@pytest.fixture
def mfcvae(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*args: str) -> tuple[int, str, str]:
        try:
            cli.main(args)
            code = 0
        except SystemExit as leave:
            assert isinstance(leave.code, int)
            code = leave.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fitted(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run on `data.npz`, without its figures, which take a second."""
    with monkeypatch.context() as patch:
        patch.setattr("pyro_mfcvae.fitting._draw", lambda *_: None)
        code, _, err = mfcvae("fit", "--data", "data.npz", "--out", "run", "--set", *TINY)
    assert (code, err) == (0, "")
    return Path("run")


# --- what works -----------------------------------------------------------------------------------------------------


def test_fit_fills_a_run_folder_and_tells_where(mfcvae: Run) -> None:
    code, out, err = mfcvae("fit", "--data", "data.npz", "--out", "here/run", "--device", "cpu", "--set", *TINY)
    assert (code, err) == (0, "")
    run = Path("here/run")
    assert {"config.toml", "model.safetensors", "checkpoint", "metrics.jsonl", "summary.json", "figures"} <= names(run)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["data"], summary["epochs"], summary["seed"]) == ("data.npz", 4, 0)
    lines = out.splitlines()
    assert lines[0] == "data: 80 items of shape 1 × 6 × 6, 2 facets of 4 and 3 clusters"
    assert [line[:10] for line in lines[1:5]] == ["epoch 1/4 ", "epoch 2/4 ", "epoch 3/4 ", "epoch 4/4 "]
    assert "Examples of every cluster: here/run/figures/clusters.png" in lines
    assert re.fullmatch(r"Everything of this run lies in here/run \(\d+ s of training\)\.", lines[-1])
    assert "side: accuracy (NMI, ARI)" in out
    for j, facet in enumerate(summary["facets"]):
        score = f"{facet['accuracy']['side']:.3f} ({facet['nmi']['side']:.2f}, {facet['ari']['side']:z.2f})"
        row = next(line for line in lines if line.startswith(f"{j} "))
        assert row.split("  ", 1)[1].split() == f"{facet['clusters_in_use']} of {facet['num_clusters']} {score}".split()


@pytest.mark.usefixtures("fitted")
def test_fit_writes_tensorboard_events() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra 'log', is not installed")
    assert [name.startswith("events.out.tfevents") for name in names(Path("run/tensorboard"))] == [True]


@pytest.mark.usefixtures("fitted")
def test_settings_and_data_reach_the_configuration() -> None:
    config = RunFolder(Path("run")).read_config()
    assert config.data == "data.npz"
    assert config.training.epochs == 2
    assert config.facets.num_clusters == (4, 3)
    assert config.likelihood == load_preset("shapes").likelihood  # all else is the default preset's


@pytest.mark.usefixtures("fitted")
def test_evaluate_scores_a_run_on_its_own_data(mfcvae: Run) -> None:
    before = names(Path("run"))
    code, out, err = mfcvae("evaluate", "run")
    assert (code, err) == (0, "")
    assert re.match(r"80 items of data; ELBO -\d+\.\d\d nats per item\n", out)
    summary = json.loads(Path("run/summary.json").read_text())
    for j, facet in enumerate(summary["facets"]):
        assert re.search(rf"^{j} +{facet['clusters_in_use']} of {facet['num_clusters']} ", out, re.MULTILINE)
        assert f"{facet['accuracy']['side']:.3f} ({facet['nmi']['side']:.2f}, {facet['ari']['side']:z.2f})" in out
    assert names(Path("run")) == before


@pytest.mark.usefixtures("fitted")
def test_evaluate_takes_other_data(mfcvae: Run) -> None:
    save_data(Path("other.npz"), make_images(50))
    code, out, _ = mfcvae("evaluate", "run", "--data", "other.npz")
    assert code == 0
    assert out.startswith("50 items of other; ELBO ")


@pytest.mark.usefixtures("fitted")
def test_resume_of_a_finished_run_changes_nothing_but_the_clock(mfcvae: Run) -> None:
    kept = ("config.toml", "model.safetensors", "metrics.jsonl", "checkpoint/training.safetensors")
    before = [Path("run", name).read_bytes() for name in kept]
    summary = json.loads(Path("run/summary.json").read_text())
    code, out, err = mfcvae("fit", "--resume", "--out", "run")
    assert (code, err) == (0, "")
    assert "epoch" not in out
    assert [Path("run", name).read_bytes() for name in kept] == before
    again = json.loads(Path("run/summary.json").read_text())
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}
    assert Path("run/figures/clusters.png").is_file()


def test_resume_goes_on_with_a_stopped_run(mfcvae: Run, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pyro_mfcvae.monitors.TensorBoardMonitor.on_epoch", interrupt)
        patch.setattr("pyro_mfcvae.monitors.ProgressMonitor.on_epoch", interrupt)
        with pytest.raises(SystemExit, match="stopped; go on from the last whole epoch with --resume and"):
            cli.main(["fit", "--data", "data.npz", "--out", "stopped", "--set", *TINY])
    assert "model.safetensors" not in names(Path("stopped"))
    code, _, err = mfcvae("evaluate", "stopped")
    assert (code, err) == (
        2,
        "mfcvae: the run stopped is not finished: go on with mfcvae fit --resume --out stopped\n",
    )
    code, out, _ = mfcvae("fit", "--resume", "--out", "stopped")
    assert code == 0
    assert "epoch 2/4" in out and "epoch 1/4" not in out
    assert Path("stopped/model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()


def stop_before_training(config: Config, run: RunFolder, **_: object) -> Fit:
    raise FileNotFoundError(f"{config.data} would go to {run.path}")


@pytest.mark.parametrize("given", ["--set seed=3 training.epochs=4", "--set seed=3 --set training.epochs=4"])
def test_settings_may_stand_together_or_apart(mfcvae: Run, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    seen: list[Config] = []

    def see(config: Config, run: RunFolder, **_: object) -> Fit:
        seen.append(config)
        return stop_before_training(config, run)

    monkeypatch.setattr(cli, "fit_run", see)
    mfcvae("fit", "--data", "data.npz", *given.split())
    assert [(config.seed, config.training.epochs) for config in seen] == [(3, 4)]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--data", "data.npz"], "data.npz would go to runs/data-1"),
        (["stickfigures", "--data", "data.npz"], "data.npz would go to runs/stickfigures-1"),
        (["--data", "data.npz", "--out", "x"], "data.npz would go to x"),
    ],
)
def test_a_run_without_out_gets_a_folder_of_its_own(
    mfcvae: Run, monkeypatch: pytest.MonkeyPatch, args: list[str], told: str
) -> None:
    monkeypatch.setattr(cli, "fit_run", stop_before_training)
    assert mfcvae("fit", *args)[::2] == (2, f"mfcvae: {told}\n")


def test_the_next_free_folder_is_taken(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "fit_run", stop_before_training)
    for n in (1, 2, 4):
        Path(f"runs/data-{n}").mkdir(parents=True)
    assert mfcvae("fit", "--data", "data.npz")[2] == "mfcvae: data.npz would go to runs/data-3\n"


def test_a_data_set_with_a_preset_of_its_name_is_fitted_by_it(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def see(config: Config, settings: object) -> Config:
        seen.append(config)
        return config

    monkeypatch.setattr(cli, "override", see)
    assert mfcvae("fit", "--data", "stickfigures")[0] == 2  # there is no data folder
    assert seen == [load_preset("stickfigures")]


def test_presets_are_listed(mfcvae: Run) -> None:
    code, out, err = mfcvae("presets")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1::2]] == preset_names()
    assert "data mnist; clusters per facet 25, 25" in out
    assert all(load_preset(name).description in out for name in preset_names())


def test_data_sets_are_listed(mfcvae: Run) -> None:
    code, out, err = mfcvae("datasets")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1 : 1 + 2 * len(DATASETS) : 2]] == list(DATASETS)
    assert "1 × 28 × 28, bernoulli; labels digit; 60,000 train, 10,000 test as published" in out
    assert "A path works as well" in out


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "pyro_mfcvae", "presets"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[1::2]] == preset_names()


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (["--help"], ["fit", "evaluate", "presets", "datasets"]),
        (["fit", "--help"], ["PRESET", "--data", "--out", "--set", "--resume", "--device", "--root", "MFCVAE_DATA"]),
        (["evaluate", "--help"], ["RUN", "--data", "--root"]),
    ],
)
def test_help_names_every_option(mfcvae: Run, args: list[str], mentions: list[str]) -> None:
    code, out, err = mfcvae(*args)
    assert (code, err) == (0, "")
    assert [word for word in mentions if word not in out] == []


@pytest.mark.skipif(not PUBLISHED, reason="MFCVAE_DATA does not name the folder that holds the published data sets")
def test_root_tells_where_the_published_data_are(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.fitting._draw", lambda *_: None)
    settings = [*TINY, "training.epochs=1"]
    code, out, err = mfcvae("fit", "stickfigures", "--root", PUBLISHED, "--out", "run", "--set", *settings)
    assert (code, err) == (0, "")
    assert out.startswith("stickfigures: 900 items of shape 1 × 20 × 20, 2 facets")
    assert mfcvae("evaluate", "run", "--root", PUBLISHED)[0] == 0


def test_sweep_compares_seeds(mfcvae: Run) -> None:
    code, out, err = mfcvae("sweep", "--data", "data.npz", "--seeds", "2", "--device", "cpu", "--set", *TINY)
    assert (code, err) == (0, "")
    folder = Path("runs/data-sweep-1")
    assert names(folder) == {"seed-0", "seed-1", "sweep.json"}
    best = json.loads((folder / "sweep.json").read_text())["best_seed"]
    lines = out.splitlines()
    assert sorted(line.partition(":")[0] for line in lines[:2]) == ["seed 0", "seed 1"]
    assert "ARI across seeds" in out
    assert f"By its ELBO one would pick seed {best}: runs/data-sweep-1/seed-{best}" in lines
    assert lines[-1] == "Everything of this sweep lies in runs/data-sweep-1."
    assert mfcvae("evaluate", str(folder / "seed-1"))[0] == 0


def test_a_wrong_sweep_is_told(mfcvae: Run) -> None:
    for args, told in (
        (["--seeds", "0"], "expected --seeds and --workers of 1 or more, got 0 and None"),
        (["--data", "nope"], "no data set, file or folder is called 'nope'"),
        (["--data", "data.npz", "--set", *TINY, "facets.num_clusters=[4, 90]"], "the 90 clusters of facet 1 cannot"),
    ):
        code, _, err = mfcvae("sweep", *args)
        assert code == 2
        assert err.startswith(f"mfcvae: {told}")
        assert err.count("\n") == 1


@pytest.mark.usefixtures("fitted")
def test_sample_draws_tables_for_every_facet(mfcvae: Run) -> None:
    code, out, err = mfcvae("sample", "run", "--num", "3", "--temperature", "0.5")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        line
        for j in range(2)
        for line in (
            f"drawn from the largest clusters of facet {j}: run/figures/generated-{j}.png",
            f"the images at the left with facet {j} of those on top: run/figures/composed-{j}.png",
        )
    ]
    files = [Path(f"run/figures/{name}-{j}.png") for name in ("generated", "composed") for j in range(2)]
    first = [file.read_bytes() for file in files]
    mfcvae("sample", "run", "--num", "3", "--temperature", "0.5")
    assert [file.read_bytes() for file in files] == first
    mfcvae("sample", "run", "--num", "3", "--temperature", "0.5", "--seed", "1")
    assert files[0].read_bytes() != first[0]


@pytest.mark.usefixtures("fitted")
def test_sample_draws_from_chosen_clusters(mfcvae: Run) -> None:
    code, out, err = mfcvae("sample", "run", "--clusters", "0=3", "1=0", "--num", "2")
    assert (code, err) == (0, "")
    assert out == "facet 0 in cluster 3, facet 1 in cluster 0: run/figures/drawn-0-3-1-0.png\n"
    assert Path("run/figures/drawn-0-3-1-0.png").is_file()


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--clusters", "0"], r"a cluster to draw from looks like 0=3 \(facet 0, cluster 3\), got '0'"),
        (["--clusters", "0=9"], "facet 0 has clusters 0 … 3, got 9"),
        (["--num", "0"], "expected --num 1 or more, got 0"),
        (["--temperature", "-1"], "temperature must be ≥ 0, got -1.0"),
    ],
)
def test_a_wrong_sample_is_told(mfcvae: Run, args: list[str], told: str) -> None:
    code, _, err = mfcvae("sample", "run", *args)
    assert code == 2
    assert re.fullmatch(f"mfcvae: {told}\n", err)


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nope"], "unknown preset 'nope': expected one of .*shapes.*"),
        (["--data", "nope"], "no data set, file or folder is called 'nope'; known data sets are .*"),
        (["--data", "missing.npz"], "no data set, file or folder is called 'missing.npz'; .*"),
        (["--data", "text.txt"], r"expected an \.npz file or a folder of images, got text.txt; .*"),
        (["--data", "broken.npz"], r"expected an \.npz file as np\.savez writes it, but broken.npz is not one; .*"),
        (["--data", "nan.npz"], "nan.npz, array 'images': expected finite pixels, got 1 NaN or infinite values, .*"),
        (["--data", "range.npz"], r"range.npz, array 'images': expected float pixels in \[0, 1\], .* 0 to 2; .*"),
        (["--data", "data.npz", "--set", "training.epoch=3"], "unknown setting 'training.epoch': did you mean .*"),
        (["--data", "data.npz", "--set", "training.epochs"], "a setting looks like training.epochs=5, got .*"),
        (["--data", "data.npz", "--set", "seed=1", "nope"], "a setting looks like training.epochs=5, got 'nope'"),
        (["--data", "data.npz", "--set", "training.learning_rate=-1"], "--set: training.learning_rate: .*, got -1"),
        (["--data", "data.npz", "--set", "prior.covariance=round"], "--set: prior.covariance: .*, got 'round'"),
        (["--data", "data.npz", "--set", "training.epochs=[1, 2, 3]"], ".* training.epochs = .* give one per facet"),
        (["--data", "data.npz", "--set", "facets.num_clusters=[3]"], ".* facets.latent_dim = .* give one per facet"),
        (["--data", "data.npz", "--set", *TINY, "facets.num_clusters=[4, 90]"], "the 90 clusters of facet 1 cannot .*"),
        (["--data", "data.npz", "--set", "training.batch_size=80"], "warmup_steps=200 would outlast a stage of .*"),
        (["--data", "data.npz", "--device", "abacus", "--set", *TINY], "cannot compute on the device 'abacus': .*"),
        (["mnist"], "expected to be told where the data are; set MFCVAE_DATA to the folder that holds MNIST/raw, .*"),
        (["mnist", "--root", "nowhere"], "expected MNIST/raw in nowhere, found none; .*"),
        (["--resume"], "--resume goes on with the run in --out DIR as it was configured: give --out and no settings"),
        (["--resume", "--out", "run", "--set", "seed=1"], "--resume goes on with .*: give --out and no settings"),
        (["mnist", "--resume", "--out", "run"], "--resume goes on with .*: give --out and no settings"),
        (["--resume", "--out", "run"], "run is not a run folder: expected a config.toml in it, as mfcvae fit writes"),
        (["--resume", "--out", "full"], "full is not a run folder: expected a config.toml in it, .*"),
        (["--data", "data.npz", "--out", "full"], "full already exists and is not empty: choose another --out, .*"),
        (["--data", "data.npz", "--out", "text.txt"], "text.txt already exists and is not empty: choose another .*"),
    ],
)
def test_a_wrong_fit_is_told_and_writes_nothing(mfcvae: Run, place: Path, args: list[str], told: str) -> None:
    nan, wide = make_images() / 255, make_images() / 255
    nan[3, 0, 0], wide[0, 0, :2] = np.nan, (0, 2)
    save_data(place / "nan.npz", nan)
    save_data(place / "range.npz", wide)
    (place / "broken.npz").write_bytes(b"no zip")
    (place / "text.txt").write_text("no images")
    (place / "full").mkdir()
    (place / "full" / "thesis.tex").touch()
    before = sorted(place.rglob("*"))
    code, _, err = mfcvae("fit", *args)
    assert code == 2
    assert re.fullmatch(f"mfcvae: {told}\n", err)
    assert sorted(place.rglob("*")) == before


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nowhere"], "nowhere is not a run folder: expected a config.toml in it, as mfcvae fit writes"),
        (["run", "--data", "nope"], "no data set, file or folder is called 'nope'; .*"),
        (
            ["run", "--data", "large.npz"],
            r"large has items of shape \(1, 7, 7\), but the run was trained on \(1, 6, 6\): choose data of that shape",
        ),
        (["cut"], "cut/model.safetensors is not a readable safetensors file: .*"),
        (["changed"], "changed/model.safetensors does not fit its configuration: .*"),
        (["gone"], "no data set, file or folder is called 'gone.npz'; .*"),
    ],
)
def test_a_wrong_evaluation_is_told_in_one_line(mfcvae: Run, place: Path, args: list[str], told: str) -> None:
    save_data(place / "large.npz", make_images(size=7))
    model, config = Path("run/model.safetensors").read_bytes(), Path("run/config.toml").read_text()
    for name, content, text in (
        ("cut", model[:-9], config),
        ("changed", model, config.replace("hidden_dim = 8", "hidden_dim = 9")),
        ("gone", model, config.replace("data.npz", "gone.npz")),
    ):
        (place / name).mkdir()
        (place / name / "model.safetensors").write_bytes(content)
        (place / name / "config.toml").write_text(text)
    code, _, err = mfcvae("evaluate", *args)
    assert code == 2
    assert re.fullmatch(f"mfcvae: {told}\n", err)


@pytest.mark.usefixtures("fitted")
def test_a_spoiled_checkpoint_is_told_in_one_line(mfcvae: Run) -> None:
    checkpoint = Path("run/checkpoint/training.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    code, _, err = mfcvae("fit", "--resume", "--out", "run")
    assert code == 2
    assert re.fullmatch(r"mfcvae: run/checkpoint/training.safetensors is not a readable safetensors file: .*\n", err)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["fit", "--nonsense"], "--nonsense"),
        (["fit", "--out"], "--out"),
        (["evaluate"], "RUN"),
        (["explode"], "explode"),
        ([], "fit"),
    ],
)
def test_a_wrong_command_line_is_explained(mfcvae: Run, place: Path, args: list[str], word: str) -> None:
    before = names(place)
    code, out, err = mfcvae(*args)
    assert (code, out) == (2, "")
    assert word in err
    assert names(place) == before
