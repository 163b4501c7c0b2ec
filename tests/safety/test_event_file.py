from pathlib import Path

import pytest
from full_disks import full_disk

from pyro_mfcvae.safety.event_file import EventFile

pytest.importorskip("tensorboard", reason="tensorboard, of the extra 'log', is not installed")


def test_nothing_is_written_before_it_is_saved(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "events", step=0)
    file.log_metrics({"elbo": -1.5}, 3)
    assert not (tmp_path / "events").exists()
    file.save()
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_a_full_disk_is_an_error_of_the_caller_that_names_the_file(tmp_path: Path) -> None:
    file = EventFile(tmp_path, step=0)
    file.log_metrics({"elbo": -1.5}, 3)
    with full_disk(10), pytest.raises(OSError, match="File too large") as caught:
        file.save()
    assert Path(caught.value.filename).parent == tmp_path
