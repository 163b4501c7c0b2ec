"""Data that one version of ArviZ wrote are read with the other: 0.23 is for Python 3.11, 1.x for 3.12 and later."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exact_mixture import exact_mixture_data

import pyro_mfcvae
from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.draws.arviz_data import load_inference_data, save_inference_data

OTHERS = ("3.11",) if sys.version_info >= (3, 12) else ("3.14", "3.13", "3.12")

# The program does everything except the draws. It avoids the package's __init__, which would import torch, because a
# second installation of torch takes gigabytes.
PROGRAM = """
import sys
from pathlib import Path
from types import ModuleType
import warnings

package = ModuleType("pyro_mfcvae")
package.__path__ = [sys.argv[1]]
sys.modules["pyro_mfcvae"] = package

import matplotlib
matplotlib.use("agg")
warnings.simplefilter("ignore")
import arviz
from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.draws.arviz_data import load_inference_data, save_inference_data, to_elpd

data = load_inference_data(Path("here.nc"))
checks = criticise(data)
Path("there.json").write_text(checks.to_json())
checks.figures()
arviz.loo(data)
arviz.compare({"one": data, "same": data})
arviz.plot_trace(data, var_names=["z_0"], coords={"item": [0]})
if hasattr(arviz, "plot_ppc"):
    arviz.plot_ppc(data, var_names=["mean"], num_pp_samples=5)
    data.to_dataframe(groups=["sample_stats"])
else:
    arviz.plot_ppc_dist(data, var_names=["mean"])
    data["sample_stats"].to_dataset().to_dataframe()
elpd = to_elpd(data)
arviz.plot_khat(elpd)
arviz.plot_compare(arviz.compare({"one": elpd, "same": elpd}))
arviz.summary(data, var_names=["z_0"], coords={"item": [0]}, kind="stats")
save_inference_data(data, Path("there.nc"))
print(arviz.__version__.split(".")[0])
"""


def other_python() -> str:
    """A Python interpreter that the other ArviZ supports, from the search path or from pyenv."""
    for version in OTHERS:
        if found := shutil.which(f"python{version}"):
            works = subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0
            if works:  # pyenv has a shim there for versions that are installed but not active
                return found
        for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
            return str(path)
    pytest.skip(f"there is no Python {' or '.join(OTHERS)}, for the other ArviZ")


@pytest.mark.slow
def test_the_other_arviz_reads_our_file_and_gives_the_same_verdicts(tmp_path: Path) -> None:
    here = exact_mixture_data(shift=1.0)
    save_inference_data(here, tmp_path / "here.nc")
    subprocess.run([other_python(), "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = "arviz<1" if "3.11" in OTHERS else "arviz>=1"
    needs = [wanted, "h5netcdf>=1.3", "h5py>=3.12", "scikit-learn>=1.6", "scipy>=1.14", "matplotlib>=3.9"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *needs], check=True)
    ran = subprocess.run(
        [python, "-c", PROGRAM, Path(pyro_mfcvae.__file__).parent], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == ("0" if "3.11" in OTHERS else "1")
    ours, theirs = (
        json.loads(text)["checks"] for text in (criticise(here).to_json(), (tmp_path / "there.json").read_text())
    )
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("name", "facet", "verdict"):
            assert mine[key] == other[key], mine["name"]
        assert mine["value"] == pytest.approx(other["value"], rel=1e-6, abs=1e-9), mine["name"]
    back = load_inference_data(tmp_path / "there.nc")
    for group in ("posterior", "sample_stats", "sample_stats_prior", "observed_data", "constant_data"):
        for name, array in here[group].data_vars.items():
            np.testing.assert_array_equal(back[group][name].values, array.values)
