import json
import re
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from shlex import quote

import matplotlib
import matplotlib.pyplot
import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import TINY, Run, make_images, names, save_data

from pyro_mfcvae.checks.criticism import KINDS, Criticism, criticise
from pyro_mfcvae.draws.arviz_data import load_inference_data, values
from pyro_mfcvae.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("fitted")
SMALL = ("--items", "100", "--draws", "30")


@pytest.fixture
def without_figures(without_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither fits nor checks draw figures."""
    monkeypatch.setattr(Criticism, "figures", lambda self: {})


@pytest.fixture
def quick(without_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks write neither figures nor NetCDF, which take most of their time."""
    monkeypatch.setattr("pyro_mfcvae.draws.arviz_data.save_inference_data", lambda *_: None)


def test_check_writes_figures_numbers_and_draws(mfcvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.plots.save_figure", lambda _, path: path.touch())  # saving is tested elsewhere
    code, out, err = mfcvae("check", "run", *SMALL)
    assert (code, err) == (0, "")
    kinds = {f"{kind.name}.png" for kind in KINDS if kind.name != "overfitting"}  # all items were training items
    assert names(Path("run/checks")) == kinds | {"posterior.nc", "checks.json", "items.parquet"}
    text = Path("run/checks/checks.json").read_text()
    record = json.loads(text)
    for entry in record["checks"]:
        facet = "all" if entry["facet"] is None else str(entry["facet"])
        verdict = f"({entry['verdict']})" if entry["set_aside"] else entry["verdict"]
        row = rf"^{re.escape(verdict)} +{facet} +{re.escape(entry['name'])} +{entry['value']:.3f} "
        assert re.search(row, out, re.MULTILINE), row
    flat = " ".join(out.split())
    for sentence in record["sentences"]:
        assert " ".join(sentence.split()) in flat
    for suggestion in record["suggestions"]:
        assert f"--set {quote(suggestion['setting'])}" in flat
    settings = asdict(RunFolder.open(Path("run")).read_config())
    again = criticise(load_inference_data(Path("run/checks/posterior.nc")), settings=settings)
    assert again.to_json() == text
    assert "80 items of data, 30 draws each: " in out


def test_items_have_a_row_each(mfcvae: Run, quick: None) -> None:
    assert mfcvae("check", "run", *SMALL)[0] == 0
    table = pq.read_table("run/checks/items.parquet").to_pydict()
    assert sorted(table["item"]) == list(range(80))
    assert {"k_hat", "ess", "trusted", "evidence", "cluster_0", "group_1", "confidence_1"} <= table.keys()


def test_a_sweep_points_to_its_runs(mfcvae: Run) -> None:
    shutil.copytree("run", "sweep/seed-0")
    Path("sweep/sweep.json").write_text("{}")
    code, _, err = mfcvae("check", "sweep", *SMALL)
    assert (code, err) == (
        2,
        "mfcvae: expected the folder of one run, got the sweep sweep: check one of its runs (sweep/seed-0 …)\n",
    )


def test_sizes_follow_the_minutes(mfcvae: Run, quick: None) -> None:
    code, out, err = mfcvae("check", "run", "--minutes", "0.01")
    assert (code, err) == (0, "")
    assert re.search(r"80 items of data, \d+ draws each", out)
    assert mfcvae("check", "run", "--minutes", "0")[2].startswith("mfcvae: expected --minutes above 0, got 0.0")


def test_check_on_other_data_compares_with_the_training_items(mfcvae: Run, quick: None) -> None:
    save_data(Path("other.npz"), make_images(150))
    code, out, err = mfcvae("check", "run", "--data", "other.npz", *SMALL)
    assert (code, err) == (0, "")
    assert "100 items of other, 30 draws each: " in out
    assert re.search(r"^\w+ +all +overfitting ", out, re.MULTILINE)


@pytest.mark.slow
def test_check_uses_custom_statistics(mfcvae: Run, without_figures: None) -> None:
    code, out, err = mfcvae("check", "run", "--statistic", "parts_of_a_user.darkest", *SMALL)
    assert (code, err) == (0, "")
    assert re.search(r"^\w+ +all +replicated darkest ", out, re.MULTILINE)
    data = load_inference_data(Path("run/checks/posterior.nc"))
    images = values(data, "observed_data", "x")
    np.testing.assert_array_equal(values(data, "observed_data", "darkest"), images.min((-1, -2, -3)))
    assert values(data, "posterior_predictive", "darkest").shape == (30, 80)
    assert "darkest" in data["prior_predictive"].data_vars


def test_check_knows_the_other_runs_of_a_sweep(mfcvae: Run, quick: None) -> None:
    for seed in (0, 1):
        shutil.copytree("run", f"sweep/seed-{seed}")
    Path("sweep/sweep.json").write_text("{}")
    assert mfcvae("check", "sweep/seed-0", *SMALL)[0] == 0
    records = json.loads(Path("sweep/seed-0/checks/checks.json").read_text())["checks"]
    agreement = [record["details"]["ari"] for record in records if record["name"] == "other seeds"]
    assert agreement == [1.0] * len(agreement) and agreement  # the runs are copies
    assert mfcvae("check", "run", "--sweep", "empty", *SMALL)[::2] == (
        2,
        "mfcvae: expected finished runs seed-0, seed-1 … in empty, but there are none besides run\n",
    )


def test_other_runs_must_be_of_the_runs_kind(mfcvae: Run, without_figures: None) -> None:
    shutil.copytree("run", "sweep/seed-0")
    one = ["facets.num_clusters=[4]", "facets.latent_dim=[2]", "networks.encoder_dims=[8]", "networks.decoder_dims=[8]"]
    one.append("training.epochs=4")
    assert mfcvae("fit", "--data", "data.npz", "--out", "sweep/seed-1", "--set", *TINY, *one)[0] == 0
    assert mfcvae("check", "run", "--sweep", "sweep", *SMALL)[::2] == (
        2,
        "mfcvae: expected runs of 2 facets on items of shape (1, 6, 6) in sweep, got seed-1 of 1 on (1, 6, 6): give "
        "the sweep that holds the run\n",
    )


@pytest.mark.parametrize("args", [["check", "run"], ["compare", "run", "same"]])
def test_missing_pixels_are_refused_if_the_model_expects_none(mfcvae: Run, args: list[str]) -> None:
    images = make_images(120) / 255
    images[7, 2, 3] = np.nan
    save_data(Path("data.npz"), images)
    shutil.copytree("run", "same")
    code, _, err = mfcvae(*args, *SMALL)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("mfcvae: expected no missing pixels, got NaN for 1 of the values")


@pytest.mark.parametrize("suffix", ["npz", pytest.param("npy", marks=pytest.mark.slow)])
def test_items_that_trained_are_not_held_out(mfcvae: Run, quick: None, suffix: str) -> None:
    """Some values are missing; of the 10,050 items of the .npy file, all train and 10,000 are scored."""
    images = (make_images(10_050 if suffix == "npy" else 100) / 255).astype(np.float32)
    images[::7, 2, 3] = np.nan
    if suffix == "npz":
        save_data(Path("many.npz"), images)
    else:
        np.save("many.npy", images)
    settings = [*TINY, "likelihood.missing=true", f"training.batch_size={len(images) // 4}"]
    assert mfcvae("fit", "--data", f"many.{suffix}", "--out", "many", "--set", *settings)[0] == 0
    code, out, err = mfcvae("check", "many", *SMALL)
    assert (code, err) == (0, "")
    assert not re.search(r"^\w+ +all +(overfitting|outliers) ", out, re.MULTILINE)


@pytest.mark.slow
def test_the_page_of_the_docs_runs_as_printed(
    mfcvae: Run, without_figures: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    verdicts, statistics, in_arviz = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^    mfcvae (check .*my_statistics.*)$", page, re.MULTILINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_statistics.py").write_text(statistics)
    for name in ("shapes-1", "shapes-2"):
        shutil.copytree("run", f"runs/{name}")
        assert mfcvae(*command.replace("shapes-1", name).split(), *SMALL)[::2] == (0, "")
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ itself
        exec(verdicts + in_arviz, {})
        matplotlib.pyplot.close("all")
    out = capsys.readouterr().out
    assert "replicated top_heaviness None" in out  # the verdicts
    assert "elpd_diff" in out and "z_0[0, 1]" in out


def test_compare_ranks_runs(mfcvae: Run, without_figures: None) -> None:
    assert mfcvae("fit", "--data", "data.npz", "--out", "other", "--set", *TINY, "seed=1")[0] == 0
    code, out, err = mfcvae("compare", "run", "other", *SMALL, "--out", "here")
    assert (code, err) == (0, "")
    rows = json.loads(Path("here/comparison.json").read_text())
    assert {row["name"] for row in rows} == {"run", "other"} and [row["rank"] for row in rows] == [1, 2]
    for row in rows:
        assert re.search(rf"^{row['rank']} +{row['name']} +{row['evidence']:.3f} ± ", out, re.MULTILINE)
    assert names(Path("here")) == {"comparison.json", "comparison.png"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["check", "run", "--items", "99"],
            "expected --items 100 or more, got 99: fewer items give the checks no power",
        ),
        (
            ["check", "run", "--draws", "5"],
            "expected --draws 30 or more, the fewest for a k-hat, got 5: take more",
        ),
        (
            ["check", "run", "--statistic", "parts_of_a_user.per_channel"],
            "expected a number per item from the statistic 'per_channel', shape (2, 3) for (2, 3, 1, 6, 6), got shape "
            "(2, 3, 1): reduce only the last 3 dimensions",
        ),
        (
            ["check", "run", "--statistic", "math.sin"],
            "expected a statistic 'sin' of tensors of shape (2, 3, 1, 6, 6), got ",
        ),
        (["check", "run", "--seed", "-1"], "expected a seed from 0 to 2**32 - 1, got -1"),
        (["check", "run", "--statistic", "none.of_it"], "expected an installed module, or one in "),
        (["check", "run", "--statistic", "darkest"], "expected an import path such as my_module.MyPart, got"),
        (
            ["check", "run", "--statistic", "math.sin", "--statistic", "cmath.sin"],
            "expected statistics with different names, got math.sin cmath.sin",
        ),
        (["check", "none"], "expected a run folder with a config.toml, as mfcvae fit writes, got none: check the path"),
        (["compare", "run"], "expected two or more different runs to compare, got run"),
        (["compare", "run", "run"], "expected two or more different runs to compare, got run run"),
        (["compare", "run", "x", "--draws", "3"], "expected --draws 30 or more"),
    ],
)
def test_mistakes_are_one_line(mfcvae: Run, args: list[str], message: str) -> None:
    code, _, err = mfcvae(*args)
    assert code == 2
    assert err.startswith(f"mfcvae: {message}") and err.count("\n") == 1


def test_data_and_likelihoods_must_fit(mfcvae: Run) -> None:
    save_data(Path("wide.npz"), make_images(100, size=8))
    code, _, err = mfcvae("check", "run", "--data", "wide.npz", *SMALL)
    assert (code, err.count("\n")) == (2, 1)
    assert "of shape (1, 6, 6), which the run was trained on, got (1, 8, 8) in wide: choose data of that shape" in err
    shutil.copytree("run", "bernoulli")
    config = Path("bernoulli/config.toml")
    bernoulli = '[likelihood]\nkind = "bernoulli"\n\n[networks]'
    config.write_text(re.sub(r"\[likelihood\].*?\[networks\]", bernoulli, config.read_text(), flags=re.DOTALL))
    code, _, err = mfcvae("compare", "run", "bernoulli", *SMALL)
    assert code == 2
    assert (
        "expected likelihoods of one kind, got a density and bernoulli: densities and probabilities of x cannot be"
        in err
    )
