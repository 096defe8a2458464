"""What is recalled: the view's own items only, exact, diverse, within the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from memory.embed import HashEmbedder, Vectors
from memory.index import BruteForceIndex, Hits, Index, VectorIndexError, open_index
from memory.ledger import Ledger, LedgerError
from memory.recall import MemoryView, Query, Recall, RecallSettings, nearest
from memory.recall import view as recall_view
from memory.recall.clusters import clusters
from memory.records import (
    Kind,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Recollection,
    Status,
    Trust,
    Worth,
)
from memory.texts import near_identical

MakeItem = Callable[..., MemoryItem]
EXEMPLAR, REFLECTION = Kind.EXEMPLAR, Kind.REFLECTION


@pytest.fixture(autouse=True, params=[nearest.EXACT, 0], ids=["compared", "proposed"])
def exact(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every test with all items compared, and with what the index proposes."""
    monkeypatch.setattr(nearest, "EXACT", request.param)
    return int(request.param)


def words(text: str) -> int:
    return len(text.removeprefix("- ").split())


def verdicts(recall: Recall, *items: MemoryItem) -> list[str | None]:
    assert recall.recollection is not None
    found = {candidate.item: candidate.verdict for candidate in recall.recollection.candidates}
    return [found.get(item.id) for item in items]


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

    def texts(
        self,
        text: str,
        task: str = "other",
        leave_out: bool = True,
        shadow: bool = False,
        family: str = "",
        **fields: object,
    ) -> list[str]:
        settings = RecallSettings.model_validate({"diversity": 0.0} | fields)
        query = Query(text, task, leave_out, family=family)
        (recall,) = self.view().recall([query], settings, words, shadow=shadow)
        return [item.text for item in recall.items]


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger, Angles())


def test_nearest_first_with_scores_and_tokens(world: World, make_item: MakeItem) -> None:
    near, far = make_item("x y z", "10 a"), make_item("p q", "50 b")
    world.add(far, near)
    (recall,) = world.view().recall([Query("0", "t")], RecallSettings(), words)
    assert recall.items == (near, far)
    assert recall.tokens == 5
    record = recall.recollection
    assert record is not None
    assert (record.query, record.task, record.tokens) == ("0", "t", 5)
    assert (record.memory, record.reader) == (world.snapshot, "base")
    assert [(c.item, c.verdict) for c in record.candidates] == [
        (near.id, "shown"),
        (far.id, "shown"),
    ]
    cosines = np.cos(np.radians([10, 50]))
    assert np.allclose([c.similarity for c in record.candidates], cosines, atol=1e-4)
    assert Recollection.model_validate_json(record.model_dump_json()) == record


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
        policy: sorted(
            item.text
            for item in world.ledger.get_many(MemoryItem, world.view(policy).ids()).values()
        )
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
        assert recall.tokens == len(expected)
        assert recall.recollection is not None
        assert recall.recollection.candidates[0].verdict == ("shown" if expected else "absorbed")
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


def oracle(
    items: Sequence[MemoryItem], query: Query, settings: RecallSettings, embedder: HashEmbedder
) -> list[str]:
    """What should be recalled of some items, told in the plainest way."""
    vectors = dict(zip([i.id for i in items], embedder.embed([i.key for i in items]), strict=True))
    (asked,) = embedder.embed([query.text])
    score = {i: round(float(vector @ asked), 5) for i, vector in vectors.items()}
    able = [
        i for i in items if query.task not in i.tasks and score[i.id] >= settings.min_similarity
    ]
    able.sort(key=lambda i: (-score[i.id], i.id))
    chosen: list[MemoryItem] = []
    while True:
        room = settings.tokens - sum(words(i.text) for i in chosen)
        usable = [
            i
            for i in able
            if words(i.text) <= room and not any(near_identical(i.text, c.text) for c in chosen)
        ]
        competing: list[tuple[float, str, MemoryItem]] = []
        for kind, quota in settings.quotas.items():
            before = [c for c in chosen if c.kind is kind]
            if len(before) < quota:
                for i in [i for i in usable if i.kind is kind][: 4 * quota]:
                    like = max((float(vectors[i.id] @ vectors[c.id]) for c in before), default=0.0)
                    worth = (1 - settings.diversity) * score[i.id] - settings.diversity * like
                    competing.append((-round(worth, 5), i.id, i))
        if not competing:
            return [i.id for i in chosen]
        chosen.append(min(competing)[2])


@pytest.mark.parametrize("diversity", [0.0, 0.4])
def test_it_recalls_what_comparing_everything_would(
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
            kind=REFLECTION if i % 5 == 0 else EXEMPLAR,
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
    queries = [Query(" ".join(rng.choice(vocabulary, 8)), f"t{i % 10}") for i in range(30)]
    settings = RecallSettings(
        tokens=60, quotas={EXEMPLAR: 3, REFLECTION: 2}, min_similarity=0.1, candidates=40,
        diversity=diversity,
    )  # fmt: skip
    view = world.view()
    found = view.recall(queries, settings, words)
    assert found == view.recall(queries, settings, words)
    alive = items[::3]
    for query, recall in zip(queries, found, strict=True):
        assert [item.id for item in recall.items] == oracle(alive, query, settings, embedder)
        assert recall.items
        assert recall.tokens == sum(words(item.text) for item in recall.items) <= 60
    index.close()


def test_a_large_memory_is_neither_read_nor_held(
    ledger: Ledger, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch, exact: int
) -> None:
    """Only what competes is read; of what the index proposes no vectors are held."""
    read: list[str] = []
    get_many = ledger.get_many

    def reading(model: type[MemoryItem], keys: Sequence[str]) -> dict[str, MemoryItem]:
        read.extend(keys)
        return get_many(model, keys)

    class Counting(BruteForceIndex):
        fetched = 0

        def query(
            self, vectors: Vectors, k: int, seen: dict[str, Vectors] | None = None
        ) -> list[Hits]:
            fetched, found = self.fetched, super().query(vectors, k, seen)
            self.fetched = fetched
            return found

        def vectors(self, ids: Sequence[str]) -> Vectors:
            self.fetched += len(ids)
            return super().vectors(ids)

    index = Counting(32)
    world = World(ledger, HashEmbedder(32), index)
    world.add(*(make_item(f"text number {i}", f"key {i}", task=f"t{i}") for i in range(400)))
    monkeypatch.setattr(ledger, "get_many", reading)
    monkeypatch.setattr(recall_view, "_CACHED", 20)
    view = world.view()
    queries = [Query(f"key {i}", f"t{i}") for i in range(0, 400, 40)]
    for query in queries:
        before = len(read)
        (found,) = view.recall([query], RecallSettings(min_similarity=-1), words)
        assert len(found.items) == 2
        assert len(read) - before <= 32
    assert len(view._items) <= 32
    assert index.fetched == 400 if exact else index.fetched <= 32 * len(queries)


def test_weights_of_recency_and_utility(world: World, make_item: MakeItem) -> None:
    old, used, good, bad = (make_item(t, f"{i}") for i, t in enumerate(["old", "used", "go", "ba"]))
    world.add(old)
    world.add(used, worth=Worth(used=7))
    world.add(good, generation=3, worth=Worth(utility=0.5, used=1))
    world.add(bad, generation=3, worth=Worth(utility=-0.5))
    world.change(generation=9)

    def order(**fields: object) -> list[str]:
        return world.texts("0", quotas={EXEMPLAR: 4}, **fields)

    assert order() == ["old", "used", "go", "ba"]
    assert order(recency=1.0, half_life=2) == ["used", "go", "ba", "old"]
    assert order(utility=1.0) == ["go", "old", "used", "ba"]
    assert order(recency=1.0, half_life=2, utility=1.0) == ["go", "used", "old", "ba"]
    settings = RecallSettings(recency=0.5, half_life=2, utility=0.25, quotas={EXEMPLAR: 4})
    (found,) = world.view().recall([Query("0", "t")], settings, words)
    assert found.recollection is not None
    for candidate in found.recollection.candidates:
        # Generation 9: unused since 1, shown in 7, changed in 3.
        age = {old.id: 8, used.id: 2}.get(candidate.item, 6)
        assert candidate.recency == pytest.approx(0.5 ** (age / 2), abs=1e-5)
        assert candidate.utility == {good.id: 0.5, bad.id: -0.5}.get(candidate.item, 0.0)
        total = candidate.similarity + 0.5 * candidate.recency + 0.25 * candidate.utility
        assert candidate.score == pytest.approx(total, abs=2e-5)
    # What counts beside it does not make a distant item near.
    assert order(recency=9.0, utility=9.0, min_similarity=0.9999) == ["old"]


def test_what_is_on_trial_is_shown_only_while_learning(world: World, make_item: MakeItem) -> None:
    trial, proved = make_item("trial", "0"), make_item("proved", "9")
    world.add(proved)
    world.add(trial, status=Status.SHADOW)
    assert world.texts("0") == ["proved"]
    assert world.texts("0", shadow=True) == ["trial", "proved"]
    view = world.view()
    assert view.ids() == [proved.id]
    assert set(view.ids(shadow=True)) == {trial.id, proved.id}
    (found,) = view.recall([Query("0", "t")], RecallSettings(), words)
    assert verdicts(found, trial, proved) == [None, "shown"]
    world.change(MemoryChange(item=proved.id, status=Status.RETIRED, generation=2), generation=2)
    assert world.view().recall([Query("0", "t")], RecallSettings(), words) == [Recall()]


@pytest.mark.parametrize("status", [Status.RETIRED, Status.QUARANTINED])
def test_what_does_not_live_is_never_shown(
    world: World, make_item: MakeItem, status: Status
) -> None:
    gone, here = make_item("gone", "0"), make_item("here", "9")
    world.add(gone, here)
    world.change(MemoryChange(item=gone.id, status=status, generation=2), generation=2)
    view = world.view()
    assert view.ids(shadow=True) == [here.id]
    for shadow in (False, True):
        (found,) = view.recall([Query("0", "t")], RecallSettings(), words, shadow=shadow)
        assert found.items == (here,)
        assert verdicts(found, gone) == [None]


def test_least_trust(world: World, make_item: MakeItem) -> None:
    items = [
        make_item(t, f"{i}", trust=t) for i, t in enumerate(["untrusted", "judged", "verified"])
    ]
    world.add(*items)
    four: dict[str, object] = {"quotas": {EXEMPLAR: 4}}
    assert world.texts("0", trust="untrusted", **four) == ["untrusted", "judged", "verified"]
    assert world.texts("0", **four) == ["judged", "verified"]  # untrusted ones only if asked for
    assert world.texts("0", trust="verified", **four) == ["verified"]
    (found,) = world.view().recall([Query("0", "t")], RecallSettings(trust=Trust.JUDGED), words)
    assert verdicts(found, *items) == ["trust", "shown", "shown"]


def test_what_is_not_trusted_is_not_even_read(world: World, make_item: MakeItem) -> None:
    world.add(*(make_item(f"poison {i}", f"{i / 100}", trust="untrusted") for i in range(60)))
    world.add(make_item("sound", "30"))
    view = world.view()
    (found,) = view.recall(
        [Query("0", "t")], RecallSettings(trust=Trust.VERIFIED, candidates=8), words
    )
    assert [item.text for item in found.items] == ["sound"]
    assert len(view._items) == 1
    assert found.recollection is not None
    assert len(found.recollection.candidates) == 16


def test_every_candidate_has_its_verdict(world: World, make_item: MakeItem) -> None:
    shown_, second = make_item("the best of all", "0"), make_item("second", "20")
    twin, long = make_item("The best of all!", "1"), make_item("w " * 50, "2")
    own, far = make_item("own", "0", task="mine"), make_item("far", "89")
    known, lesson = make_item("known", "3"), make_item("a lesson", "5", kind=REFLECTION)
    fact = make_item("a fact", "0", kind=Kind.FACT)
    world.add(shown_, second, twin, long, own, far, lesson, fact)
    world.add(known, absorbed_by=("w1",))
    settings = RecallSettings(tokens=20, diversity=0)
    (found,) = world.view("w1").recall([Query("0", "mine")], settings, words)
    assert found.items == (shown_, lesson)
    assert verdicts(found, shown_, known, lesson, second, twin, long, own, far, fact) == [
        "shown", "absorbed", "shown", "quota", "alike", "tokens", None, None, None
    ]  # fmt: skip
    assert found.recollection is not None
    listed = [candidate.item for candidate in found.recollection.candidates]
    assert listed == [i.id for i in (shown_, known, lesson, twin, long, second)]


def test_a_record_stays_small(world: World, make_item: MakeItem) -> None:
    world.add(*(make_item(f"{i} text {i * 7919}", f"{i / 10}") for i in range(300)))
    text = "5 " + "and so on " * 500
    for tokens in (4, 400):  # nothing fits; everything does
        settings = RecallSettings(tokens=tokens - 3, quotas={EXEMPLAR: 5})
        (found,) = world.view().recall([Query(text, "t")], settings, words)
        assert found.recollection is not None
        assert len(found.recollection.candidates) == 16
        assert len(found.recollection.model_dump_json()) < 3500
        assert text.startswith(found.recollection.query)


def test_what_stands_in_the_prompt_is_not_shown_again(world: World, make_item: MakeItem) -> None:
    first = make_item("Split the sentence and join its words.", "0")
    twin = make_item("split the sentence, and join its words", "1")
    other = make_item("Something else entirely.", "3")
    world.add(first, twin, other)
    view = world.view()
    queries = [
        Query("0", "t"),
        Query("0", "t", shown=frozenset({first.id})),
        Query("0", "t", shown=(first.id, other.id, "unknown")),
    ]
    found = view.recall(queries, RecallSettings(), words)
    assert [recall.items for recall in found] == [(first, other), (other,), ()]
    assert verdicts(found[1], first, twin, other) == ["alike", "alike", "shown"]
    assert verdicts(found[2], first, twin, other) == ["alike"] * 3


def test_what_is_counted_is_what_is_shown(world: World, make_item: MakeItem) -> None:
    world.add(make_item("an  exemplar\nas it is", "0"))
    world.add(make_item("a  note \n in lines", "0", kind=REFLECTION))
    counted: list[str] = []
    (found,) = world.view().recall(
        [Query("0", "t")], RecallSettings(), lambda text: counted.append(text) or len(text)
    )
    assert sorted(counted) == ["- a note in lines", "an  exemplar\nas it is"]
    assert found.tokens == sum(map(len, counted))


def test_what_is_left_of_the_budget_is_filled_from_the_nearest(
    world: World, make_item: MakeItem
) -> None:
    long = [make_item(f"{name} " * 4, f"{i}") for i, name in enumerate("abcdefgh")]
    world.add(*long, make_item("short", "20"))
    fields: dict[str, object] = {"tokens": 5, "quotas": {EXEMPLAR: 2}}
    assert world.texts("0", **fields) == [long[0].text, "short"]
    # It is no use to look far for what happens to fit.
    assert world.texts("0", candidates=8, **fields) == [long[0].text]


def test_item_missing_from_the_index_is_loud(
    world: World, make_item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "EXACT", 1)
    item = make_item("a", "0")
    world.ledger.append(item.id, item)
    world.change(MemoryChange(item=item.id, status=Status.ACTIVE, generation=1))
    view = world.view()
    with pytest.raises(VectorIndexError, match=f"lacks 1 items, '{item.id}'"):
        view.recall([Query("0", "t")], RecallSettings(), words)


def test_item_missing_from_the_ledger_is_loud(world: World, make_item: MakeItem) -> None:
    world.change(MemoryChange(item=make_item("a").id, status=Status.ACTIVE, generation=1))
    with pytest.raises(LedgerError, match="no memory item"):
        world.view()


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": -1},
        {"quotas": {"other": 2}},
        {"quotas": {"fact": -1}},
        {"diversity": 2},
        {"candidates": 0},
        {"recency": -1},
        {"half_life": 0},
        {"utility": -0.1},
        {"trust": "much"},
        {"exemplars": 2},
    ],
)
def test_settings_are_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        RecallSettings.model_validate(fields)


def test_working_memory_is_not_recalled() -> None:
    with pytest.raises(ValidationError, match="carried within a task"):
        RecallSettings(quotas={Kind.WORKING: 1})


def test_what_was_split_off_stays_in_its_family(world: World, make_item: MakeItem) -> None:
    world.add(make_item("for gcd", "0", made="split"), make_item("for all", "5"))
    assert world.texts("0", family="gcd") == ["for gcd", "for all"]
    assert world.texts("0", family="lcm") == ["for all"]


def test_first_kinds_do_not_compete_with_others(world: World, make_item: MakeItem) -> None:
    rules = [make_item(f"r{i} v w", f"{80 + i}", kind=Kind.INSIGHT) for i in range(3)]
    near = [make_item(f"e{i} x y", f"{i}") for i in range(3)]
    world.add(*rules, *near)
    asked = {"quotas": {EXEMPLAR: 3, Kind.INSIGHT: 9}, "min_similarity": -1.0, "tokens": 12}
    assert world.texts("0", **asked) == ["e0 x y", "e1 x y", "e2 x y", "r0 v w"]
    first = [Kind.INSIGHT]
    assert world.texts("0", **asked, first=first) == ["r0 v w", "r1 v w", "r2 v w", "e0 x y"]


def test_spread_takes_one_of_each_cluster(world: World, make_item: MakeItem) -> None:
    angles = {"here": (0, 2, 4), "there": (60, 62), "far": (150, 152, 154)}
    items = [make_item(f"{at} {a}", str(a)) for at, own in angles.items() for a in own]
    world.add(*items)
    asked = {"quotas": {EXEMPLAR: 3}, "min_similarity": -1.0}
    assert world.texts("0", **asked) == ["here 0", "here 2", "here 4"]
    assert world.texts("0", **asked, spread=[EXEMPLAR]) == ["here 0", "there 60", "far 150"]
    assert world.texts("155", **asked, spread=[EXEMPLAR]) == ["far 154", "there 62", "here 4"]


def test_clusters_are_the_same_each_time() -> None:
    vectors = Angles().embed([f"{a}" for a in (0, 1, 2, 90, 91, 200)])
    labels = clusters(vectors, 3)
    assert len(set(labels[:3])) == len(set(labels[3:5])) == 1 and len(set(labels)) == 3
    assert (clusters(vectors, 3) == labels).all()
    assert set(clusters(vectors[[0, 0, 0]], 3)) == {0}  # there is but one
    assert clusters(vectors[:0], 3).shape == (0,) and set(clusters(vectors, 99)) == set(range(6))
