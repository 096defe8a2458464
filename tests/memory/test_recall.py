"""What is recalled: the view's own items only, exact, diverse, within the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from memory.embed import HashEmbedder, Vectors
from memory.index import BruteForceIndex, Index, VectorIndexError, open_index
from memory.ledger import Ledger
from memory.recall import MemoryView, Query, Recall, RecallSettings
from memory.records import Kind, MemoryChange, MemoryItem, MemorySnapshot, Status

MakeItem = Callable[..., MemoryItem]
EXEMPLAR, REFLECTION = Kind.EXEMPLAR, Kind.REFLECTION


def words(text: str) -> int:
    return len(text.split())


class Angles:
    """An embedder for exact geometry: a text is its angle in degrees, "30 anything"."""

    identity = "angles"
    dimension = 2

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        angles = np.radians([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class World:
    """A ledger and an index with items in one snapshot."""

    def __init__(self, ledger: Ledger, embedder: Angles | HashEmbedder, index: Index | None = None):
        self.ledger = ledger
        self.embedder = embedder
        self.index = index or BruteForceIndex(embedder.dimension)
        self.snapshot = ""

    def add(self, *items: MemoryItem, **change: object) -> None:
        if items:
            self.ledger.append_many([(item.id, item) for item in items])
            self.index.add([i.id for i in items], self.embedder.embed([i.key for i in items]))
        fields: dict[str, object] = {"status": Status.ACTIVE, "generation": 1} | change
        self.change(*(MemoryChange.model_validate({"item": i.id} | fields) for i in items))

    def change(self, *changes: MemoryChange, generation: int = 1) -> None:
        record = MemorySnapshot(parent=self.snapshot, generation=generation, changes=changes)
        self.ledger.append(record.id, record)
        self.snapshot = record.id

    def view(self, policy: str = "base", snapshot: str | None = None) -> MemoryView:
        snapshot = self.snapshot if snapshot is None else snapshot
        return MemoryView(self.ledger, self.index, self.embedder, snapshot, policy)

    def texts(self, text: str, task: str = "other", leave_out: bool = True, **fields: object):  # type: ignore[no-untyped-def]
        settings = RecallSettings.model_validate({"diversity": 0.0} | fields)
        (recall,) = self.view().recall([Query(text, task, leave_out)], settings, words)
        return [item.text for item in recall.items]


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger, Angles())


def test_nearest_first_with_scores_and_tokens(world: World, make_item: MakeItem) -> None:
    near, far = make_item("x y z", "10 a"), make_item("p q", "50 b")
    world.add(far, near)
    (recall,) = world.view().recall([Query("0", "t")], RecallSettings(), words)
    assert recall.items == (near, far)
    assert np.allclose(recall.scores, np.cos(np.radians([10, 50])), atol=1e-4)
    assert recall.tokens == 5
    assert Recall.model_validate_json(recall.model_dump_json()) == recall


def test_empty_views_embed_nothing(world: World, make_item: MakeItem) -> None:
    empty = Recall()
    queries = [Query("0", "a"), Query("1", "b")]
    assert world.view(snapshot="").recall(queries, RecallSettings(), words) == [empty, empty]
    world.add(make_item("a", "0"))
    assert isinstance(world.embedder, Angles)
    world.embedder.calls.clear()
    off = RecallSettings(quotas={EXEMPLAR: 0})  # the only item is an exemplar
    assert world.view().recall(queries, off, words) == [empty, empty]
    assert world.view().recall([], RecallSettings(), words) == []
    assert world.embedder.calls == []


def test_all_queries_are_embedded_at_once(world: World, make_item: MakeItem) -> None:
    world.add(make_item("a", "0"), make_item("b", "90"))
    assert isinstance(world.embedder, Angles)
    world.embedder.calls.clear()
    queries = [Query(text, "t") for text in ("0", "90", "0", "45")]
    found = world.view().recall(queries, RecallSettings(quotas={EXEMPLAR: 1}), words)
    assert world.embedder.calls == [["0", "90", "45"]]
    assert [[item.text for item in recall.items] for recall in found[:3]] == [["a"], ["b"], ["a"]]


def test_leave_one_task_out(world: World, make_item: MakeItem) -> None:
    own = make_item("own", "0", task="t1")
    merged = make_item("merged", "1", tasks=("t2", "t1"))
    other = make_item("foreign", "20", task="t2")
    world.add(own, merged, other)
    assert world.texts("0", "t1", quotas={EXEMPLAR: 5}) == ["foreign"]
    assert world.texts("0", "t2", quotas={EXEMPLAR: 5}) == ["own"]
    assert world.texts("0", "t3", quotas={EXEMPLAR: 5}) == ["own", "merged", "foreign"]
    assert world.texts("0", "t1", leave_out=False, quotas={EXEMPLAR: 5}) == [
        "own",
        "merged",
        "foreign",
    ]


def test_each_query_has_its_own_rule(world: World, make_item: MakeItem) -> None:
    world.add(make_item("own", "0", task="t1"))
    queries = [Query("0", "t1"), Query("0", "t1", leave_out=False), Query("0", "t2")]
    found = world.view().recall(queries, RecallSettings(), words)
    assert [len(recall.items) for recall in found] == [0, 1, 1]


def test_absorbed_items_are_hidden_from_that_version_only(
    world: World, make_item: MakeItem
) -> None:
    world.add(make_item("plain", "0"))
    world.add(make_item("absorbed", "5"), absorbed_by=("w1", "w3"))
    shown = {
        policy: sorted(item.text for item in world.view(policy).items.values())
        for policy in ("base", "w1", "w2", "w3")
    }
    both = ["absorbed", "plain"]
    assert shown == {"base": both, "w1": ["plain"], "w2": both, "w3": ["plain"]}
    (recall,) = world.view("w1").recall([Query("5", "t")], RecallSettings(), words)
    assert [item.text for item in recall.items] == ["plain"]


def test_what_is_absorbed_is_not_replaced_by_something_farther_away(
    world: World, make_item: MakeItem
) -> None:
    world.add(make_item("far and long", "40"))
    world.add(make_item("known", "5"), absorbed_by=("w1",))
    one = RecallSettings(quotas={EXEMPLAR: 1})
    for policy, expected in (("base", ["known"]), ("w1", [])):
        (recall,) = world.view(policy).recall([Query("5", "t")], one, words)
        assert [item.text for item in recall.items] == expected
        assert recall.tokens == len(expected) and len(recall.scores) == len(expected)
    (recall,) = world.view("w1").recall([Query("5", "t")], RecallSettings(tokens=3), words)
    assert [item.text for item in recall.items] == ["far and long"]  # what is unseen costs nothing


def test_a_view_shows_its_snapshot(world: World, make_item: MakeItem) -> None:
    first = make_item("first", "0")
    world.add(first)
    earlier = world.snapshot
    world.add(make_item("second", "1"))
    world.change(MemoryChange(item=first.id, status=Status.RETIRED, generation=1))
    assert world.texts("0") == ["second"]
    (recall,) = world.view(snapshot=earlier).recall([Query("0", "t")], RecallSettings(), words)
    assert [item.text for item in recall.items] == ["first"]


def test_least_similarity(world: World, make_item: MakeItem) -> None:
    world.add(make_item("near", "59"), make_item("far", "61"))
    assert world.texts("0", min_similarity=0.5, quotas={EXEMPLAR: 5}) == ["near"]
    assert world.texts("0", min_similarity=0.4, quotas={EXEMPLAR: 5}) == ["near", "far"]
    assert world.texts("180", min_similarity=0.0, quotas={EXEMPLAR: 5}) == []


def test_kind_quotas(world: World, make_item: MakeItem) -> None:
    names = ["alpha", "bravo", "charlie", "delta"]
    world.add(*(make_item(name, f"{i}") for i, name in enumerate(names)))
    world.add(
        *(make_item(n.upper() + " note", f"{i}", kind=Kind.REFLECTION) for i, n in enumerate(names))
    )
    assert sorted(world.texts("0", quotas={EXEMPLAR: 2, REFLECTION: 1})) == [
        "ALPHA note",
        "alpha",
        "bravo",
    ]
    assert world.texts("0", quotas={EXEMPLAR: 0, REFLECTION: 2}) == ["ALPHA note", "BRAVO note"]
    assert world.texts("0", quotas={EXEMPLAR: 3, REFLECTION: 0}) == ["alpha", "bravo", "charlie"]
    assert world.texts("0", quotas={EXEMPLAR: 0, REFLECTION: 0}) == []


def test_token_budget_skips_whole_items(world: World, make_item: MakeItem) -> None:
    world.add(
        make_item("one two three", "0"),
        make_item("a b c d e f g h i j k", "1"),
        make_item("p q", "2"),
        make_item("r", "3"),
    )
    assert world.texts("0", tokens=5, quotas={EXEMPLAR: 4}) == ["one two three", "p q"]
    assert world.texts("0", tokens=6, quotas={EXEMPLAR: 4}) == ["one two three", "p q", "r"]
    assert world.texts("0", tokens=2, quotas={EXEMPLAR: 4}) == ["p q"]
    assert world.texts("0", tokens=0, quotas={EXEMPLAR: 4}) == []


def test_far_item_that_fits_is_found_behind_many_that_do_not(
    world: World, make_item: MakeItem
) -> None:
    long = [make_item(f"{name} " * 20, f"{i / 10}") for i, name in enumerate("abcdefghijklmno")]
    world.add(*long, make_item("short", "30"))
    assert world.texts("0", tokens=10, quotas={EXEMPLAR: 1}, candidates=4) == ["short"]


def test_near_identical_texts_are_dropped(world: World, make_item: MakeItem) -> None:
    text = "To reverse the words of a sentence, split it and join them again backwards."
    world.add(
        make_item(text, "0"),
        make_item(text.upper().replace(" ", "\n  "), "1"),
        make_item(text + "!", "2"),
        make_item("Something else entirely.", "3"),
    )
    assert world.texts("0", quotas={EXEMPLAR: 4}) == [text, "Something else entirely."]


def test_diversity_prefers_the_unlike(world: World, make_item: MakeItem) -> None:
    world.add(make_item("best", "10"), make_item("twin", "11"), make_item("elsewhere", "-30"))
    assert world.texts("0", quotas={EXEMPLAR: 2}, diversity=0.0) == ["best", "twin"]
    assert world.texts("0", quotas={EXEMPLAR: 2}, diversity=0.5) == ["best", "elsewhere"]


def test_kinds_do_not_compete_in_diversity(world: World, make_item: MakeItem) -> None:
    world.add(make_item("solution", "0"))
    world.add(
        make_item("lesson", "0", kind=Kind.REFLECTION),
        make_item("far lesson", "40", kind=Kind.REFLECTION),
    )
    assert sorted(world.texts("0", diversity=0.9)) == ["lesson", "solution"]


def test_ties_are_in_order_of_id(world: World, make_item: MakeItem) -> None:
    items = [make_item(text, "7") for text in ("mon", "tues", "wednes", "thurs", "fri")]
    world.add(*items)
    expected = [item.text for item in sorted(items, key=lambda item: item.id)]
    assert world.texts("7", quotas={EXEMPLAR: 5}) == expected
    assert world.texts("7", quotas={EXEMPLAR: 5}, diversity=0.7) == expected


def test_starved_by_the_filter_it_compares_all(world: World, make_item: MakeItem) -> None:
    crowd = [make_item(f"{i} crowd {i * 37}", f"{i / 100}", task="t1") for i in range(100)]
    world.add(*crowd, make_item("the one", "20", task="t2"))
    assert world.texts("0", "t1", candidates=8) == ["the one"]
    world.change(
        *(MemoryChange(item=item.id, status=Status.RETIRED, generation=1) for item in crowd)
    )
    assert world.texts("0", "t9", candidates=8) == ["the one"]


@pytest.mark.parametrize("diversity", [0.0, 0.4])
def test_few_candidates_recall_what_all_would(
    ledger: Ledger, make_item: MakeItem, tmp_path: Path, diversity: float
) -> None:
    """Over-fetching from Chroma, filtered, against the brute force over everything."""
    embedder = HashEmbedder(64)
    rng = np.random.default_rng(3)
    vocabulary = [f"word{i}" for i in range(60)]
    items = [
        make_item(
            " ".join(rng.choice(vocabulary, 12)),
            " ".join(rng.choice(vocabulary, 8)),
            task=f"t{i % 10}",
            kind=Kind.REFLECTION if i % 5 == 0 else Kind.EXEMPLAR,
        )
        for i in range(600)
    ]
    index = open_index(tmp_path / "index", embedder, [(item.id, item.key) for item in items])
    world = World(ledger, embedder, index)
    ledger.append_many([(item.id, item) for item in items])
    world.change(
        *(
            MemoryChange(
                item=item.id, status=Status.RETIRED if i % 3 else Status.ACTIVE, generation=1
            )
            for i, item in enumerate(items)
        )
    )
    queries = [Query(" ".join(rng.choice(vocabulary, 8)), f"t{i % 10}") for i in range(40)]
    fields: dict[str, object] = {
        "tokens": 60, "quotas": {EXEMPLAR: 3, REFLECTION: 2}, "min_similarity": 0.1,
        "diversity": diversity,
    }  # fmt: skip
    few = RecallSettings.model_validate(fields | {"candidates": 40})
    every = RecallSettings.model_validate(fields | {"candidates": 5000})
    view = world.view()
    found, right = view.recall(queries, few, words), view.recall(queries, every, words)
    assert found == right
    assert found == view.recall(queries, few, words)
    eligible = {item.id for i, item in enumerate(items) if i % 3 == 0}
    for query, recall in zip(queries, found, strict=True):
        assert recall.items
        assert all(item.id in eligible and query.task not in item.tasks for item in recall.items)
        assert recall.tokens == sum(words(item.text) for item in recall.items) <= 60
        assert min(recall.scores) >= 0.1
    index.close()


def test_item_missing_from_the_index_is_loud(world: World, make_item: MakeItem) -> None:
    item = make_item("a", "0")
    world.ledger.append(item.id, item)
    world.change(MemoryChange(item=item.id, status=Status.ACTIVE, generation=1))
    with pytest.raises(VectorIndexError, match=f"lacks 1 items, '{item.id}'"):
        world.view()


@pytest.mark.parametrize(
    "fields", [{"tokens": -1}, {"quotas": {"other": 2}}, {"diversity": 2}, {"candidates": 0}]
)
def test_settings_are_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        RecallSettings.model_validate(fields)
