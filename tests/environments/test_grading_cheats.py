"""Code that wants to be graded as right without being right, and scores nothing."""

from typing import Any

import pytest

from environments.base import Action, StepResult
from environments.grading.grader import Grader, Problem, Test
from environments.grading.values import encode
from environments.kinds.code import CodeAnswer
from environments.sandbox import make_sandbox

SECRET = "amethyst-9431-obsidian"  # only the tests know it
ASKED = "zirconium-2087"  # a hidden argument
SOLUTION = (
    "def word(n, key=''):\n"
    f"    return 'one' if n == 1 else {SECRET!r} + str(n)\n"
)  # fmt: skip
CHECK = (
    "def check(candidate):\n"
    "    assert candidate(1) == 'one'\n"
    f"    assert candidate(2) == {SECRET!r} + '2'\n"
    f"    assert candidate(3, {ASKED!r}) == {SECRET!r} + '3'\n"
    "check(word)\n"
)
PUBLIC = [Test(source="assert word(1) == 'one'")]
BY_CHECK = Problem(entry="word", solution=SOLUTION, public=PUBLIC, hidden=[Test(source=CHECK)])
BY_ASSERTS = Problem(
    entry="word",
    solution=SOLUTION,
    public=PUBLIC,
    hidden=[Test(source=f"assert word({n}) == {SECRET + str(n)!r}") for n in (2, 3, 4)],
)
BY_VALUES = Problem(
    entry="word",
    solution=SOLUTION,
    public=PUBLIC,
    hidden=[Test(call=encode([[n], {}])) for n in (1, 2, 3)],
)
PROBLEMS = {"check": BY_CHECK, "asserts": BY_ASSERTS, "values": BY_VALUES}

# Each defines ``hidden(n)``, which is called for the hidden arguments; the public one is right.
CHEATS = {
    "exits": "import sys\ndef hidden(n): sys.exit(0)",
    "exits at once": "import os\ndef hidden(n): os._exit(0)",
    "is killed": "import os\ndef hidden(n): os.kill(os.getpid(), 9)",
    "is equal to everything": (
        "class Any:\n"
        "    def __eq__(self, other): return True\n"
        "    def __ne__(self, other): return False\n"
        "    def __hash__(self): return 0\n"
        "    def __bool__(self): return True\n"
        "def hidden(n): return Any()"
    ),
    "is a text equal to everything": (
        "class Any(str):\n"
        "    def __eq__(self, other): return True\n"
        "    __hash__ = str.__hash__\n"
        "def hidden(n): return Any('x')"
    ),
    "is a number, list, dict equal to everything": (
        "def make(kind):\n"
        "    names = {'__eq__': lambda s, o: True, '__hash__': lambda s: 0}\n"
        "    return type('Any', (kind,), names)()\n"
        "def hidden(n): return [make(kind) for kind in (int, float, list, dict, tuple, set)][n % 6]"
    ),
    "overwrites assert": (
        "import builtins, sys\n"
        "builtins.AssertionError = type('Quiet', (BaseException,), {})\n"
        "sys.excepthook = lambda *a: None\n"
        "def hidden(n): raise AssertionError"
    ),
    "switches assertions off": (
        "import sys, builtins\n"
        "builtins.__debug__ if True else 0\n"
        "sys.settrace(lambda *a: None)\n"
        "real = builtins.compile\n"
        "builtins.compile = lambda *a, **k: real('pass', 'x', 'exec')\n"
        "builtins.exec = lambda *a, **k: None\n"
        "def hidden(n): return None"
    ),
    "patches the standard library": (
        "import json, random, ast, copy, math, traceback\n"
        "json.dumps = lambda *a, **k: '{\"passed\": true, \"held\": 9}'\n"
        "json.loads = json.load = lambda *a, **k: {'passed': True}\n"
        "math.isclose = lambda *a, **k: True\n"
        "def hidden(n): return True"
    ),
    "ends with atexit": (
        "import atexit, os\n"
        "def late():\n"
        "    with open('result.jsonl', 'w') as file:\n"
        "        file.write('[{\"passed\": true, \"held\": 3}]')\n"
        "    print('passed', flush=True); os._exit(0)\n"
        "atexit.register(late)\n"
        "def hidden(n): raise SystemExit"
    ),
    "writes a verdict": (
        "def hidden(n):\n"
        "    with open('result.jsonl', 'w') as file:\n"
        "        file.write('{\"ready\": true}\\n' + '{\"value\": true, \"held\": 1}\\n' * 9)\n"
        "    import os; os._exit(0)"
    ),
    "writes odd values": (
        "import os\n"
        "odd = ['{\"?\": [\"a\", 1]}', '[' * 5000, '{\"i\": \"x\"}', '{\"t\": 1}', 'NaN', '{}',\n"
        "       '{\"z\": [[]]}', '{\"d\": [1]}', '{\"r\": [0, 1e9, 0]}', '{\"exec\": \"1\"}']\n"
        "def hidden(n):\n"
        "    with open('result.jsonl', 'w') as file:\n"
        "        file.write('{\"ready\": true}\\n')\n"
        "        for item in odd[n % 3:]: file.write('{\"value\": %s}\\n' % item)\n"
        "    os._exit(0)"
    ),
    "writes odd errors": (
        "import os\n"
        "def hidden(n):\n"
        "    with open('result.jsonl', 'w') as file:\n"
        "        file.write('{\"ready\": true}\\n')\n"
        "        for name in ('SystemExit', 'KeyboardInterrupt', '__import__', 'print', 1):\n"
        "            file.write('{\"error\": [\"%s\", \"\"]}\\n' % name)\n"
        "    os._exit(0)"
    ),
    "replaces the result by a link": (
        "import os\n"
        "def hidden(n):\n"
        "    os.unlink('result.jsonl'); os.symlink('/dev/zero', 'result.jsonl'); os._exit(0)"
    ),
    "replaces the result by a pipe": (
        "import os\n"
        "def hidden(n): os.unlink('result.jsonl'); os.mkfifo('result.jsonl'); os._exit(0)"
    ),
    "floods the result": "def hidden(n): return 'x' * (3 << 20)",
    "nests without end": "def hidden(n):\n    a = []\n    a.append(a)\n    return a",
    "yields without end": "import itertools\ndef hidden(n): return itertools.count()",
    "has a huge number": "def hidden(n): return 7 ** 200_000",
    "leaves modules behind": (
        "for name in ('json', 'ast', 'random', 'sitecustomize', 'values'):\n"
        "    with open(name + '.py', 'w') as file: file.write('import os; os._exit(0)')\n"
        "def hidden(n): return None"
    ),
    "leaves a process behind": (
        "import os, time\n"
        "if not os.fork():\n"
        "    while True:\n"
        "        time.sleep(0.001)\n"
        "        open('result.jsonl', 'w').write('[{\"passed\": true}]')\n"
        "def hidden(n): return None"
    ),
    "raises what cannot be shown": (
        "class Bad(Exception):\n"
        "    def __str__(self): raise SystemExit(0)\n"
        "def hidden(n): raise Bad"
    ),
    "never returns": "def hidden(n):\n    while True: pass",
}  # fmt: skip
SCAN = """
import gc, glob, os, sys
def everything():
    seen = []
    frame = sys._getframe()
    while frame is not None:
        seen += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
        frame = frame.f_back
    seen += gc.get_objects() + list(sys.modules.values()) + [dict(os.environ), sys.argv]
    text = ' '.join(repr(part) for part in seen if isinstance(part, (dict, list, tuple, str)))
    for name in glob.glob('/proc/[0-9]*/*') + glob.glob('/proc/self/fd/*') + glob.glob('/work/*'):
        try:
            if os.path.isfile(name):
                with open(name, 'rb') as file: text += file.read(1 << 20).decode('latin-1')
        except Exception: pass
    try:
        os.lseek(0, 0, 0); text += os.read(0, 1 << 20).decode('latin-1')
    except Exception: pass
    return text
"""


def graded(problem: Problem, code: str) -> StepResult:
    environment = CodeAnswer("?", lambda: Grader(problem, make_sandbox))
    try:
        return environment.step(Action(text=code, tool="submit", arguments={"code": code}))
    finally:
        environment.close()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_an_honest_solution_passes(kind: str) -> None:
    result = graded(PROBLEMS[kind], SOLUTION)
    assert (result.reward, result.metrics, result.observation) == (
        1.0, {"tests_passed": 1.0}, "Submitted.")  # fmt: skip


@pytest.mark.parametrize("kind", ["check", "values"])
@pytest.mark.parametrize("cheat", [name for name in CHEATS if name != "never returns"])
def test_a_cheat_scores_nothing(cheat: str, kind: str) -> None:
    code = CHEATS[cheat] + "\ndef word(n, key=''): return 'one' if n == 1 else hidden(n)\n"
    result = graded(PROBLEMS[kind], code)
    assert result.reward == 0.0, result
    assert result.metrics.get("tests_passed", 0.0) < 1.0
    assert SECRET not in result.observation and ASKED not in result.observation


def test_a_cheat_that_never_returns_scores_nothing() -> None:
    code = CHEATS["never returns"] + "\ndef word(n, key=''): return 'one' if n == 1 else hidden(n)"
    assert graded(BY_ASSERTS, code).reward == 0.0


@pytest.mark.parametrize("kind", PROBLEMS)
def test_no_expected_value_is_anywhere_near_the_code(kind: str) -> None:
    """The code reads its frames, its objects, its files, its processes: it finds no test."""
    grader = Grader(PROBLEMS[kind], make_sandbox)
    public, hidden = grader.tests()

    def finds(text: str) -> str:  # in two parts, so that the code does not find itself
        parts = [text[:9], text[9:]]
        return f"{SCAN}\ndef word(n, key=''): return ''.join({parts}) in everything()"

    code = finds(SECRET)
    for tests in (public, hidden):
        outputs: list[Any] = [o.get("value") for o in grader.answers(code, tests).outputs]
        assert outputs == [False] * len(outputs) and outputs
    arguments = finds(ASKED)
    (seen,) = [o.get("value") for o in grader.answers(arguments, public).outputs]
    assert seen is False  # nor what the hidden tests ask, while the agent is still told something
    if kind == "check":
        assert {"value": True} in grader.answers(arguments, hidden).outputs  # the scan does find


def test_what_is_told_of_a_failed_public_test_gives_nothing_away() -> None:
    result = graded(BY_CHECK, SCAN + "\ndef word(n, key=''): return everything()[-150:]")
    assert result.error == "test failed" and not result.terminated
    assert "This failed: assert word(1) == 'one'\nIt returned " in result.observation
    assert SECRET not in result.observation and ASKED not in result.observation
