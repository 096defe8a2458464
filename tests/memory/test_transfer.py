"""What leaves comes back the same; what comes in is checked line by line and not believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memory import transfer
from memory.ledger import Ledger
from memory.records import (
    Frame,
    Generation,
    Kind,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Status,
    Step,
    Trajectory,
    Trust,
)
from memory.transfer import TransferError

Make = Callable[..., MemoryItem]


def turn(text: str, seen: str, error: str | None = None, reward: float = 0.0) -> Step:
    return Step(
        token_ids=(1, 2), loss_mask=(0, 1), logprobs=(-0.5,), policy="base", text=text,
        action={}, observation=seen, error=error, reward=reward,
    )  # fmt: skip


def episode(slot: str, split: str = "train", success: bool = True, **more: object) -> Trajectory:
    values: dict[str, object] = {
        "slot": slot, "task": "t1", "suite": "s", "family": "gcd", "split": split,
        "phase": "acquire", "policy": "base", "prompt": "Find the key.",
        "frame": Frame(system="You act.", example=("A door.", "open door")),
        "steps": (
            turn("lok", "What?", error="no call"),
            turn("look", "A key ü."),
            turn("take key", "Done.", reward=float(success)),
        ),
        "success": success, "reward": float(success),
    }  # fmt: skip
    return Trajectory.model_validate(values | more)


@pytest.fixture
def generations(ledger: Ledger, make_item: Make) -> list[Generation]:
    """Three: nothing, one item, two items; episodes of both and of the gate."""
    source = episode("1/acquire/t1/0")
    lost = episode("2/acquire/t1/1", success=False)
    gate = episode("gate/x/t2", split="gate", task="t2")
    ledger.append_many([(t.slot, t) for t in (source, lost, gate)])
    turns = {"prompt": "Find the key.", "turns": [["look", "A key ü."], ["take key", "Done."]]}
    a = make_item("look\ntake key", task="t1", sources=(source.slot,), content=turns)
    b = make_item("keys lie about", kind=Kind.INSIGHT, trust=Trust.JUDGED, born=2, sources=())
    ledger.append_many([(i.id, i) for i in (a, b)])
    first = MemorySnapshot(
        generation=1, changes=(MemoryChange(item=a.id, status=Status.ACTIVE, generation=1),)
    )
    second = MemorySnapshot(
        parent=first.id,
        generation=2,
        changes=(MemoryChange(item=b.id, status=Status.SHADOW, generation=2),),
    )
    ledger.append_many([(s.id, s) for s in (first, second)])
    return [
        Generation(
            n=n, parent=0, weights="base", memory=m, decision="kept", cell="incumbent", reason=""
        )
        for n, m in enumerate(("", first.id, second.id))
    ]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_round_trip(
    ledger: Ledger, generations: list[Generation], tmp_path: Path, format_: Any
) -> None:
    out = tmp_path / "out"
    manifest = transfer.export(ledger, out, generations, format_=format_)
    assert json.loads((out / "manifest.json").read_text()) == manifest
    counts = {name: file["rows"] for name, file in manifest["files"].items()}
    assert counts == {f"items.{format_}": 2, f"trajectories.{format_}": 2, f"chat.{format_}": 1}
    assert manifest["left_out"] == {"gate": 1} and manifest["generations"] == [0, 1, 2]
    read = transfer.read_items(out, generation=5, vouched=True)
    stored = {item.text: item for _, item in ledger.all(MemoryItem)}
    assert {i.text for i in read.items.values()} == stored.keys()
    for id_, item in read.items.items():
        was = stored[item.text]
        assert id_ == item.id != was.id and read.origin[id_]["id"] == was.id
        assert (item.made, item.born, item.sources, item.parents) == ("imported", 5, (), ())
        assert (item.kind, item.key, item.content, item.tasks, item.family) == (
            was.kind, was.key, was.content, was.tasks, was.family,
        )  # fmt: skip
        assert read.origin[id_]["sources"] == list(was.sources)


def test_one_generation(ledger: Ledger, generations: list[Generation], tmp_path: Path) -> None:
    transfer.export(ledger, tmp_path, generations[1:2])
    (row,) = lines(tmp_path / "items.jsonl")
    assert (row["kind"], row["status"]) == ("exemplar", "active")
    assert [t["slot"] for t in lines(tmp_path / "trajectories.jsonl")] == ["1/acquire/t1/0"]
    transfer.export(ledger, tmp_path, generations[:1], what=["items"])
    assert lines(tmp_path / "items.jsonl") == []


def test_chat(ledger: Ledger, generations: list[Generation], tmp_path: Path) -> None:
    transfer.export(ledger, tmp_path, generations, what=["chat"])
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".jsonl") == ["chat.jsonl"]
    (row,) = lines(tmp_path / "chat.jsonl")
    assert row["messages"] == [
        {"role": "system", "content": "You act."},
        {"role": "user", "content": "A door."},
        {"role": "assistant", "content": "open door"},
        {"role": "user", "content": "Find the key."},
        {"role": "assistant", "content": "look"},
        {"role": "user", "content": "A key ü."},
        {"role": "assistant", "content": "take key"},
    ]
    assert (row["reward"], row["task"], row["split"]) == (1.0, "t1", "train")
    transfer.export(ledger, tmp_path, generations, what=["chat"], failures=True)
    assert [r["reward"] for r in lines(tmp_path / "chat.jsonl")] == [1.0, 0.0]
    told = transfer.export(ledger, tmp_path, generations, what=["chat"], splits=["gate"])
    assert [r["split"] for r in lines(tmp_path / "chat.jsonl")] == ["gate"]
    assert told["left_out"] == {"train": 2} and told["splits"] == ["gate"]


def test_what_was_erased_is_not_exported(
    ledger: Ledger, generations: list[Generation], tmp_path: Path
) -> None:
    from memory import erase as erasing

    erasing.erase(ledger, erasing.extent(ledger, [], ["1/acquire/t1/0"]))
    transfer.export(ledger, tmp_path, generations)
    assert [r["kind"] for r in lines(tmp_path / "items.jsonl")] == ["insight"]
    assert len(lines(tmp_path / "trajectories.jsonl")) == 1
    assert lines(tmp_path / "chat.jsonl") == []


def test_only_a_vouched_for_and_proved_item_keeps_its_trust(
    ledger: Ledger, generations: list[Generation], tmp_path: Path
) -> None:
    transfer.export(ledger, tmp_path, generations)

    def trust(vouched: bool) -> dict[str, str]:
        read = transfer.read_items(tmp_path, generation=3, vouched=vouched)
        return {item.kind.value: item.trust.value for item in read.items.values()}

    assert trust(False) == {"exemplar": "untrusted", "insight": "untrusted"}
    # The insight names no episode, so nothing proves it.
    assert trust(True) == {"exemplar": "verified", "insight": "untrusted"}
    file = tmp_path / "trajectories.jsonl"
    kept = file.read_text()
    file.write_text("\n".join(line for line in kept.splitlines() if "2/acquire" in line))
    assert trust(True)["exemplar"] == "untrusted"
    file.write_text(kept.replace("take key", "steal key"))
    with pytest.raises(TransferError, match=r"trajectories.jsonl: line 1: .*content hash"):
        trust(True)


def test_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('\ufeff{"kind": "fact", "text": "Water boils at 100 °C."}\n\n')
    (item,) = transfer.read_items(file, generation=4, vouched=True).items.values()
    assert (item.key, item.tasks, item.family, item.trust) == (item.text, (), "", Trust.UNTRUSTED)
    assert item.made == "imported" and item.born == 4


GOOD = '{"kind": "fact", "text": "so it is"}'
TURNS = '{"prompt": "p", "turns": [["done"]]}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is no JSON"),
        ("[1]", "must be an object"),
        ("[" * 100_000, "is no JSON"),
        ('{"kind": "fact", "text": "\\ud800"}', "is no JSON"),
        ('{"kind": "fact", "text": "x", "content": {"n": NaN}}', "is no JSON"),
        ('{"kind": "poem", "text": "x"}', "kind: "),
        ('{"text": "x"}', "kind: Field required"),
        ('{"kind": "fact"}', "text: Field required|key: "),
        ('{"kind": "fact", "text": " "}', "text: is empty"),
        ('{"kind": "fact", "text": 3}', "text: |key: "),
        ('{"kind": "fact", "text": "x", "colour": "red"}', "colour: Extra inputs"),
        ('{"kind": "fact", "text": "x", "trust": "total"}', "trust: "),
        ('{"kind": "working", "text": "x"}', "kind: working is never stored"),
        ('{"kind": "exemplar", "text": "x"}', "content: an exemplar needs a prompt and turns"),
        (f'{{"kind": "exemplar", "text": "x", "content": {TURNS}}}', "content: an exemplar"),
        ('{"kind": "fact", "text": "x", "id": "0123456789abcdef"}', "id: does not match"),
        ('{"kind": "fact", "text": "x", "tasks": ["held"]}', "tasks: held is held out"),
    ],
)
def test_mistakes_name_file_line_and_field(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(TransferError, match=rf"mine\.jsonl: line 2: ({says})") as raised:
        transfer.read_items(file, generation=1, learnable=lambda task: task != "held")
    assert "\n" not in str(raised.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no such file"):
        transfer.read_items(tmp_path / "nope.jsonl", generation=1)
    with pytest.raises(TransferError, match="holds neither"):
        transfer.read_items(tmp_path, generation=1)
    (tmp_path / "items.parquet").write_bytes(b"PAR0")
    with pytest.raises(TransferError, match="is no Parquet file"):
        transfer.read_items(tmp_path, generation=1)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(TransferError, match=r"empty\.jsonl: holds no item$"):
        transfer.read_items(tmp_path / "empty.jsonl", generation=1)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(TransferError, match="cannot be read"):
        transfer.read_items(tmp_path / "bytes.jsonl", generation=1)
    (tmp_path / "file").touch()
    with pytest.raises(TransferError, match="cannot be written"):
        transfer.export(Ledger(tmp_path / "l.db"), tmp_path / "file", [])


def test_an_export_that_was_changed(
    ledger: Ledger, generations: list[Generation], tmp_path: Path
) -> None:
    transfer.export(ledger, tmp_path, generations)
    file = tmp_path / "items.jsonl"
    file.write_text(file.read_text() + GOOD + "\n")
    with pytest.raises(TransferError, match="was changed since it was exported"):
        transfer.read_items(tmp_path, generation=1)
    (tmp_path / "manifest.json").unlink()
    assert len(transfer.read_items(tmp_path, generation=1).items) == 3
    (tmp_path / "manifest.json").write_text('{"format": "instar-export", "version": 9}')
    with pytest.raises(TransferError, match="version 9"):
        transfer.read_items(tmp_path, generation=1)
