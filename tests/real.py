"""What tests need of the real world: programs and full data sets that may not be here."""

import os
from pathlib import Path
from typing import NoReturn

import pytest


def absent(what: str) -> NoReturn:
    """Something real that a test needs is not here: in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def data_folder() -> Path:
    """The folder with the full data sets: ``INSTAR_DATA``, or the one beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("INSTAR_DATA") or beside)
    if not root.is_dir():
        absent(f"the full data sets are not here ({root}): set INSTAR_DATA")
    return root
