"""Loads the fixtures wherever tests run."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load `shared_fixtures`, but not in the process that only distributes tests: torch would take it five seconds."""
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("shared_fixtures")
