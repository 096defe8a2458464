"""Holds new_env.py to what every environment must stand."""

from environments.checks import check_suite
from environments.sandbox import make_sandbox
from environments.suites import load_suite


def test_new_env() -> None:
    suite = load_suite("new_env:NewEnv", sandbox=make_sandbox)
    assert check_suite(suite, limit=10) == []
