"""Which tasks are practised, rule by rule; each by an example that was worked out by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import load_config
from agent.evolution.acquire.select import (
    SELECTORS,
    Choice,
    Tried,
    by_weights,
    choose,
    easy_to_hard,
    farthest_first,
    in_order,
    k_centre,
    learnable,
    tally,
)
from agent.evolution.acquire.settings import Select
from agent.made_tasks import Made, notes_of
from agent.run import Run
from environments.base import Task
from memory.embed import HashEmbedder, Vectors
from memory.records import Generation, Trajectory
from tests.agent.test_tasks import practised


def task(name: str, family: str = "f", length: int = 1) -> Task:
    return Task(suite="s", family=family, prompt=name * length)


def choice(pool: Sequence[Task], wanted: int, **changes: Any) -> Choice:
    given = Choice(pool, wanted, {"f": 1.0}, {}, 0, 1.0, HashEmbedder().embed)
    return given._replace(**changes)


def tries(**how: tuple[int, int]) -> Mapping[str, Tried]:
    return {task(name).id: Tried(*counts) for name, counts in how.items()}


def names(tasks: Sequence[Task]) -> list[str]:
    return [t.prompt for t in tasks]


def circle(*degrees: float) -> Vectors:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_k_centre_takes_the_farthest_first() -> None:
    """Worked out by hand: the distance to the nearest that is chosen, largest first."""
    vectors = circle(0, 10, 90, 180, 200)
    # 0 first; 180 lies opposite; then 90, 90° from both (200 is 20° from 180, 10 is 10° from 0).
    assert farthest_first(vectors, [], 3) == [0, 3, 2]
    # With 0 and 10 known: 180 is 170° from 10, 200 is 160° from 0; then 90 is 80° from 10.
    assert farthest_first(vectors, [0, 1], 2) == [3, 2]
    assert farthest_first(vectors, [0, 1, 2, 3], 9) == [4]
    assert farthest_first(vectors[:0], [], 3) == []


def test_k_centre_keeps_away_from_what_was_practised() -> None:
    pool = [task(name) for name in "abcdef"]
    at = dict(zip("abcdef", (0, 5, 90, 180, 185, 270), strict=True))

    def embed(texts: Sequence[str]) -> Vectors:
        return circle(*(at[text] for text in texts))

    got = k_centre(choice(pool, 3, tried=tries(a=(1, 0)), embed=embed))
    assert got[0].prompt == "d" and set(names(got[1:])) == {"c", "f"}
    assert "b" not in names(got)  # next to what was practised
    weighted = by_weights(choice(pool, 3, tried=tries(a=(1, 0))))
    assert len(weighted) == 3  # which does not look at distance


def test_by_weights_unsolved_and_least_tried_first() -> None:
    pool = [task(n) for n in "abc"] + [task(n, "g") for n in "xyz"]
    tried = tries(a=(1, 1), b=(4, 0))
    got = by_weights(choice(pool, 4, weights={"f": 0.5, "g": 0.5}, tried=tried))
    assert names(got)[:2] == ["c", "b"] and len(got) == 4
    assert {t.family for t in by_weights(choice(pool, 3, weights={"g": 1.0}))} == {"g"}


def test_what_a_family_has_too_few_tasks_for_goes_to_the_others() -> None:
    pool = [task(n) for n in "abcdefgh"] + [task("x", "g"), task("y", "h"), task("z", "h")]
    weights = {"f": 0.25, "g": 0.5, "h": 0.25, "none": 0.0, "elsewhere": 0.0}
    got = Counter(t.family for t in by_weights(choice(pool, 8, weights=weights)))
    # Of 8: 2, 4, 2; g has 1 of its 4, and h no more than its 2, so 3 go to f.
    assert got == {"f": 5, "g": 1, "h": 2}
    assert len(by_weights(choice(pool, 99, weights=weights))) == len(pool)
    assert by_weights(choice([], 5, weights=weights)) == []


def test_learnability_prefers_what_is_solved_now_and_then() -> None:
    pool = [task(name) for name in "abcd"]
    tried = tries(a=(8, 8), b=(8, 0), c=(8, 4), d=(8, 7))
    assert names(learnable(choice(pool, 4, tried=tried)))[:2] == ["c", "d"]
    assert names(learnable(choice(pool, 2, tried=tries(a=(8, 8), b=(8, 0))))) != ["a", "b"]


def test_easy_tasks_come_first_and_hard_ones_later() -> None:
    pool = [task(name) for name in "abcdefgh"]
    tried = tries(**{n: (8, 8 - i) for i, n in enumerate("abcdefgh")})  # a easy … h hard
    first = easy_to_hard(choice(pool, 4, tried=tried, stage=0.5))
    assert set(names(first)) == set("abcd")
    whole = easy_to_hard(choice(pool, 8, tried=tried, stage=1.0))
    assert set(names(whole)) == set("abcdefgh")
    fresh = tries(**{n: (8, 8 - i) for i, n in enumerate("abcd")}) | tries(a=(99, 99))
    assert names(easy_to_hard(choice(pool[:4], 1, tried=fresh, stage=0.5))) == ["b"]
    unknown = [task("a", length=n) for n in (9, 3, 6)]  # nothing was tried: the short ones
    assert names(easy_to_hard(choice(unknown, 1, stage=0.3))) == ["aaa"]


def test_a_stream_is_practised_in_its_order() -> None:
    """Each generation goes on where the last one stopped, then from the beginning again."""
    pool = [task(name, family) for name, family in zip("hgfedcba", "fgfgfgfg", strict=True)]
    experience: list[Trajectory] = []
    for n, expected in enumerate(("hgf", "edc", "bah", "gfe"), 1):
        got = in_order(choice(pool, 3, tried=tally(experience), seed=n))
        assert "".join(names(got)) == expected
        # Some need more tries than others, and one of these breaks: no matter.
        for number, one in enumerate(got):
            experience += [
                practised(one.id, False).model_copy(update={"slot": f"{n}/acquire/{one.id}/{i}"})
                for i in range(1 + number)
            ]
        experience.append(practised(got[0].id, True).model_copy(
            update={"slot": f"{n}/acquire/x", "failure": {"source": "sandbox", "message": "gone"}}
        ))  # fmt: skip
    assert "".join(names(in_order(choice(pool, 99, tried={})))) == "hgfedcba"
    assert "".join(names(by_weights(choice(pool, 3, weights={"f": 0.5, "g": 0.5})))) != "hgf"


def test_every_rule_is_there() -> None:
    assert set(SELECTORS) == set(Select.__args__)  # type: ignore[attr-defined]


# --- in a run ---


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("how", SELECTORS)
def test_at_most_a_share_is_made_up(
    tmp_path: Path, toy_yaml: Path, how: Select, share: float
) -> None:
    config = load_config(
        toy_yaml,
        [f"acquire.select={how}", f"acquire.generate.share={share}", "acquire.first_tasks=10"],
    )
    before = Generation(
        n=0, parent=0, weights="base", memory="", decision="start", cell="incumbent", reason="",
        objective={"double": 0.5, "next": 0.5}, cells={}, families={},
    )  # fmt: skip
    with Run(tmp_path / "run", config, quiet=True) as run:
        made = [
            Made(Task(suite="toy", family=f, prompt=f"{i}", origin="x/0"), "x", 1)
            for i in range(4)
            for f in ("double", "next")
        ]
        run.ledger.append_many(notes_of(1, {"how": "x"}, made))
        got = choose(run, 1, before, [])
        assert len(got) == len({t.id for t in got}) == 10 or share == 1.0
        assert sum(bool(t.origin) for t in got) == round(min(share * 10, 8))
        assert got == choose(run, 1, before, [])


def test_made_up_tasks_of_a_family_that_is_not_measured_are_practised(
    tmp_path: Path, toy_yaml: Path
) -> None:
    config = load_config(toy_yaml, ["acquire.first_tasks=4"])
    before = Generation(
        n=0, parent=0, weights="base", memory="", decision="start", cell="incumbent", reason="",
        objective={"double": 1.0}, cells={}, families={},
    )  # fmt: skip
    with Run(tmp_path / "run", config, quiet=True) as run:
        new = Made(Task(suite="toy", family="new", prompt="?", origin="x/0"), "x", 1)
        run.ledger.append_many(notes_of(1, {"how": "x"}, [new]))
        assert [t.family for t in choose(run, 1, before, [])] == ["new"] + ["double"] * 3


def test_broken_tries_do_not_count() -> None:
    broken = practised("a", False).model_copy(
        update={"failure": {"source": "sandbox", "message": "gone"}}
    )
    experience = [practised("a", True), practised("a", False), broken]
    assert tally(experience) == {"a": Tried(2, 1, 1)}
