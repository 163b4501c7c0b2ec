"""After a user's mistake, the command line prints one line that says what to do, exits with code 2, and writes
nothing.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, Run, make_images, names, save_data

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope"], "expected a preset out of .*shapes.*, got 'nope': choose one of them"),
        (["--data", "nope"], "expected a data set .* or the path of an .*, got 'nope', which is not there.*"),
        (["--data", "missing.npz"], "expected a data set .*, got 'missing.npz', .*"),
        (["--data", "text.txt"], r"expected an \.npz or .* file or a folder of images, got text.txt; .*"),
        (["--data", "broken.npz"], r"expected an \.npz file as np\.savez writes it, but broken.npz is not one; .*"),
        (["--data", "nan.npz", "--set", *TINY], "expected no missing pixels, got NaN for 1 of the .* image 3: .*"),
        (["--data", "range.npz"], r"range.npz, array 'images': expected float pixels in \[0, 1\], .* 0 to 2; .*"),
        (["--data", "data.npz", "--set", "training.epoch=3"], "unknown setting 'training.epoch': did you mean .*"),
        (["--data", "data.npz", "--set", "training.epochs"], "expected a setting such as training.epochs=5, got .*"),
        (
            ["--data", "data.npz", "--set", "seed=1", "nope"],
            "expected a setting such as training.epochs=5, got 'nope'.*",
        ),
        (["--data", "data.npz", "--set", "training.learning_rate=-1"], "--set: training.learning_rate: .*, got -1"),
        (["--data", "data.npz", "--set", "prior.covariance=round"], "--set: prior.options.covariance: .*, got 'round'"),
        (
            ["--data", "data.npz", "--set", "training.epochs=[1, 2, 3]"],
            ".*expected .* values in training.epochs, .* give one per facet",
        ),
        (
            ["shapes", "--data", "data.npz", "--set", "facets.num_clusters=[3]"],
            ".*expected .* values in facets.latent_dim, .* give one per facet",
        ),
        (
            ["--data", "data.npz", "--set", *TINY, "facets.num_clusters=[4, 90]"],
            "expected at least 90 items for the clusters of facet 1, got .*",
        ),
        (
            ["shapes", "--data", "data.npz", "--set", "training.batch_size=80", "training.epochs=3"],
            "expected warmup_steps below the .* steps of its stage, got 200: .*",
        ),
        (
            ["--data", "data.npz", "--device", "abacus", "--set", *TINY],
            "expected a device to compute on, got 'abacus': .*",
        ),
        (
            ["mnist"],
            "expected a folder of data, got neither MFCVAE_DATA nor root: set MFCVAE_DATA to the folder that holds "
            "MNIST/raw, .*",
        ),
        (["mnist", "--root", "nowhere"], "expected MNIST/raw in nowhere, found none; .*"),
        (
            ["--data", "data.npz", "--set", "data=shapes"],
            "expected the data once, got them as --data and as --set data.*",
        ),
        (
            ["--data", "data.npz", "--set", "facets.num_clusters=5"],
            ".*num_clusters: expected a list .*, got 5",
        ),
        (
            ["--data", "data.npz", "--set", "prior.options.x=1"],
            ".*unknown setting 'prior.options.x' of prior.kind = 'gaussian', .*",
        ),
        (
            ["--data", "data.npz", "--set", "supervision.facet=1"],
            ".*expected no facet without supervision.label, got 1: leave it out",
        ),
        (["--data", "data.npz", "--out", "text.txt/x", "--set", *TINY], "cannot use .*text.txt.*: not a directory"),
        (["--resume"], "expected --resume with --out DIR and no settings, got others: give only these two"),
        (["--resume", "--out", "run", "--set", "seed=1"], "expected --resume with --out DIR and no settings, .*"),
        (["mnist", "--resume", "--out", "run"], "expected --resume with --out DIR and no settings, .*"),
        (
            ["--resume", "--out", "run"],
            "expected a run folder with a config.toml, as mfcvae fit writes, got run: check the path",
        ),
        (["--resume", "--out", "full"], "expected a run folder with a config.toml, .*, got full: .*"),
        (
            ["--data", "data.npz", "--out", "full"],
            "expected a new or empty folder, got full with files: choose another --out, .*",
        ),
        (
            ["--data", "data.npz", "--out", "text.txt"],
            "expected a new or empty folder, got text.txt.*: choose another .*",
        ),
    ],
)
def test_a_wrong_fit_is_reported_and_writes_nothing(mfcvae: Run, place: Path, args: list[str], message: str) -> None:
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
    assert re.fullmatch(f"mfcvae: {message}\n", err)
    assert sorted(place.rglob("*")) == before


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "expected a run folder with a config.toml, as mfcvae fit writes, got nowhere: .*"),
        (["run", "--data", "nope"], "expected a data set .*, got 'nope', .*"),
        (
            ["run", "--data", "large.npz"],
            r"expected items of shape \(1, 6, 6\), which the run was trained on, got \(1, 7, 7\) in large: choose .*",
        ),
        (["cut"], "expected a file of tensors, got cut/model.safetensors, which cannot be read .*"),
        (["changed"], "expected changed/model.safetensors of the settings in config.toml beside it .*"),
        (["gone"], "expected a data set .*, got '.*gone.npz', .*"),
    ],
)
def test_a_wrong_evaluation_is_reported_in_one_line(mfcvae: Run, place: Path, args: list[str], message: str) -> None:
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
    assert re.fullmatch(f"mfcvae: {message}\n", err)


@pytest.mark.usefixtures("fitted")
def test_a_damaged_checkpoint_is_reported_in_one_line(mfcvae: Run) -> None:
    for name in ("training", "previous"):
        checkpoint = Path(f"run/checkpoint/{name}.safetensors")
        checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    code, _, err = mfcvae("fit", "--resume", "--out", "run")
    assert code == 2
    assert re.fullmatch(r"mfcvae: expected a file of tensors, got run/checkpoint/training.safetensors, .*\n", err)


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


def test_a_wrong_sweep_is_reported(mfcvae: Run) -> None:
    for args, message in (
        (["--seeds", "0"], "expected --seeds and --workers of 1 or more, got 0 and None"),
        (["--data", "nope"], "expected a data set (shapes, "),
        (["--seed", "3"], "expected no setting seed, since the seeds of a sweep count from 0"),
        (["--set", "seed=3"], "expected no setting seed, since the seeds of a sweep count from 0"),
    ):
        code, _, err = mfcvae("sweep", *args)
        assert code == 2
        assert err.startswith(f"mfcvae: {message}")
        assert err.count("\n") == 1


@pytest.mark.slow
def test_a_sweep_whose_seed_fails_is_reported(mfcvae: Run) -> None:
    code, _, err = mfcvae(
        *("sweep", "--seeds", "1", "--data", "data.npz", "--set", *TINY, "facets.num_clusters=[4, 90]")
    )
    assert code == 2
    assert err.startswith("mfcvae: seed 0 failed: expected at least 90 items for the clusters of facet 1")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--clusters", "0"], r"expected a cluster such as 0=3 \(facet 0, cluster 3\), got '0': write FACET=CLUSTER"),
        (["--clusters", "0=1", "0=2"], "expected one cluster of every facet, got two of facet 0: give them one by one"),
        (["--seed", "-1"], r"expected a seed from 0 to 2\*\*32 - 1, got -1"),
        (["--clusters", "0=9"], "expected a cluster of facet 0 from 0 to 3, got 9: choose one of them"),
        (
            ["--groups", "0=" + "9" * 5_000],
            r"expected a group such as 0=3 \(facet 0, group 3\), got '0=9{48}': write FACET=GROUP",
        ),
        (["--num", "0"], "expected --num from 1 to 1000, got 0: draw fewer images at a time"),
        (["--num", "2000000000"], "expected --num from 1 to 1000, got 2000000000: draw fewer images at a time"),
        (["--temperature", "-1"], "expected a temperature from 0 to 1e6, got -1.0: pass 1 for the prior itself"),
        (["--temperature", "1e308"], "expected a temperature from 0 to 1e6, got 1e[+]308: pass 1 for the prior itself"),
    ],
)
def test_a_wrong_sample_is_reported(mfcvae: Run, args: list[str], message: str) -> None:
    code, _, err = mfcvae("sample", "run", *args)
    assert code == 2
    assert re.fullmatch(f"mfcvae: {message}\n", err)


@pytest.mark.usefixtures("fitted")
def test_a_sweep_does_not_go_into_a_single_runs_folder(mfcvae: Run) -> None:
    code, _, err = mfcvae("sweep", "--data", "data.npz", "--out", "run", "--set", *TINY)
    assert (code, err) == (2, "mfcvae: expected a folder of a sweep, got run with a single run: choose another --out\n")


@pytest.mark.usefixtures("fitted")
def test_a_trained_run_without_checkpoint_is_not_started_again(mfcvae: Run) -> None:
    kept = [Path("run", name) for name in ("model.safetensors", "metrics.jsonl", "summary.json")]
    before = [path.read_bytes() for path in kept]
    for checkpoint in Path("run/checkpoint").iterdir():
        checkpoint.unlink()
    code, _, err = mfcvae("fit", "--resume", "--out", "run")
    assert code == 2
    assert err.startswith(
        "mfcvae: expected the checkpoint run/checkpoint/training.safetensors of a run with finished epochs, got none: "
    )
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.usefixtures("fitted")
def test_a_damaged_configuration_is_reported(mfcvae: Run) -> None:
    Path("run/config.toml").write_bytes(b'description = "caf\xe9"')
    code, _, err = mfcvae("fit", "--resume", "--out", "run")
    assert code == 2
    assert re.fullmatch(r"mfcvae: expected text in UTF-8 in run/config.toml, got other bytes \(.*\n", err)


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("content", [b"garb{\n" * 4, b"\xff\xfe\n" * 4, b""])
def test_damaged_metrics_do_not_keep_a_run_from_its_end(mfcvae: Run, content: bytes) -> None:
    before = Path("run/model.safetensors").read_bytes()
    Path("run/metrics.jsonl").write_bytes(content)
    code, _, _ = mfcvae("fit", "--resume", "--out", "run")
    assert code == 0
    assert Path("run/model.safetensors").read_bytes() == before


def test_a_linear_start_that_diverges_is_reported(mfcvae: Run) -> None:
    settings = [*TINY, "training.epochs=40", "training.learning_rate=1e30"]
    code, _, err = mfcvae("fit", "--data", "data.npz", "--set", *settings)
    assert code == 2
    assert re.fullmatch(
        r"mfcvae: .* after step 0, training has diverged: lower training.learning_rate, raise .*\n", err
    )


def test_a_training_that_diverges_in_the_last_step_of_an_epoch_is_reported(mfcvae: Run) -> None:
    """The ELBO of a step is computed before the step changes the parameters, so it is still finite."""
    settings = [*TINY, "mixture_fit.warmup_steps=0", "training.batch_size=80", "training.learning_rate=1e30"]
    code, _, err = mfcvae("fit", "--data", "data.npz", "--set", *settings, "schedule.fade_in_steps=1")
    assert code == 2
    assert re.fullmatch(r"mfcvae: .* training has diverged: lower training.learning_rate, raise .*\n", err)
