"""Loads the fixtures wherever tests run."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load `shared_fixtures`, but not where tests are only distributed: importing torch takes five seconds."""
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("shared_fixtures")
