"""Loads the fixtures wherever tests run."""

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load `shared_fixtures`, but not where tests are only distributed: importing torch takes five seconds."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; tests send it, to child processes as well
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("shared_fixtures")
