"""Where a suite's data files lie: named by the user, or below ``INSTAR_DATA``."""

from __future__ import annotations

import os
from pathlib import Path

from environments.base import SuiteError


def data_path(suite: str, given: str | None, folder: str, source: str) -> Path:
    """The file or folder that holds a suite's data.

    Args:
        suite: the suite's name, for the message.
        given: what the user named (the suite's option ``data``), or None.
        folder: its name below the folder in the environment variable ``INSTAR_DATA``.
        source: where it can be downloaded, for the message.

    Raises:
        SuiteError: nothing is there.
    """
    if given is not None:
        if not Path(given).exists():
            raise SuiteError(f"suite {suite}: data={given}: no such file or folder")
        return Path(given)
    root = os.environ.get("INSTAR_DATA")
    if root and (Path(root) / folder).exists():
        return Path(root) / folder
    looked = f"{root} has no {folder}" if root else "INSTAR_DATA is not set"
    raise SuiteError(
        f"suite {suite}: its data is missing ({looked}): download {source}, then set "
        f"suite.options.data=PATH, or INSTAR_DATA to the folder that holds {folder}"
    )
