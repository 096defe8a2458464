"""Kill processes that use a store (ledger and index), again and again; for test_store_crash.

    python store_driver.py FOLDER KILLS SEED

Every process is forked from this one, which has imported all there is, so that a kill takes a
fraction of a second. A child takes the lock, checks that the store holds what was acknowledged
before, says so, then adds, merges and rebuilds until it is killed. At the end one JSON line tells
what happened.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import chromadb  # noqa: F401  (once for all children)

from memory import history
from memory.embed import HashEmbedder
from memory.index import Index, LedgerKeys, open_index
from memory.ledger import Ledger
from memory.lock import LockError, RunLock
from memory.records import Kind, MemoryChange, MemoryItem, MemorySnapshot, Status

EMBEDDER = HashEmbedder(16)


def item(text: str, *parents: str) -> MemoryItem:
    return MemoryItem(
        kind=Kind.FACT,
        text=text,
        key=text,
        sources=("0/acquire/t/0",),
        tasks=("t",),
        family="f",
        born=1,
        made="merged" if parents else "added",
        parents=parents,
    )


def check(ledger: Ledger, index: Index, said: set[str]) -> list[str]:
    """What of the acknowledged is lost or cannot be reached."""
    keys = LedgerKeys(ledger)
    stored = list(keys)
    faults = [f"lost: {id_}" for id_ in said - set(stored)]
    if index.ids() != set(stored):
        faults.append("the index does not hold what the ledger holds")
    vectors = EMBEDDER.embed([keys[id_] for id_ in stored])
    for id_, hits in zip(stored, index.query(vectors, 10), strict=True):
        if id_ not in dict(hits) and hits[-1][1] < 0.999:
            faults.append(f"unreachable: {id_}")
    newest = ledger.last(MemorySnapshot)
    if newest is not None:
        shown = {i.id for i in history.items(ledger, newest[0])}
        faults += [f"in a snapshot, not in the ledger: {id_}" for id_ in shown - set(stored)]
    return faults


def work(folder: Path, said: set[str], seed: int, out: int) -> None:
    """In a child: never returns by itself."""
    chance = random.Random(seed)

    def tell(line: str) -> None:
        os.write(out, f"{line}\n".encode())

    with RunLock(folder), Ledger(folder / "ledger.db") as ledger:
        tell("locked")
        index = open_index(folder / "index", EMBEDDER, LedgerKeys(ledger))
        for fault in check(ledger, index, said):
            tell(f"fault {fault}")
        tell("checked")
        for turn in itertools.count():
            what = chance.choice(("add", "add", "add", "merge", "merge", "rebuild"))
            if what == "rebuild":
                index.close()
                index = open_index(folder / "index", EMBEDDER, LedgerKeys(ledger), rebuild=True)
            else:
                newest = ledger.last(MemorySnapshot)
                parent, known = newest[0] if newest else "", ledger.keys(MemoryItem)
                merged = chance.sample(known, 2) if what == "merge" and len(known) > 1 else []
                made = [item(f"{seed} {turn} {n} {chance.random()}", *merged) for n in range(2)]
                changes = [(i.id, Status.ACTIVE) for i in made]
                changes += [(id_, Status.RETIRED) for id_ in merged]
                snapshot = MemorySnapshot(
                    parent=parent,
                    generation=1,
                    changes=tuple(
                        MemoryChange(item=id_, status=status, generation=1)
                        for id_, status in changes
                    ),
                )
                ledger.append_many([(i.id, i) for i in made])
                index.add([i.id for i in made], EMBEDDER.embed([i.key for i in made]))
                ledger.append(snapshot.id, snapshot)
                for i in made:
                    tell(f"said {i.id}")
            tell(f"did {what}")


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    said: set[str] = set()
    faults: list[str] = []
    done = {"add": 0, "merge": 0, "rebuild": 0}
    opening = refused = 0
    for number in range(kills + 1):  # the last only checks, and is killed for all that
        early = number % 20 == 19  # killed while it opens and checks
        got, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(got)
            try:
                work(folder, said, seed * 1000 + number, into)
            except BaseException as error:
                os.write(into, f"fault {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(1)
        os.close(into)
        enough = chance.randrange(1, 6) if number % 3 == 0 and number < kills else 0
        with os.fdopen(got) as pipe:
            heard: list[str] = []
            for line in pipe:
                heard.append(line.strip())
                if heard[-1] == "locked" and number % 10 == 0:
                    try:
                        RunLock(folder).__enter__()
                    except LockError:
                        refused += 1
                if heard[-1] == "locked" and early:
                    break
                # However slow the machine: now and then it gets something done.
                if "checked" in heard and sum(h.startswith("did") for h in heard) >= enough:
                    break
            if number < kills:
                time.sleep(chance.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            heard += [line.strip() for line in pipe]
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            faults.append(f"{number}: ended by itself")
        opening += "checked" not in heard
        for line in heard:
            word, _, rest = line.partition(" ")
            if word == "fault":
                faults.append(f"{number}: {rest}")
            elif word == "said":
                said.add(rest)
            elif word == "did":
                done[rest] += 1
    print(json.dumps({"faults": faults, "said": len(said), "done": done, "opening": opening,
                      "refused": refused}))  # fmt: skip


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    main()
