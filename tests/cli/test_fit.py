import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tyro
from command_line import TINY, Run, check_scores, make_images, names, save_data
from files_as_published import write_stickfigures

from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import load_preset
from pyro_mfcvae.runs.fit import Fit
from pyro_mfcvae.runs.folder import RunFolder

cli_fit, runs_fit = import_module("pyro_mfcvae.cli.fit"), import_module("pyro_mfcvae.runs.fit")
pytestmark, slow = pytest.mark.usefixtures("place"), pytest.mark.slow
EQUAL = ("--set", "facets.latent_dim=[2, 2]")  # without a search for the dimensions, which takes a second


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations of fits, which stop before they train."""
    seen: list[Config] = []

    def see(config: Config, run: RunFolder, **_: object) -> Fit:
        seen.append(config)
        return stop_before_training(config, run)

    monkeypatch.setattr(runs_fit, "fit", see)
    return seen


def test_fit_writes_a_run_folder_and_prints_its_path(mfcvae: Run) -> None:
    code, out, err = mfcvae("fit", "--data", "data.npz", "--out", "here/run", "--device", "cpu", "--set", *TINY)
    assert (code, err) == (0, "")
    run = Path("here/run")
    assert {"config.toml", "model.safetensors", "checkpoint", "metrics.jsonl", "summary.json", "figures"} <= names(run)
    summary = json.loads((run / "summary.json").read_text())
    assert (Path(summary["data"]).name, summary["epochs"], summary["seed"]) == ("data.npz", 4, 0)
    first, *lines = out.splitlines()
    assert first[:43] == "Reading the data and choosing settings for "
    assert lines[0] == "data: 80 items of shape 1 × 6 × 6, labels side, 2 facets of 4 and 3 clusters, 2 and 2 epochs"
    chosen = [line.partition(":")[0].strip() for line in lines[1:6]]
    assert chosen == ["likelihood", "networks", "facets", "clusters", "schedule"]
    assert re.fullmatch(r"  time: about \d+\.\d minutes of steps on this machine \(cpu\)", lines[6])
    assert [line[:10] for line in lines[7:11]] == ["epoch 1/4 ", "epoch 2/4 ", "epoch 3/4 ", "epoch 4/4 "]
    assert "Examples of every group: here/run/figures/clusters.png" in lines
    assert re.fullmatch(r"All files of this run are in here/run \(\d+ s of training\)\.", lines[-1])
    check_scores(out, summary)


@pytest.mark.usefixtures("without_figures")
def test_fit_prints_the_epochs_that_it_trains(mfcvae: Run) -> None:
    stages = "schedule.scale=0.5", "2 facets of 4 and 3 clusters, 1 and 1 epochs", "epoch 2/2 "
    together = "training.epochs=2", "2 facets of 4 and 3 clusters, 2 epochs", "8 steps of 20 items"
    for setting, announced, said in (stages, together):
        code, out, _ = mfcvae("fit", "--data", "data.npz", "--device", "cpu", "--set", *TINY, setting)
        assert code == 0 and said in out and out.splitlines()[1].endswith(announced)


@pytest.mark.usefixtures("fitted")
def test_fit_writes_tensorboard_events() -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    assert [name.startswith("events.out.tfevents") for name in names(Path("run/tensorboard"))] == [True]


@pytest.mark.usefixtures("fitted")
def test_settings_and_data_reach_the_configuration() -> None:
    config = RunFolder(Path("run")).read_config()
    assert config.data.source == str(Path("data.npz").resolve())  # can also be found from other folders
    assert config.training.epochs == (2, 2)
    assert config.facets.num_clusters == (4, 3)
    assert config.description == "Settings chosen by auto for 80 items of 1 × 6 × 6 elements"


def test_every_setting_is_an_option() -> None:
    args = ["--set", "seed=1", "--training.epochs", "[3, 4]", "--prior.covariance=full", "--data.fit", "pad"]
    given = tyro.cli(cli_fit.Changes, args=args).as_list()
    assert given == ["seed=1", "data.fit=pad", "prior.covariance=full", "training.epochs=[3, 4]"]


def test_a_wrong_option_of_a_setting_suggests_the_nearest(mfcvae: Run) -> None:
    code, out, err = mfcvae("fit", "--training.epoch", "3")
    assert (code, out) == (2, "")
    assert re.search(r"Perhaps you meant:\s+--training\.epochs VALUE", err)


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ([], (468, 780)),  # the demo's 3 and 5 epochs of 20,000 items are 468 and 780 batches; 80 items are one
        (["training.batch_size=40"], (750, 1250)),
        (["training.epochs=[2, 7]"], (2, 7)),
    ],
)
def test_data_of_another_size_get_as_many_steps(
    mfcvae: Run, seen: list[Config], settings: list[str], epochs: tuple[int, ...]
) -> None:
    mfcvae("fit", "shapes", "--data", "data.npz", "--set", "seed=0", *settings)
    assert seen[0].stage_epochs == epochs


@pytest.mark.usefixtures("without_figures")
def test_a_facet_that_is_not_faded_in_is_reported(mfcvae: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert mfcvae("fit", "--data", "data.npz", "--set", *TINY, "schedule.fade_in_steps=80")[0] == 0
    assert "facet 0 will be faded in only to 0.1: schedule.fade_in_steps outlasts its stage" in caplog.text


@pytest.mark.usefixtures("fitted")
def test_resume_of_a_finished_run_changes_only_times(mfcvae: Run) -> None:
    kept = ("config.toml", "model.safetensors", "metrics.jsonl", "checkpoint/training.safetensors")
    before = [Path("run", name).read_bytes() for name in kept]
    summary = json.loads(Path("run/summary.json").read_text())
    code, out, err = mfcvae("fit", "--resume", "--out", "run")
    assert (code, err) == (0, "")
    assert "epoch 1/4" not in out and "epoch 4/4" not in out
    assert [Path("run", name).read_bytes() for name in kept] == before
    again = json.loads(Path("run/summary.json").read_text())
    assert {**again, "seconds": 0, "sha256": ""} == {**summary, "seconds": 0, "sha256": ""}
    assert Path("run/figures/clusters.png").is_file()


@pytest.mark.usefixtures("without_figures")
def test_resume_continues_a_stopped_run(mfcvae: Run, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pyro_mfcvae.train.callbacks.LoggerCallback.on_epoch", interrupt)
        patch.setattr("pyro_mfcvae.train.callbacks.ProgressBar.on_epoch", interrupt)
        code, _, err = mfcvae("fit", "--data", "data.npz", "--out", "stopped", "--set", *TINY)
        assert (code, err) == (
            130,
            "mfcvae: stopped by SIGINT; resume a fit with --resume --out DIR, a sweep with --out DIR\n",
        )
    assert "model.safetensors" not in names(Path("stopped"))
    code, _, err = mfcvae("evaluate", "stopped")
    assert (code, err) == (
        2,
        "mfcvae: expected a finished run, got stopped: resume it with mfcvae fit --resume --out stopped\n",
    )
    code, out, _ = mfcvae("fit", "--resume", "--out", "stopped")
    assert code == 0
    assert "epoch 2/4" in out and "epoch 1/4" not in out
    assert Path("stopped/model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()


def stop_before_training(config: Config, run: RunFolder, **_: object) -> Fit:
    raise FileNotFoundError(f"{Path(config.data.source).name} would go to {run.path}")


@pytest.mark.parametrize("given", ["--set seed=3 training.epochs=4", "--set seed=3 --set training.epochs=4"])
def test_settings_may_be_given_together_or_separately(mfcvae: Run, seen: list[Config], given: str) -> None:
    mfcvae("fit", "shapes", "--data", "data.npz", *given.split())
    assert [(config.seed, config.training.epochs) for config in seen] == [(3, 4)]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "data.npz", *EQUAL], "data.npz would go to runs/data-1"),
        (["stickfigures", "--data", "data.npz"], "data.npz would go to runs/stickfigures-1"),
        (["--data", "data.npz", *EQUAL, "--out", "x"], "data.npz would go to x"),
    ],
)
def test_a_run_without_out_gets_a_new_folder(
    mfcvae: Run, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.setattr(runs_fit, "fit", stop_before_training)
    assert mfcvae("fit", *args)[::2] == (2, f"mfcvae: {message}\n")


def test_the_next_free_folder_is_taken(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_fit, "fit", stop_before_training)
    for n in (1, 2, 4):
        Path(f"runs/data-{n}").mkdir(parents=True)
    assert mfcvae("fit", "--data", "data.npz", *EQUAL)[2] == "mfcvae: data.npz would go to runs/data-3\n"


def test_a_data_set_with_a_preset_of_its_name_is_fitted_by_it(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(cli_fit, "override", lambda config, settings: seen.append(config) or config)
    assert mfcvae("fit", "--data", "stickfigures")[0] == 2  # there is no data folder
    assert seen == [load_preset("stickfigures")]


@pytest.mark.usefixtures("without_figures")
def test_root_is_the_folder_of_the_published_data(mfcvae: Run, place: Path) -> None:
    folder = str(write_stickfigures(place / "published"))
    settings = [*TINY, "training.epochs=1"]
    code, out, err = mfcvae("fit", "stickfigures", "--root", folder, "--out", "run", "--set", *settings)
    assert (code, err) == (0, "")
    assert out.startswith("stickfigures: 900 items of shape 1 × 20 × 20, labels upper and lower, 2 facets")
    assert mfcvae("evaluate", "run", "--root", folder)[0] == 0


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["prior=bayesian", "prior.covariance=full"], marks=slow),
        ["prior=bayesian", 'prior.random=["probs"]', "prior.stick_breaking=true"],
        ["prior=vamp", "networks.posterior=full"],
        ["prior=student_t", "assignment=monte_carlo", "networks.separate=true"],
        pytest.param(["networks.posterior=spline", "assignment=sample"], marks=slow),
        ["supervision.label=side", "supervision.items_per_value=3", "supervision.batch_size=4"],
    ],
    ids=" ".join,
)
def test_runs_with_other_parts_are_fitted_and_opened_again(mfcvae: Run, place: Path, settings: list[str]) -> None:
    code, _, err = mfcvae("fit", "--data", "data.npz", "--out", "run", "--set", *TINY, *settings)
    assert (code, err) == (0, "")
    code, out, err = mfcvae("evaluate", "run")
    assert (code, err) == (0, "")
    summary = json.loads((place / "run" / "summary.json").read_text())
    found = re.search(r"ELBO (-?[\d.]+) nats", out)
    assert found is not None
    assert float(found[1]) == pytest.approx(summary["elbo"], rel=0.1)  # except for the draws of z


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    "settings",
    [
        ["likelihood=poisson"],
        pytest.param(["likelihood=negative_binomial", "prior=bayesian", "prior.globals_guide=normal"], marks=slow),
        ["likelihood=categorical", "likelihood.num_categories=9", "training.objective=importance_weighted"],
    ],
    ids=" ".join,
)
def test_tables_of_counts_and_codes_are_fitted(mfcvae: Run, place: Path, settings: list[str]) -> None:
    """Fit with the importance-weighted bound, or with a chosen guide over the global sites; then open the run again."""
    counts = np.random.default_rng(0).integers(0, 9, size=(80, 5))
    lines = ["a,b,c,d,e", *(",".join(map(str, row)) for row in counts)]
    (place / "counts.csv").write_text("\n".join(lines))
    code, _, err = mfcvae("fit", "--data", "counts.csv", "--out", "run", "--set", *TINY, *settings)
    assert (code, err) == (0, "")
    summary = json.loads((place / "run" / "summary.json").read_text())
    # Five uniform counts from 0 to 8 have an evidence of -5 log 9 = -11 nats; a short fit comes near that.
    assert -60 < summary["elbo"] < -5
    assert mfcvae("evaluate", "run")[0] == 0


def test_missing_pixels_from_file_to_figure(mfcvae: Run, place: Path) -> None:
    images = make_images() / 255
    images[np.random.default_rng(1).random(images.shape) < 0.3] = np.nan
    save_data(place / "holes.npz", images)
    settings = [*TINY, "likelihood.missing=true"]
    code, _, err = mfcvae("fit", "--data", "holes.npz", "--out", "run", "--set", *settings)
    assert (code, err) == (0, "")
    assert (place / "run" / "figures" / "clusters.png").is_file()
    code, out, err = mfcvae("evaluate", "run")
    assert (code, err) == (0, "")
    assert "nan" not in out


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    ("how", "finished"),
    [pytest.param((), False, marks=slow), pytest.param(("--together",), False, marks=slow), (("--together",), True)],
)
def test_sweep_compares_seeds(mfcvae: Run, fitted: Path, how: tuple[str, ...], finished: bool) -> None:
    """The sweep trains the seeds, or finds them finished."""
    folder = Path("seeds" if finished else "runs/data-sweep-1")
    args = "--data", "data.npz", "--set", *TINY
    if finished:
        shutil.copytree(fitted, folder / "seed-0")
        assert mfcvae("fit", *args, "seed=1", "--out", str(folder / "seed-1"))[0] == 0
        how = (*how, "--out", str(folder))
    code, out, err = mfcvae("sweep", *args, "--seeds", "2", "--device", "cpu", *how)
    assert (code, err) == (0, "")
    assert {"seed-0", "seed-1", "sweep.json"} == names(folder)
    best = json.loads((folder / "sweep.json").read_text())["best_seed"]
    lines = out.splitlines()[1:]
    assert lines[0].startswith("Training seeds 0 to 1. ") and lines[0].endswith("/seed-N/metrics.jsonl.")
    assert sorted(line.partition(":")[0] for line in lines[1:3]) == ["seed 0", "seed 1"]
    assert "ARI across seeds" in out
    assert f"The seed with the highest ELBO is {best}: {folder}/seed-{best}" in lines
    assert lines[-1] == f"All files of this sweep are in {folder}."
    assert mfcvae("evaluate", str(folder / "seed-1"))[0] == 0


def test_auto_needs_data(mfcvae: Run) -> None:
    code, _, err = mfcvae("fit", "auto")
    assert code == 2
    assert "expected data for the preset auto" in err


def test_minutes_shorten_the_schedule(mfcvae: Run, seen: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.runs.trials.estimate_seconds", lambda *_: 240.0)
    _, out, _ = mfcvae("fit", "--data", "data.npz", *EQUAL, "--minutes", "1")
    assert seen[0].schedule.scale == 0.25
    assert "time: at most about 1.0 minutes of steps on this machine (cpu); the schedule was shortened to 25%" in out
    code, _, err = mfcvae("fit", "--data", "data.npz", *EQUAL, "--minutes", "0")
    assert (code, "expected --minutes above 0, got 0: raise it" in err) == (2, True)
