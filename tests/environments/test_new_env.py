"""`instar new-env` and `instar check`, as a new user has them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import environments
from environments.base import SuiteError
from environments.checks import check_suite
from environments.sandbox import make_sandbox
from environments.splits import split_tasks
from environments.suites import load_suite
from environments.template import class_name, write_template

ROOT = Path(environments.__file__).parents[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-B", "-m", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def instar(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "agent.cli", *arguments)


def test_what_is_written_passes_as_it_is(tmp_path: Path) -> None:
    done = instar(tmp_path, "new-env", "my_shop")
    assert done.returncode == 0, done.stderr
    assert "instar check my_shop:MyShop" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "my_shop.py", "my_shop_tasks.jsonl", "test_my_shop.py"
    }  # fmt: skip
    assert "new_env" not in (tmp_path / "my_shop.py").read_text()

    done = instar(tmp_path, "check", "my_shop:MyShop", "--limit", "3")
    assert done.returncode == 0 and "all is well" in done.stdout, done.stdout + done.stderr
    assert "tasks: 100 tasks in 2 families, 3 of them played" in done.stdout

    done = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout

    again = instar(tmp_path, "new-env", "my_shop")
    assert again.returncode == 2
    assert again.stderr.startswith(
        "instar: my_shop.py, my_shop_tasks.jsonl, test_my_shop.py: there"
    )


def test_a_check_that_finds_something(tmp_path: Path) -> None:
    instar(tmp_path, "new-env", "shop", "--dir", "sub")
    path = tmp_path / "sub" / "shop.py"
    path.write_text(path.read_text().replace("return float(", "return 0.5 * float("))
    done = instar(path.parent, "check", "shop:Shop", "--limit", "2", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert any("the gold solution earns 0.5, not 1" in problem for problem in found["problems"])
    done = instar(path.parent, "check", "shop:Shop", "--limit", "2")
    assert done.returncode == 1 and "PROBLEM Task " in done.stdout


def test_what_an_environment_prints_is_no_part_of_the_report(tmp_path: Path) -> None:
    instar(tmp_path, "new-env", "shop")
    path = tmp_path / "shop.py"
    printing = (
        'print("looking"); __import__("os").system("echo around")\n        if not self._of(kind)'
    )
    path.write_text(path.read_text().replace("if not self._of(kind)", printing))
    done = instar(tmp_path, "check", "shop:Shop", "--limit", "1", "--json")
    assert json.loads(done.stdout)["ok"] and done.returncode == 0
    assert "looking" in done.stderr and "around" in done.stderr


BOXED = """
class Boxed:
    '''Run code.'''
    tasks = [{"question": "What is 1 + 1?"}]
    prompt = "question"
    def __init__(self, size: int = 1):
        if size != 3:
            raise RuntimeError(f"size {size}")
    def reset(self, question: str, sandbox):
        self.sandbox, self.out = sandbox, ""
        if sandbox._limits.wall_s != 9:
            raise RuntimeError(f"wall_s {sandbox._limits.wall_s}")
    def run(self, code: str) -> None:
        '''Run it.'''
    def reward(self) -> float:
        return 0.0
"""


def test_options_and_the_sandbox_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "boxed.py").write_text(BOXED)
    words = ("check", "boxed:Boxed", "suite.options.size=3", "sandbox.options={warm: false}")
    done = instar(tmp_path, *words, "sandbox.limits.wall_s=9")
    assert done.returncode == 0 and "all is well" in done.stdout, done.stdout + done.stderr
    done = instar(tmp_path, *words)
    assert done.returncode == 1 and "wall_s 5" in done.stdout


def test_a_check_without_a_sandbox_says_so(tmp_path: Path) -> None:
    instar(tmp_path, "new-env", "shop")
    words = ("check", "shop:Shop", "--limit", "1", "sandbox.backend=none")
    done = instar(tmp_path, *words, "--i-know-this-is-unsafe")
    assert done.returncode == 0 and "no sandbox: what the model writes runs on" in done.stdout
    done = instar(tmp_path, *words, "--i-know-this-is-unsafe", "--json")
    assert json.loads(done.stdout)["sandbox"] == "none"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("check", "reasoning-gym", "sandbox.backend=none"), "runs what a model wrote with all"),
        (("check", "reasoning-gym", "sandbox.backend=box"), "unknown sandbox 'box'; choose one"),
        (("check", "reasoning-gym", "sandbox.backends=none"), "did you mean backend?"),
        (("check", "reasoning-gym", "sandbox.options={a: 1}"), "bubblewrap has no option 'a'"),
        (("check", "reasoning-gym", "sandbox.options={pool: x}"), "option pool is 'x': Input"),
        (("check", "reasoning-gym", "suite.options.per_family=x"), 'option per_family is "x"'),
        (("check", "nowhere:Shop"), "cannot import 'nowhere'"),
        (("check", "reasoning-gym", "per_family"), "'per_family' is no option of the suite; write"),
        (("check", "reasoning-gym", "per_family=x"), 'option per_family is "x"'),
        (("check", "reasoning-gym", "per_family=[1"), "the value cannot be read as YAML"),
        (("evolve", "--env", "shop"), "--env shop: give an import path, package.module:Class"),
        (("evolve", "--env", "a:B", "--suite", "b"), "--env and --suite both say which suite"),
        (("evolve", "suite.name=b", "--suite", "b"), "--suite and suite.name=b both say which"),
        (("evolve", "--env", "nowhere:Shop"), "suite nowhere:Shop: cannot import 'nowhere'"),
        (("evolve", "--suite", "no-suite"), "unknown suite 'no-suite'"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = instar(tmp_path, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("instar: ") and says in line


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my-shop", "is no name for a Python module; take one such as my_shop"),
        ("class", "is no name for a Python module"),
        ("_1", "is no name for a Python module"),
        ("../x", "is no name for a Python module"),
        ("json", "there is a Python module 'json' already"),
        ("agent", "there is a Python module 'agent' already"),
    ],
)
def test_names(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(SuiteError, match=says):
        write_template(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_folders(tmp_path: Path) -> None:
    assert write_template("a_b", tmp_path / "x" / "y")[0] == tmp_path / "x" / "y" / "a_b.py"
    (tmp_path / "file").write_text("")
    with pytest.raises(SuiteError, match="file: cannot be written"):
        write_template("a_b", tmp_path / "file")
    assert class_name("my_shop") == "MyShop" and class_name("Shop") == "Shop"


def test_the_template_itself() -> None:
    suite = load_suite("environments.template.new_env:NewEnv", sandbox=make_sandbox)
    assert check_suite(suite, limit=10) == []
    parts = split_tasks(suite.tasks())
    assert all(len(part) >= 5 for part in parts.values())
    assert {task.family for task in suite.tasks()} == {"cheapest", "dearest"}


def test_a_useful_class_is_short() -> None:
    """The documented one, which tests/test_house.py runs, has no more than 18 lines of code."""
    text = (ROOT / "environments" / "README.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    lines = block.split("\n\n\n")[0].splitlines()
    assert lines[0] == "class Shop:"
    assert sum(bool(line.strip()) for line in lines) <= 18
