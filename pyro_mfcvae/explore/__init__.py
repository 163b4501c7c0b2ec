"""The explorer, which shows a run's facets, groups and items in the browser. It needs the extra `explore`."""

from importlib.util import find_spec

from pyro_mfcvae.errors import InputError

_NEEDED = ("starlette", "uvicorn", "jinja2", "python_multipart")


def check_installed() -> None:
    """Raise an error of one line if the extra is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"expected {', '.join(missing)} to be installed, got none: run pip install 'pyro-mfcvae[explore]'"
        )
