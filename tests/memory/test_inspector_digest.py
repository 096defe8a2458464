"""The digest against the ledger: `history.state` is the oracle for every generation."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from memory import history
from memory.embed import HashEmbedder
from memory.inspector import pages, queries
from memory.inspector.digest import NAME, Digest, discard
from memory.inspector.follow import Followed
from memory.inspector.place import place, principal_plane
from memory.inspector.queries import Changes, Episodes, Items
from memory.inspector.spans import EVENTS
from memory.ledger import Ledger, LedgerError
from memory.records import (
    Generation,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Note,
    Status,
    Trajectory,
    standing,
)
from tests.made_run import write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made run with every kind of record; its ledger."""
    return write_run(tmp_path_factory.mktemp("made"), items=90, episodes=300, generations=6, seed=3)


@pytest.fixture
def digest(made: Path, tmp_path: Path) -> Digest:
    digest = Digest(made, tmp_path)
    assert digest.update()
    return digest


def content(digest: Digest) -> dict[str, list[tuple]]:
    """All that a digest holds, but for when it was made."""
    with digest.open() as db:
        names = [
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        return {name: sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) for name in names}


def all_items(digest: Digest, n: int) -> list[dict]:
    found: list[dict] = []
    while True:
        page = queries.items(digest, Items(generation=n, offset=len(found), limit=37))
        found += page["rows"]
        if not page["rows"]:
            assert len(found) == page["total"]
            return found


def test_memory_of_every_generation_is_the_ledgers(made: Path, digest: Digest) -> None:
    standings = set()
    with Ledger(made, read_only=True) as ledger:
        for _, generation in ledger.all(Generation):
            wanted = {
                id_: (standing(change, generation.weights), change.worth.utility)
                for id_, change in history.state(ledger, generation.memory).items()
            }
            rows = all_items(digest, generation.n)
            assert {r["id"]: (r["standing"], r["utility"]) for r in rows} == wanted
            counts = Counter(value for value, _ in wanted.values())
            told = Counter()
            for row in queries.timeline(digest)["counts"]:
                if row["generation"] == generation.n:
                    told[row["standing"]] += row["n"]
            assert told == counts
            standings |= set(counts)
            for row in rows:
                item = ledger.get(MemoryItem, row["id"])
                assert row["text"] == item.text[:400]
                assert (row["kind"], row["family"]) == (item.kind, item.family)
    assert {"active", "absorbed", "shadow", "retired"} <= standings


def test_deltas_add_up_to_every_generation(digest: Digest) -> None:
    names = ["gone", "shadow", "active", "absorbed", "retired", "quarantined"]
    now: dict[int, str] = {}
    for delta in json.loads(queries.deltas(digest)):
        now |= dict(zip(delta["items"], (names[s] for s in delta["standings"]), strict=True))
        rows = all_items(digest, delta["generation"])
        assert {r["no"]: r["standing"] for r in rows} == {
            k: v for k, v in now.items() if v != "gone"
        }


def test_a_generations_changes_are_its_diff(made: Path, digest: Digest) -> None:
    with Ledger(made, read_only=True) as ledger:
        for n in queries.timeline(digest)["generations"]:
            told = pages.generation(digest, ledger, n)
            assert told is not None
            for event in told["events"]:
                rows = queries.changes(
                    digest, Changes(generation=n, event=event["event"], limit=500)
                )
                assert len(rows) == event["n"]
                assert rows[: len(event["rows"])] == event["rows"]
                for row in rows:
                    item = ledger.get(MemoryItem, row["id"])
                    if row["event"] in ("merged", "revised"):
                        assert {p["id"] for p in row["parents"]} == set(item.parents)
                    if row["event"] == "added":
                        assert (item.born, item.made) == (n, "added")


def test_kept_up_bit_by_bit_it_is_the_same(made: Path, digest: Digest, tmp_path: Path) -> None:
    """A ledger that grows record by record, digested at random moments."""
    rng = random.Random(0)
    models = (MemoryItem, MemorySnapshot, Generation, Trajectory)
    with Ledger(made, read_only=True) as source:
        records = [(source.created(m, k), k, r) for m in models for k, r in source.all(m)]
    with Ledger(tmp_path / "grown.sqlite") as grown:
        bits = Digest(grown.path, tmp_path / "bits")
        for _, key, record in sorted(records, key=lambda entry: entry[0]):
            grown.append(key, record)
            if rng.random() < 0.1:
                bits.update()
        bits.update()
        assert not bits.update()
        whole = Digest(grown.path, tmp_path / "whole")
        whole.update()
    assert content(bits) == content(whole)


def test_two_at_once_count_nothing_twice(made: Path, digest: Digest, tmp_path: Path) -> None:
    both = [Digest(made, tmp_path / "both") for _ in range(2)]
    threads = [threading.Thread(target=each.update) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(both[0]) == content(digest)


def test_rollback_makes_items_unknown_and_known_again(tmp_path: Path, make_item) -> None:
    a, b = make_item("a"), make_item("b")
    one = MemorySnapshot(
        generation=1, changes=(MemoryChange(item=a.id, status=Status.ACTIVE, generation=1),)
    )
    two = MemorySnapshot(
        parent=one.id,
        generation=2,
        changes=(
            MemoryChange(item=b.id, status=Status.ACTIVE, generation=2),
            MemoryChange(item=a.id, status=Status.RETIRED, generation=2, reason="no use"),
        ),
    )

    def generation(n: int, memory: str, weights: str = "base") -> tuple[str, Generation]:
        return f"{n:06}", Generation(
            n=n, parent=max(0, n - 1), weights=weights, memory=memory, decision="rollback",
            cell="incumbent", reason="",
        )  # fmt: skip

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.append_many([(a.id, a), (b.id, b), (one.id, one), (two.id, two)])
        memories = ["", one.id, two.id, one.id, "", two.id]
        ledger.append_many([generation(n, memory) for n, memory in enumerate(memories)])
        digest = Digest(ledger.path)
        digest.update()
        for n, memory in enumerate(memories):
            wanted = {i: c.status.value for i, c in history.state(ledger, memory).items()}
            assert {r["id"]: r["standing"] for r in all_items(digest, n)} == wanted, n
        told = pages.item(digest, ledger, b.id)
        assert told is not None
        assert [(s["start"], s["event"]) for s in told["spans"]] == [
            (2, "added"), (3, "undone"), (5, "restored"),
        ]  # fmt: skip
        events = [(s["start"], s["event"]) for s in pages.item(digest, ledger, a.id)["spans"]]
        assert events == [
            (1, "added"), (2, "retired"), (3, "readmitted"), (4, "undone"), (5, "restored"),
        ]  # fmt: skip
        assert {event for _, event in events} <= set(EVENTS)


def test_other_weights_alone_absorb_and_return(tmp_path: Path, make_item) -> None:
    item = make_item("a")
    snapshot = MemorySnapshot(
        generation=1,
        changes=(
            MemoryChange(
                item=item.id, status=Status.ACTIVE, generation=1, absorbed_by=("w2",), reason="new"
            ),
        ),
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.append_many([(item.id, item), (snapshot.id, snapshot)])
        for n, weights in enumerate(("base", "w1", "w2", "w3")):
            record = Generation(
                n=n, parent=0, weights=weights, memory=snapshot.id, decision="promoted",
                cell="weights", reason="",
            )  # fmt: skip
            ledger.append(f"{n:06}", record)
        digest = Digest(ledger.path)
        digest.update()
        spans = pages.item(digest, ledger, item.id)["spans"]
    assert [(s["start"], s["standing"], s["event"]) for s in spans] == [
        (0, "active", "added"), (2, "absorbed", "absorbed"), (3, "active", "returned"),
    ]  # fmt: skip
    assert spans[2]["reason"] == EVENTS["returned"], "not the reason of a change long ago"


def test_items_are_found_and_sorted(made: Path, digest: Digest) -> None:
    everything = all_items(digest, 6)
    for name in ("kind", "standing", "family"):
        value = everything[0][name]
        page = queries.items(digest, Items(generation=6, **{name: value}, limit=500))
        assert {r["id"] for r in page["rows"]} == {r["id"] for r in everything if r[name] == value}
        assert page["total"] == len(page["rows"])
    by_utility = [
        r["utility"]
        for r in queries.items(digest, Items(generation=6, sort="utility", limit=500))["rows"]
    ]
    assert by_utility == sorted(by_utility, reverse=True)
    with Ledger(made, read_only=True) as ledger:
        texts = {k: f"{i.text}\n{i.key}".lower() for k, i in ledger.all(MemoryItem)}
    for text in ("garnet", "100%", "print('", "_", '"', "\\n"):
        found = queries.items(digest, Items(generation=6, text=text, limit=500))
        here = {r["id"] for r in everything}
        assert {r["id"] for r in found["rows"]} == {
            id_ for id_ in here if text.lower() in texts[id_]
        }, text
    one = everything[3]["id"]
    assert [r["id"] for r in queries.items(digest, Items(generation=6, text=one[:10]))["rows"]] == [
        one
    ]


def test_uses_are_the_episodes_that_showed_it(made: Path, digest: Digest) -> None:
    with Ledger(made, read_only=True) as ledger:
        trajectories = [t for _, t in ledger.all(Trajectory)]
        row = max(all_items(digest, 6), key=lambda r: r["uses"])
        used = [t for t in trajectories if row["id"] in t.recalled]
        assert (row["uses"], row["wins"]) == (len(used), sum(t.success for t in used))
        told = pages.item(digest, ledger, row["id"])
        assert sum(u["uses"] for u in told["used"]) == len(used)
        listed = queries.episodes(digest, Episodes(item=row["id"], limit=500))
        assert {e["slot"] for e in listed["rows"]} == {t.slot for t in used}
        assert [e["slot"] for e in told["sources"]] == list(
            ledger.get(MemoryItem, row["id"]).sources
        )


def test_episodes_are_found(made: Path, digest: Digest) -> None:
    with Ledger(made, read_only=True) as ledger:
        trajectories = {t.slot: t for _, t in ledger.all(Trajectory)}
    rows = queries.episodes(digest, Episodes(limit=500))
    assert [r["slot"] for r in rows["rows"]] == list(reversed(trajectories))
    assert rows["won"] == sum(t.success for t in trajectories.values())
    for row in rows["rows"]:
        t = trajectories[row["slot"]]
        assert (row["tokens"], row["steps"], row["generation"]) == (
            t.produced_tokens, len(t.steps), int(t.slot.split("/")[0]),
        )  # fmt: skip
    wanted = {
        "success": lambda t: t.success,
        "wrong": lambda t: not t.success and t.failure is None,
        "error": lambda t: any(s.error for s in t.steps),
        "broken": lambda t: t.failure is not None,
    }
    for outcome, holds in wanted.items():
        page = queries.episodes(digest, Episodes(outcome=outcome, family="gcd", limit=500))
        slots = {s for s, t in trajectories.items() if holds(t) and t.family == "gcd"}
        assert {r["slot"] for r in page["rows"]} == slots, outcome


def test_an_episode_is_told_with_what_it_recalled(made: Path, digest: Digest) -> None:
    with Ledger(made, read_only=True) as ledger:
        slot = queries.episodes(digest, Episodes(generation="6", outcome="error"))["rows"][0][
            "slot"
        ]
        told = pages.episode(digest, ledger, slot)
        trajectory = ledger.get(Trajectory, slot)
    assert told["looks"]
    assert [
        c["item"] for look in told["looks"] for c in look["candidates"] if c["verdict"] == "shown"
    ]
    assert set(trajectory.recalled) <= set(told["items"])
    assert [s["written"] for s in told["steps"]] == [sum(s.loss_mask) for s in trajectory.steps]
    assert "token_ids" not in told["steps"][0], "large, and nobody reads them"


def test_another_ledgers_digest_is_made_anew(made: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", items=10, episodes=20, generations=2, seed=9)
    folder = tmp_path / "digest"
    Digest(other, folder).update()
    digest = Digest(made, folder)
    digest.update()
    assert digest.state()["episodes"] == 300


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100])
def test_a_damaged_digest_is_made_anew(made: Path, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / NAME).write_bytes(damage)
    digest = Digest(made, tmp_path)
    digest.update()
    assert digest.state()["items"] == 90


def test_it_lies_in_the_runs_index_and_can_be_discarded(made: Path, tmp_path: Path) -> None:
    ledger = shutil.copy(made, tmp_path / "ledger.sqlite")
    digest = Digest(Path(ledger))
    digest.update()
    assert digest.path == tmp_path / "index" / NAME
    discard(Path(ledger))
    assert not list((tmp_path / "index").iterdir())


def test_it_holds_no_items_text(made: Path, digest: Digest) -> None:
    """What is erased from the ledger is not to be found here either."""
    with Ledger(made, read_only=True) as ledger:
        insights = [i.text for _, i in ledger.all(MemoryItem) if i.kind == "insight"]
    assert insights
    stored = "\n".join(row for rows in content(digest).values() for row in rows)
    assert not [text for text in insights if text in stored]


def test_what_is_erased_is_gone_from_here_as_well(made: Path, tmp_path: Path) -> None:
    """Written by hand as `Ledger.erase` does it: an Erasure record, and stand-ins."""
    path = Path(shutil.copy(made, tmp_path / "ledger.sqlite"))
    digest = Digest(path)
    digest.update()
    place(digest, HashEmbedder())
    episode = queries.episodes(digest, Episodes(generation="3", outcome="success"))["rows"][0]
    item = next(r for r in all_items(digest, 6) if r["standing"] == "active" and r["uses"])
    total = queries.items(digest, Items(generation=6))["total"]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TRIGGER records_no_update")
        for kind, key, gone in (
            ("MemoryItem", item["id"], {"text": "erased", "key": "erased", "content": {}}),
            ("Trajectory", episode["slot"], {
                "prompt": "", "steps": [], "metrics": {"erased_tokens": episode["tokens"]},
            }),
        ):  # fmt: skip
            seq, body = db.execute(
                "SELECT seq, body FROM records WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
            stand_in = json.dumps(json.loads(body) | gone)
            db.execute("UPDATE records SET body = ? WHERE seq = ?", (stand_in, seq))
            db.execute(
                "INSERT INTO records (kind, key, id, body, chain, created) "
                "VALUES ('Erasure', ?, ?, ?, ?, 0)",
                (key, key, json.dumps({"records": [[seq, "digest"]]}), key),
            )
    digest.update()
    place(digest, HashEmbedder())
    assert digest.state()["unplaced"] == 0
    assert episode["prompt"][:40] not in str(content(digest)["tasks"])
    assert queries.items(digest, Items(generation=6))["total"] == total, "that it was is still told"
    (row,) = [r for r in all_items(digest, 6) if r["id"] == item["id"]]
    assert (row["text"], row["standing"], row["uses"]) == (None, "retired", item["uses"])
    assert queries.points(digest)["x"][row["no"]] is None
    (played,) = queries.episodes(digest, Episodes(text=episode["slot"]))["rows"]
    assert (played["tokens"], played["success"]) == (episode["tokens"], 1)
    assert not digest.update(), "made anew once"


def test_the_ledger_is_left_as_it_was(made: Path, tmp_path: Path) -> None:
    before = made.read_bytes()
    followed = Followed("made", made, folder=tmp_path)
    followed.catch_up()
    assert followed.state()["unplaced"] == 0
    followed.close()
    assert made.read_bytes() == before


def test_a_record_of_another_form_is_named(tmp_path: Path) -> None:
    """It stops there, loudly; what came before is kept."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.append("date/1", Note(data={"date": "today"}))
        ledger.append("adapter/x", Note(data={"sources": 5}))
        followed = Followed("odd", ledger.path)
        followed.catch_up()
        assert "record 2 (Note 'adapter/x')" in followed.state()["warning"]
        followed.close()


def test_no_ledger_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger here"):
        Followed("none", tmp_path / "ledger.sqlite")


def test_principal_plane_is_the_svds() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    vectors[:, 3] *= 5
    vectors[:, 7] *= 3
    mean, plane = principal_plane(vectors)
    _, _, right = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    assert np.allclose(mean, vectors.mean(axis=0), atol=1e-5)
    assert np.allclose(np.abs(np.sum(plane * right[:2], axis=1)), 1, atol=1e-4)
    assert (principal_plane(vectors)[1] == plane).all()


def test_points_stay_while_the_memory_grows(tmp_path: Path, make_item) -> None:
    items = [
        make_item(f"{('red', 'blue', 'green')[i % 3]} thing {i}", task=f"t{i}") for i in range(90)
    ]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.append_many([(i.id, i) for i in items[:30]])
        digest = Digest(ledger.path)
        digest.update()
        place(digest, HashEmbedder())
        first = queries.points(digest)
        assert None not in first["x"]
        ledger.append_many([(i.id, i) for i in items[30:]])
        digest.update()
        assert queries.points(digest)["x"][30:] == [None] * 60
        place(digest, HashEmbedder())
        grown = queries.points(digest)
        assert (grown["x"][:30], grown["y"][:30]) == (first["x"], first["y"])
        assert None not in grown["x"]
        place(digest, HashEmbedder(64))
        moved = queries.points(digest)
        assert moved["embedder"] == "hash-1-64"
        assert moved["x"] != grown["x"]
        assert None not in moved["x"]
