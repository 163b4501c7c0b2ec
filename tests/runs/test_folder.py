import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.checkpoints import save_pair
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.train.step_log import EpochRecord

_FACET = {"num_clusters": 4, "clusters_in_use": 3, "num_groups": 2, "groups": {"accuracy": {}, "nmi": {}, "ari": {}}}
SUMMARY = {
    "data": "shapes",
    "seed": 0,
    "facets": [_FACET, _FACET],
    "elbo": -2.5,
    "epochs": 0,
    "seconds": 1.5,
    "device": "cpu",
}
TINY = override(
    Config(data=DataConfig(source="shapes")), ["networks.encoder_dims=[4, 4]", "networks.decoder_dims=[4, 4]"]
)


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=3 * epoch,
        elbo=-0.1 * epoch,
        reconstruction=-1 / 3,
        kl=[0.0, 1e-17],
        active_clusters=[1, 2],
        alpha=[0.5, 1.0],
        beta=[0.5, 1.0],
        learning_rate=1e-3,
    )


def started(path: Path, num_epochs: int = 0) -> RunFolder:
    run = RunFolder.new(path)
    run.write_config(TINY)
    for epoch in range(1, num_epochs + 1):
        run.append_metrics(record(epoch), seconds=1.23456 * epoch)
    return run


# --- new and old folders --------------------------------------------------------------------------------------------


def test_making_a_new_run_writes_nothing(tmp_path: Path) -> None:
    assert RunFolder.new(tmp_path / "run").path == tmp_path / "run"
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_accepted(tmp_path: Path) -> None:
    assert RunFolder.new(tmp_path).path == tmp_path


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(
        InputError,
        match=r"expected a new or empty folder, got .* with files: choose another --out, or resume with --resume",
    ):
        RunFolder.new(tmp_path)


def test_a_file_is_refused_as_the_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match=r"expected a new or empty folder, got .*run"):
        RunFolder.new(tmp_path / "run")


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_a_configuration_is_refused_as_a_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected a run folder with a config.toml, as mfcvae fit writes, got"):
        RunFolder.open(tmp_path / name)


def test_the_configuration_is_read_as_written(tmp_path: Path) -> None:
    started(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").read_config() == TINY


def test_a_damaged_configuration_is_reported_with_its_path(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.config_path.write_text("data = ")
    with pytest.raises(InputError, match=r"expected valid TOML in .*config.toml"):
        run.read_config()


def test_every_file_lies_in_the_folder_under_its_published_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    paths = (
        run.config_path,
        run.model_path,
        run.checkpoint_path,
        run.metrics_path,
        run.summary_path,
        run.clusters_figure,
        run.curves_figure,
        run.tensorboard_path,
    )
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "config.toml",
        "model.safetensors",
        "checkpoint/training.safetensors",
        "metrics.jsonl",
        "summary.json",
        "figures/clusters.png",
        "figures/curves.png",
        "tensorboard",
    ]


# --- the pair -------------------------------------------------------------------------------------------------------


def test_the_pair_of_a_finished_run_is_loaded(tmp_path: Path) -> None:
    run = started(tmp_path)
    pair = build_pair(TINY, (3, 2, 2))
    save_pair(pair, run.model_path)
    loaded = run.load_pair()
    x = torch.rand(2, 3, 2, 2)
    assert all(torch.equal(a, b) for a, b in zip(loaded.assign(x), pair.assign(x), strict=True))


def test_an_unfinished_run_has_no_pair_yet(tmp_path: Path) -> None:
    run = started(tmp_path)
    with pytest.raises(
        InputError, match=f"expected a finished run, got {tmp_path}: resume it with mfcvae fit --resume "
    ):
        run.load_pair()


# --- metrics and summary --------------------------------------------------------------------------------------------


def test_metrics_are_one_record_per_line(tmp_path: Path) -> None:
    run = started(tmp_path, 2)
    first, second = run.metrics_path.read_text().splitlines()
    assert json.loads(first) == {**asdict(record(1)), "seconds": 1.235}
    assert json.loads(second) == {**asdict(record(2)), "seconds": 2.469}
    assert run.read_metrics() == [json.loads(first), json.loads(second)]


def test_a_run_that_has_not_begun_has_no_metrics(tmp_path: Path) -> None:
    assert started(tmp_path).read_metrics() == []


@pytest.mark.parametrize("num_epochs", [0, 1, 2, 3, 9])
def test_metrics_past_the_checkpoint_are_dropped_and_the_others_left_as_they_are(
    tmp_path: Path, num_epochs: int
) -> None:
    run = started(tmp_path, 3)
    lines = run.metrics_path.read_text().splitlines(keepends=True)
    run.truncate_metrics(num_epochs)
    assert run.metrics_path.read_text() == "".join(lines[:num_epochs])


def test_a_partial_line_of_a_stopped_write_is_dropped(tmp_path: Path) -> None:
    run = started(tmp_path, 2)
    whole = run.metrics_path.read_text()
    with run.metrics_path.open("a") as file:
        file.write('{"epoch": 3, "st')
    run.truncate_metrics(2)
    assert run.metrics_path.read_text() == whole
    run.append_metrics(record(3), seconds=4)
    assert [r["epoch"] for r in run.read_metrics()] == [1, 2, 3]


def test_metrics_of_a_run_that_has_not_begun_are_an_empty_file(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.truncate_metrics(0)
    assert run.metrics_path.read_text() == ""


def test_the_summary_is_replaced(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.write_summary({**SUMMARY, "elbo": 1.0})
    run.write_summary(SUMMARY)
    assert run.read_summary() == SUMMARY


@pytest.mark.parametrize("name", sorted(SUMMARY))
@pytest.mark.parametrize("value", [None, "7.5", [], ["x"]])
def test_a_summary_with_other_fields_is_refused(tmp_path: Path, name: str, value: object) -> None:
    run = started(tmp_path)
    run.write_summary(SUMMARY | {name: value})
    if value == SUMMARY[name]:
        assert run.read_summary() == SUMMARY
        return
    if isinstance(value, str) and isinstance(SUMMARY[name], str):
        return
    with pytest.raises(InputError, match=r"expected the results of this run in .*summary.json, got other fields"):
        run.read_summary()


def test_scores_are_of_the_same_labels(tmp_path: Path) -> None:
    run = started(tmp_path)
    scores = {"accuracy": {"side": 1.0}, "nmi": {}, "ari": {}}
    run.write_summary({**SUMMARY, "facets": [_FACET, {**_FACET, "groups": scores}]})
    with pytest.raises(InputError, match="got other fields or facets"):
        run.read_summary()


def test_lines_that_are_not_records_are_left_out_of_the_metrics(tmp_path: Path) -> None:
    run = started(tmp_path)
    lines: list[dict[str, object]] = [asdict(record(epoch)) | {"seconds": 1.0} for epoch in range(1, 9)]
    lines[0]["elbo"], lines[1]["kl"], lines[2] = "high", None, {"epoch": 3, "elbo": 1.0, "seconds": 2.0}
    lines[3]["seconds"], lines[4]["reconstruction"], lines[5]["beta"] = "2", float("inf"), [1.0] * 9
    lines[6]["alpha"] = [float("nan")] * len(record(1).alpha)
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [r["epoch"] for r in run.read_metrics()] == [8]
