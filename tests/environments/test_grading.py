"""Values that travel between sandboxes, and tests that decide."""

import collections
import json
import math
from typing import Any

import pytest

from environments.base import EnvironmentFailure
from environments.grading.grader import Grader, Problem, Test
from environments.grading.values import Opaque, close, decode, encode, is_plain
from environments.sandbox import make_sandbox


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -7, 2**63, -(10**4000), 0.1, -0.0, math.inf, 1 + 2j, "", "\u00e9\n\ud800",
        b"\x00\xff", [], [1, [2.0, "x"]], (), (1, (2,)), {1, "a"}, frozenset({(1, 2)}),
        {"a": 1, 2: (3,)}, {}, collections.Counter("aab"), collections.OrderedDict(a=1),
        collections.deque([1, 2]), range(3, 9, 2), int, ValueError,
    ],
)  # fmt: skip
def test_values_come_back_as_they_were(value: Any) -> None:
    said = json.loads(json.dumps(encode(value)))
    assert is_plain(said)
    back = decode(said)
    assert type(back) is type(value) and back == value
    assert encode(back) == said


def test_other_values() -> None:
    assert math.isnan(decode(encode(math.nan)))
    assert list(decode(encode(x * 2 for x in range(3)))) == [0, 2, 4]
    assert list(decode(encode({"a": 1}.items()))) == [("a", 1)]
    assert decode(encode(collections.defaultdict(int, a=1))) == {"a": 1}
    assert decode(encode(collections.namedtuple("P", "x y")(1, 2))) == (1, 2)
    for strange in (object(), print, iter(int, 1), [1, {"a": object()}]):
        said = json.loads(json.dumps(encode(strange)))
        assert not is_plain(said)
        assert decode(said) != decode(said)
    assert isinstance(decode(encode(object())), Opaque)


@pytest.mark.parametrize("forged", [{}, {"a": 1}, {"t": 1}, {"i": "x"}, {"s": [[]]}, 1.5,
                                    {"t": [], "s": []}, {"r": "abc"}, {"d": [[1]]},
                                    {"T": "print"}, {"T": 1}])  # fmt: skip
def test_what_was_not_encoded_is_refused(forged: Any) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError, LookupError)):
        decode(forged)


def test_closeness() -> None:
    assert close(0.3, 0.1 + 0.2, 0) and close([0.3, 1.0], [0.1 + 0.2, 1.0], 0)
    assert close(2.0, 2.00005, 1e-4) and not close(2.0, 2.001, 1e-4)
    assert not close(0.3, 0.31, 0) and not close([0.3], [0.3, 0.3], 0)
    assert not close(1, 1.0000001, 0) and not close([1.0], (1.0,), 0)
    assert close(math.inf, math.inf, 0) and not close(math.inf, 1.0, 1e-4)
    assert not close("a", "b", 1e-4) and not close(math.nan, 1.0, 1e-4)


SOLUTION = "def halve(x):\n    if x < 0: raise ValueError('negative')\n    return [x / 2]\n"
RAISES = (
    "try:\n    halve(-1)\n    assert False\nexcept ValueError as error:\n"
    "    assert 'negative' in str(error)\n"
)


def scores(code: str, hidden: list[Test], solution: str = SOLUTION, **more: Any) -> list[float]:
    problem = Problem(entry="halve", solution=solution, hidden=hidden, **more)
    grader = Grader(problem, make_sandbox)
    tests = grader.tests()[1]
    return grader.judge(tests, grader.answers(code, tests))


def test_tests_of_every_kind() -> None:
    tests = [
        Test(source="assert halve(4) == [2.0]"),
        Test(source="assert set(halve(x=6)) == {3.0} and halve(1)[0] < 1"),
        Test(
            source="import random\nfor _ in range(20):\n    x = random.random()\n"
            "    assert abs(halve(x)[0] - x / 2) < 1e-6"
        ),
        Test(source=RAISES),
        Test(call=encode([[3], {}])),
    ]
    assert scores(SOLUTION, tests) == [1.0] * 5
    assert scores("def halve(x): return [x * 0.5]", tests) == [1.0, 1.0, 1.0, 0.0, 1.0]
    almost = "def halve(x):\n    if x < 0: raise ValueError('a negative one')\n"
    assert scores(almost + "    return [x / 2 + 1e-9]", tests) == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert scores("def halve(x): return (x / 2,)", tests)[4] == 0.0
    assert scores("def halve(x): return x", tests) == [0.0] * 5


def test_the_share_of_assertions_that_held_is_told() -> None:
    check = "def check(candidate):\n" + "".join(
        f"    assert candidate({n}) == [{n / 2}]\n" for n in range(4)
    )
    test = [Test(source=check + "check(halve)")]
    assert scores("def halve(x): return [x / 2] if x < 3 else []", test) == [0.75]
    assert scores("def halve(x): return []", test) == [0.0]


def test_a_solution_that_fails_its_own_tests_is_a_broken_world() -> None:
    for hidden in ("assert halve(4) == 2", "pass", "assert halve(object())", "assert halve(print)"):
        with pytest.raises(EnvironmentFailure, match="halve cannot be used with its own tests"):
            scores(SOLUTION, [Test(source=hidden)])
    with pytest.raises(EnvironmentFailure, match="do not run: SyntaxError"):
        scores(SOLUTION, [Test(source="assert halve(4)")], solution="def halve(")


def test_values_too_large_to_compare_are_left_out() -> None:
    solution = "def halve(x): return 'x' * (x // 2)"
    tests = [Test(call=encode([[size], {}])) for size in (4, 2_000_000)]
    assert scores(solution, tests, solution=solution) == [1.0]
    with pytest.raises(EnvironmentFailure, match="all too large"):
        scores(solution, tests[1:], solution=solution)


def test_a_solution_that_calls_itself_is_called_as_the_tests_call_it() -> None:
    solution = "def halve(x):\n    return 0 if x < 2 else 1 + halve(x - 2)\n"
    tests = [Test(source="assert halve(10) == 5")]
    assert scores("def halve(n): return n // 2", tests, solution=solution) == [1.0]


def test_helpers_of_the_prompt_are_there_for_both() -> None:
    before = "def twice(x):\n    return 2 * x\n"
    solution = before + "def halve(x):\n    return x / 2\n"
    tests = [Test(source="assert halve(twice(3)) == 3")]
    code = "def halve(x): return x * x / twice(x)"
    assert scores(code, tests, solution=solution, before=before) == [1.0]
