"""Loads the fixtures in processes that run tests."""

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load `shared_fixtures`, except in a process that only distributes tests, because importing torch takes five
    seconds.
    """
    # SIGINT is ignored in background commands of a shell, and SIGHUP under nohup. Tests send both, also to child
    # processes.
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("shared_fixtures")
