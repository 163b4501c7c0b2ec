"""Loads the fixtures wherever tests run."""

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load `shared_fixtures`, but not where tests are only distributed: importing torch takes five seconds."""
    # A shell ignores SIGINT in commands of its background, and nohup SIGHUP. Tests send both, to child processes too.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("shared_fixtures")
