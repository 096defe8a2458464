"""Worth is counted from episodes, paired where the same task was tried without the item."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from memory.credit import SOLVED, CreditSettings, Usage, credit, evidence, usage
from memory.records import Failure, Trajectory, Worth
from tests.memory.drafts import episode, make

BROKEN = Failure(source="sandbox", message="gone")


def pairs(item: str, outcomes: dict[str, tuple[int, int]], **fields: object) -> list[Trajectory]:
    """Per task one episode with the item and one without."""
    return [
        t
        for task, (with_it, without) in outcomes.items()
        for t in (
            episode(task, 0, bool(with_it), item, **fields),
            episode(task, 1, bool(without), **fields),
        )
    ]


def test_usage_counts_what_was_recalled() -> None:
    assert usage(
        [
            episode("t", 1, True, "a", "b"),
            episode("t", 2, False, "a", "a", split="test"),
            episode("t", 3, False),
            episode("t", 4, False, "a", "c", failure=BROKEN),
        ]
    ) == {"a": Usage(2, 1), "b": Usage(1, 1)}
    assert usage([]) == {}


def test_uses_wins_and_solved_tasks() -> None:
    worth = credit(
        [
            episode("t1", 0, True, "a"),
            episode("t1", 1, True, "a"),
            episode("t2", 0, False, "a"),
            episode("t3", 0, True, "a", generation=2),
            episode("t4", 0, True, "a", failure=BROKEN),
            episode("t5", 0, True, "a", split="gate"),
        ]
    )
    assert set(worth) == {"a"}
    a = worth["a"]
    assert (a.uses, a.wins, a.solved, a.used) == (4, 3, ("t1", "t3"), 2)
    assert (a.pairs, a.utility, a.low, a.high) == (0, 0, -1, 1)  # nothing to compare with


def test_only_the_last_solved_tasks_are_kept() -> None:
    tasks = [f"t{i:02}" for i in range(SOLVED + 3)]
    played = [episode(task, 0, True, "a", generation=1 + i) for i, task in enumerate(tasks)]
    again = episode(tasks[0], 0, True, "a", generation=99)
    assert credit(played)["a"].solved == tuple(tasks[-SOLVED:])
    assert credit([*played, again])["a"].solved == (*tasks[-SOLVED + 1 :], tasks[0])


def test_a_worked_example() -> None:
    # a: differences 1, 1, 0 (sum 2, mean 2/3); b: 0, -1 (sum -1, mean -1/2); mean of all 1/5.
    played = pairs("a", {"t1": (1, 0), "t2": (1, 0), "t3": (1, 1)})
    played += pairs("b", {"t4": (0, 0), "t5": (0, 1)})
    worth = credit(played, settings=CreditSettings(prior=2, variance=0.01))
    a, b = worth["a"], worth["b"]
    assert (a.pairs, b.pairs) == (3, 2)
    assert a.utility == pytest.approx((2 + 2 * 0.2) / (3 + 2))
    assert b.utility == pytest.approx((-1 + 2 * 0.2) / (2 + 2))
    variance = (1 / 9 + 1 / 9 + 4 / 9 + 1 / 4 + 1 / 4) / (2 + 1)  # = 0.3889
    reach_a = 1.96 * (variance / 5 + (2 / 5) ** 2 * variance / 5) ** 0.5
    reach_b = 1.96 * (variance / 4 + (2 / 4) ** 2 * variance / 5) ** 0.5
    assert a.high - a.utility == pytest.approx(min(reach_a, 1 - 0.48), abs=1e-3)
    assert a.utility - a.low == pytest.approx(reach_a, abs=1e-3)
    assert b.utility - b.low == pytest.approx(reach_b, abs=1e-3)


def test_a_task_counts_once_however_often_it_was_tried() -> None:
    once = pairs("a", {"t1": (1, 0), "t2": (0, 1)})
    often = [
        *once,
        *(t for n in range(2, 9) for t in pairs("a", {"t1": (1, 0)}, generation=n)),
    ]
    assert credit(often)["a"].pairs == credit(once)["a"].pairs == 2
    assert credit(often)["a"].utility == credit(once)["a"].utility == 0
    mixed = [*pairs("a", {"t": (1, 0)}), *pairs("a", {"t": (0, 0)}, generation=2)]
    assert credit(mixed)["a"].utility == 0.5  # the mean of the task's groups


def test_the_share_of_successes_is_what_is_compared() -> None:
    played = [episode("t", i, i < 3, "a") for i in range(4)]  # 3 of 4
    played += [episode("t", 4 + i, i < 1) for i in range(2)]  # 1 of 2
    settings = CreditSettings(prior=1e-9)
    assert credit(played, settings=settings)["a"].utility == pytest.approx(0.25)


@pytest.mark.parametrize(
    "other",
    [
        {"policy": "w1"},
        {"generation": 2},
        {"temperature": 0.0},
        {"split": "retention"},
        {"failure": BROKEN},
    ],
)
def test_only_comparable_episodes_are_paired(other: dict[str, object]) -> None:
    with_it, without = episode("t", 0, True, "a"), episode("t", 1, False)
    assert credit([with_it, without])["a"].pairs == 1
    apart = episode("t", 1, False, **{"generation": 1} | other)  # type: ignore[arg-type]
    assert credit([with_it, apart])["a"].pairs == 0


def test_other_temperatures_are_comparable() -> None:
    played = [episode("t", 0, True, "a"), episode("t", 1, False, temperature=0.7)]
    assert credit(played)["a"].pairs == 1


def test_a_single_pair_gives_a_wide_interval() -> None:
    # Everything else is always solved, so the pooled variance would be zero.
    sure = [t for i in range(9) for t in pairs("sure", {f"t{i}": (1, 1)})]
    worth = credit([*sure, *pairs("lucky", {"t": (1, 0)})])
    assert worth["lucky"].high - worth["lucky"].low > 0.5
    assert worth["lucky"].low < 0 < worth["lucky"].high
    assert worth["sure"].high - worth["sure"].low < worth["lucky"].high - worth["lucky"].low


def test_it_is_shrunk_to_the_mean_item() -> None:
    good = [t for i in range(9) for t in pairs(f"good{i}", {f"{i}": (1, 0)})]
    worth = credit([*good, *pairs("new", {"x": (0, 0)})])
    assert worth["new"].utility == pytest.approx(4 * 0.9 / 5)  # mostly what items are like
    assert worth["new"].utility < worth["good0"].utility < 1
    assert worth["good0"].utility == pytest.approx((1 + 4 * 0.9) / 5)
    unpaired = credit([*good, episode("y", 0, True, "seen")])["seen"]
    assert (unpaired.utility, unpaired.low, unpaired.high) == (1, -1, 1)


def test_votes_and_what_was_not_seen_are_carried_on() -> None:
    earlier = {"a": Worth(uses=1, votes=3), "old": Worth(uses=7, wins=2, votes=1, used=4)}
    worth = credit(pairs("a", {"t": (1, 0), "u": (1, 0)}), earlier)
    assert worth["a"].votes == 3 and worth["a"].uses == 2
    assert worth["old"] == earlier["old"]


def test_merged_and_split_items_inherit_what_their_text_earned() -> None:
    a, b = make("a", family="f"), make("b", family="f")
    merged = make("a", family="f", made="merged", parents=(a.id, b.id))
    part = make("a", family="f", made="split", parents=(merged.id,))
    elsewhere = make("a", family="g", made="split", parents=(merged.id,))
    revised = make("c", family="f", made="revised", parents=(a.id,))
    played = pairs(a.id, {"t1": (1, 0)}) + pairs(b.id, {"t2": (1, 0)})
    worth = credit(played, items=[a, b, merged, part, elsewhere, revised])
    assert worth[merged.id].pairs == worth[part.id].pairs == 2
    assert worth[a.id].pairs == 1
    assert elsewhere.id not in worth and revised.id not in worth  # its text is another


def test_evidence_tells_families_and_episodes() -> None:
    played = pairs("a", {"t1": (1, 0), "t2": (1, 0)}, family="f")
    played += pairs("a", {"t3": (0, 1)}, family="g")
    found = evidence(played)
    assert found.worths == credit(played)
    assert found.families["a"]["f"].pairs == 2 and found.families["a"]["f"].utility > 0
    assert found.families["a"]["g"].pairs == 1 and found.families["a"]["g"].utility < 0
    assert found.won == {"a": ("1/acquire/t1/0", "1/acquire/t2/0")}
    assert found.lost == {"a": ("1/acquire/t3/0",)}


def test_the_order_of_episodes_does_not_matter() -> None:
    chance = random.Random(5)
    played = [
        episode(
            f"t{chance.randrange(9)}",
            i,
            chance.random() < 0.5,
            *chance.sample("abcdef", 3),
            generation=chance.randrange(1, 4),
            family=chance.choice("fg"),
        )
        for i in range(200)
    ]
    played += [episode(f"t{i}", 900 + i, chance.random() < 0.5) for i in range(9)]
    expected = evidence(played)
    for _ in range(3):
        chance.shuffle(played)
        assert evidence(played) == expected


def test_random_leaving_out_finds_the_effect() -> None:
    """Two items shown together, each left out at random: one helps by 0.4, one does nothing."""
    chance = random.Random(2)
    played = []
    for task in range(300):
        for sample in range(6):
            shown = [item for item in ("helps", "idle") if chance.random() < 0.5]
            success = chance.random() < 0.3 + 0.4 * ("helps" in shown)
            played.append(episode(f"{task}", sample, success, *shown))
    worth = credit(played)
    assert worth["helps"].low < 0.4 < worth["helps"].high and worth["helps"].low > 0.3
    assert worth["idle"].low < 0 < worth["idle"].high < 0.1


@pytest.mark.parametrize("fields", [{"prior": 0}, {"variance": 0}, {"priors": 1}])
def test_settings_are_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        CreditSettings.model_validate(fields)
