"""The environment that ``instar new-env`` writes: a small one that works, to be replaced."""

from __future__ import annotations

import importlib.util
import keyword
from pathlib import Path

from environments.base import SuiteError

FILES = ("new_env.py", "new_env_tasks.jsonl", "test_new_env.py")


def class_name(name: str) -> str:
    """``my_shop`` to ``MyShop``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def write_template(name: str, folder: Path) -> list[Path]:
    """Write a new environment, its tasks and its test.

    Args:
        name: of its module; the class is named after it.
        folder: where to, made if it is not there.

    Returns:
        The files.

    Raises:
        SuiteError: the name is no name for a module, or is taken.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or not class_name(name).isidentifier():
        raise SuiteError(f"{name!r} is no name for a Python module; take one such as my_shop")
    targets = {folder / source.replace("new_env", name): source for source in FILES}
    there = [str(path) for path in targets if path.exists()]
    if there:
        raise SuiteError(f"{', '.join(there)}: there already; take another name or folder")
    if importlib.util.find_spec(name) is not None:
        raise SuiteError(f"there is a Python module {name!r} already; take another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, source in targets.items():
            text = (Path(__file__).parent / source).read_text(encoding="utf-8")
            text = text.replace("new_env", name).replace("NewEnv", class_name(name))
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise SuiteError(f"{error.filename}: cannot be written: {error.strerror}") from None
    return list(targets)
