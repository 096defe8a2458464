"""A run: its folder, its ledger and index, and who acts in it.

``runs/x/`` holds ``config.yaml``, ``ledger.sqlite`` (the truth), ``index/`` (rebuilt from
it when in doubt), ``generations/NNN/`` (adapter, scores, decision), ``summary.json`` and
``report.html``. Everything that happened is looked up in the ledger before it is done, so a
process that dies loses nothing and does nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from agent.config import Config, ConfigError
from agent.engines import Engine
from agent.loop import Assignment, seed_of
from agent.made_tasks import MadeTasks
from agent.members import cast, leader
from agent.policies.base import Message, Policy, Request
from agent.report.terminal import phase
from agent.rollout import rollout
from agent.run_folder import (
    CONFIG,
    ENGINE_LOG,
    LEDGER,
    RunError,
    open_ledger,
    settle_config,
    stored_adapter,
    take_back,
    write_text,
)
from agent.run_memory import RunMemory
from agent.training.adapter_set import AdapterSet
from agent.worlds import configured_sandbox, configured_suite, refuse_unsafe
from environments.base import Suite, SuiteError, Task
from environments.sandbox.base import Sandbox
from environments.splits import Split, first_of_each_family, split_of, split_tasks
from memory.ledger import Ledger, LedgerError
from memory.lock import RunLock
from memory.records import Generation, MemoryItem, Note, StopReason, Trajectory

AGAIN = "/again"  # a slot's second try, after its first one broke
MOSTLY_BROKEN = 0.5  # a phase with more broken episodes than this stops the run


class Run:
    """An open run folder; use it as a context manager.

    Args:
        folder: the run folder; made if it is missing.
        config: what to run; None reads the folder's own.
        console: where progress goes.
        quiet: no progress.
        unsafe: whether the sandbox may be ``none``.

    Raises:
        ConfigError, SuiteError, ModelError, LedgerError, SandboxUnavailable: one line each.
    """

    def __init__(
        self,
        folder: Path,
        config: Config | None = None,
        *,
        console: Console | None = None,
        quiet: bool = False,
        unsafe: bool = False,
    ):
        self.folder, self.unsafe = folder, unsafe
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        if config is None and not (folder / CONFIG).is_file():
            raise ConfigError(f"{folder} is no run folder: it has no {CONFIG}")
        if config is not None:
            refuse_unsafe(config, unsafe)  # before there is a folder
        self._stored, fresh = False, not folder.exists()
        with ExitStack() as opened:  # closed again if anything here fails
            opened.enter_context(RunLock(folder))
            if fresh:
                opened.push(self._take_back)
            if (folder / CONFIG).exists() and not (folder / LEDGER).exists():
                raise LedgerError(  # it is made before the configuration is written
                    f"{folder / LEDGER} is gone, and with it what happened in this run: restore "
                    "it, or begin in another --run folder"
                )
            self.ledger = opened.enter_context(Ledger(folder / LEDGER))
            begun = self.ledger.count(Trajectory) > 0
            self.config = settle_config(folder, config, begun, self.ledger)
            self._opened = opened.pop_all()
        self.made = MadeTasks(self.ledger)
        self._suite: Suite | None = None
        self._tasks: dict[Split, list[Task]] | None = None
        self._vouched: frozenset[str] | None = None
        self._policy: Policy | None = None
        self._lender: tuple[Path, Ledger] | None = None  # whose weights act, if not its own
        self.sets: dict[str, AdapterSet | None] = {}  # those that acted, checked once
        self.trials: dict[str, Path] = {}  # adapters that are tried and not in the ledger
        self.engine = Engine(self.config, folder / ENGINE_LOG, self._engine_said, unsafe=unsafe)
        self.memory = RunMemory(
            folder / "index",
            self.config.memory,
            self.ledger,
            lambda version: (self._policy or self.policy(version)).count,  # one for all versions
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.memory.close()
        if self._policy is not None:
            self._policy.close()
        self.engine.close()
        self._stored = any(self.ledger.count(model) for model in (Trajectory, MemoryItem, Note))
        self._opened.__exit__(kind, error, traceback)

    def _take_back(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the folder that this opening made, if it failed before anything was stored."""
        if kind is not None and not self._stored:
            take_back(self.folder)

    # --- what there is to do ---

    @property
    def suite(self) -> Suite:
        if self._suite is None:
            self._suite = configured_suite(self.config, unsafe=self.unsafe)
        return self._suite

    def tasks(self, split: Split) -> list[Task]:
        """The tasks of a split that this run uses, at most so many per family as configured.

        What the suite does not vouch for is practised and never measured; an unseen family
        (``suite.unseen``) is tested and nothing else.
        """
        if self._tasks is None:
            unseen = self._unseen()
            every = split_tasks(
                task
                for task in self.suite.tasks()
                if (split_of(task.id) == "train" or self.vouched(task.id))
                and (split_of(task.id) == "test" or task.family not in unseen)
            )
            counts = self.config.suite.tasks
            self._tasks = {
                name: first_of_each_family(own, getattr(counts, name))
                for name, own in every.items()
            }
        if not self._tasks[split]:
            filled = ", ".join(name for name, own in self._tasks.items() if own)
            raise SuiteError(
                f"suite {self.config.suite.name}: no tasks in split {split} (there are some in: "
                f"{filled or 'none'}); to be split four ways it needs about 20 per family"
            )
        more = [made.task for made in self.made.values()] if split == "train" else []
        return [*self._tasks[split], *more]

    def _unseen(self) -> frozenset[str]:
        unseen = frozenset(self.config.suite.unseen)
        families = {task.family for task in self.suite.tasks()} if unseen else set()
        if missing := sorted(unseen - families):
            raise SuiteError(
                f"suite.unseen: suite {self.config.suite.name} has no family {missing[0]}; it has: "
                f"{', '.join(sorted(families))}"
            )
        return unseen

    def vouched(self, task: str) -> bool:
        """Whether the suite answers for a task, by its id; never for one that it does not list.

        A suite that says nothing answers for all (see `agent.evolution.update.provenance`). A
        task that was made up is vouched for if what it was made from is.
        """
        if (made := self.made.get(task)) is not None:
            return made.vouched
        asked = getattr(self.suite, "vouched", None)
        if asked is None:
            return True
        if self._vouched is None:
            self._vouched = frozenset(t.id for t in self.suite.tasks() if asked(t))
        return task in self._vouched

    def sandbox(self) -> Sandbox:
        """A fresh sandbox as configured; close it.

        Raises:
            SandboxUnavailable: there is none on this machine.
        """
        return configured_sandbox(self.config, unsafe=self.unsafe)

    # --- who acts ---

    def adapter(self, version: str) -> Path | None:
        """Folder of an adapter, checked; None for the base weights."""
        folder, ledger = self._lender or (self.folder, self.ledger)
        return self.trials.get(version) or stored_adapter(folder, ledger, version)

    def policy(self, version: str) -> Policy:
        """The policy at a version of its weights; one is held in memory at a time.

        Of an adapter set it is the member that is named, or the base model (see `leader`).
        """
        version = leader(self, version)
        if self._policy is None or self._policy.version != version:
            if self._policy is not None:
                self._policy.close()
                self._policy = None
            self._policy = self.engine.policy(self.adapter(version), version)
        return self._policy

    def borrow(self, other: Path) -> None:
        """Act with another run's weights and read its memory, without writing to it."""
        self._lender = other, open_ledger(other)
        self.memory.borrow(self._lender[1])

    # --- doing it, once ---

    def episodes(
        self, label: str, assignments: Sequence[Assignment], version: str
    ) -> list[Trajectory]:
        """Run the episodes that the ledger does not hold yet; return all, in order.

        Each is stored when it ends. What broke is tried once more (and again whenever the run
        is continued); the second try is stored only if it does not break.

        Raises:
            RunError: most of them broke.
        """
        missing = [a for a in assignments if self.ledger.get(Trajectory, a.slot) is None]
        for _ in self._play(label, missing, version, keep_broken=True):
            pass
        again = [a._replace(slot=a.slot + AGAIN) for a in assignments if self.done(a.slot) is None]
        second = {
            t.slot.removesuffix(AGAIN): t
            for t in self._play(f"{label} · once more", again, version, keep_broken=False)
        }
        trajectories = []
        for a in assignments:
            found = self.done(a.slot) or second.get(a.slot) or self.ledger.get(Trajectory, a.slot)
            assert found is not None
            trajectories.append(found)
        cut = sum(t.stop is StopReason.CONTEXT and not t.steps for t in trajectories)
        if cut > MOSTLY_BROKEN * len(trajectories):
            raise RunError(
                f"{label}: {cut} of {len(trajectories)} prompts leave no room for an answer in "
                f"policy.context={self.config.policy.context}; begin a run with a larger one"
            )
        broken = [t.failure for t in trajectories if t.failure is not None]
        if len(broken) > MOSTLY_BROKEN * len(trajectories):
            raise RunError(
                f"{label}: {len(broken)} of {len(trajectories)} episodes broke, "
                f"the last in the {broken[-1].source}: {broken[-1].message}; mend that and run "
                "the same command again"
            )
        return trajectories

    def done(self, slot: str) -> Trajectory | None:
        """The stored episode of a slot, unless it broke."""
        for key in (slot, slot + AGAIN):
            found = self.ledger.get(Trajectory, key)
            if found is not None and found.failure is None:
                return found
        return None

    def _play(
        self, label: str, assignments: Sequence[Assignment], version: str, *, keep_broken: bool
    ) -> Iterator[Trajectory]:
        """Run episodes; each is stored when it ends."""
        if not assignments:
            return
        with phase(self.console, label, len(assignments), quiet=self.quiet) as meter:
            for weights, own in cast(self, assignments, version):
                for done in self._rollout(own, weights):
                    kept = [(t.slot, t) for t in done if keep_broken or t.failure is None]
                    self.ledger.append_many(kept)
                    tokens = sum(t.produced_tokens for t in done)
                    meter.advance(len(done), tokens, sum(t.success for t in done))
                    yield from done

    def _rollout(
        self, assignments: Sequence[Assignment], version: str
    ) -> Iterator[list[Trajectory]]:
        """Episodes as they end, played where the configuration says."""
        policy = self.policy(version)
        if self.engine.fleet is not None:
            return self.engine.fleet.rollout(assignments)
        return rollout(
            assignments,
            policy,
            self.suite,
            self.config.agent,
            seed=self.config.seed,
            in_flight=self.config.policy.slots * 3 // 2,
            seconds=self.config.suite.seconds,
        )

    def say(
        self,
        label: str,
        asked: Mapping[str, Sequence[Message]],
        version: str,
        tokens: int,
        choices: Sequence[str] = (),
        temperature: float = 0.0,
        ids: bool = False,
    ) -> dict[str, str]:
        """What the policy answers; each is asked once, then looked up under its key.

        Args:
            label: of the progress line.
            asked: conversations by key.
            version: the weights that answer.
            tokens: most tokens of an answer. What leaves no room for it is answered by "".
            choices: if there are any, the answer is one of these.
            temperature: 0 is greedy; else the run's seed and the key decide the draws.
            ids: note the answers' token ids too, under "ids".
        """
        missing = [key for key in asked if self.ledger.get(Note, key) is None]
        if missing:
            policy = self.policy(version)
            with phase(self.console, label, len(missing), quiet=self.quiet) as meter:
                open_ = set(missing)
                for key in missing:
                    prompt = policy.encode(asked[key])
                    if len(prompt) + tokens > policy.context:
                        open_.remove(key)
                        self.ledger.append(key, Note(data={"text": "", "tokens": 0}))
                        meter.advance(1)
                        continue
                    request = Request(
                        prompt_ids=prompt,
                        max_new_tokens=tokens,
                        choices=tuple(choices),
                        temperature=temperature,
                        seed=seed_of(self.config.seed, key),
                    )
                    policy.submit(key, request)
                while open_:
                    for ticket, completion in policy.step():
                        if ticket not in open_:  # left over from a rollout that was interrupted
                            continue
                        key, used = str(ticket), len(completion.token_ids)
                        open_.remove(key)
                        exact = {"ids": list(completion.token_ids)} if ids else {}
                        note = Note(data={"text": completion.text, "tokens": used} | exact)
                        self.ledger.append(key, note)
                        meter.advance(1, used)
        notes = {key: self.ledger.get(Note, key) for key in asked}
        return {key: str(note.data["text"]) for key, note in notes.items() if note}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Book the block's seconds under ``name``; what an interrupted block took is lost.

        Nothing is booked for going through finished work again.
        """
        begin, episodes = time.monotonic(), self.ledger.count(Trajectory)
        yield
        booked = self.ledger.count(Note, f"time/{name}/")
        if not booked or self.ledger.count(Trajectory) > episodes:
            seconds = round(time.monotonic() - begin, 3)
            self.ledger.append(f"time/{name}/{booked}", Note(data={"seconds": seconds}))

    def seconds(self, name: str) -> float:
        """Seconds booked under a name so far."""
        notes = self.ledger.all(Note, f"time/{name}/")
        return round(sum(float(str(note.data["seconds"])) for _, note in notes), 3)

    def tokens(self, prefix: str) -> int:
        """Tokens produced by the episodes under a prefix of their slots."""
        return sum(t.produced_tokens for _, t in self.ledger.all(Trajectory, prefix))

    def said_tokens(self, prefix: str) -> int:
        """Tokens of the answers to questions under a prefix (``3/feedback/``)."""
        notes = self.ledger.all(Note, f"said/{prefix}")
        return sum(int(str(note.data.get("tokens", 0))) for _, note in notes)

    # --- generations ---

    def generations(self) -> list[Generation]:
        return [generation for _, generation in self.ledger.all(Generation)]

    def incumbent(self) -> Generation | None:
        last = self.ledger.last(Generation)
        return last[1] if last else None

    def generation_folder(self, n: int) -> Path:
        return self.folder / "generations" / f"{n:03d}"

    def conclude(self, generation: Generation) -> Generation:
        """Make a generation the incumbent: the ledger decides, the folder shows."""
        self.ledger.append(f"{generation.n:06d}", generation)
        self.publish()
        return generation

    def publish(self) -> None:
        """Write the ``generation.json`` files that are missing: the new, and what a crash left."""
        for generation in self.generations():
            file = self.generation_folder(generation.n) / "generation.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, generation.model_dump_json(indent=1))

    def roll_back(self, n: int) -> Generation:
        """Make the agent of an earlier generation the incumbent again, as a new generation."""
        every = self.generations()
        target = next((g for g in every if g.n == n), None)
        if target is None:
            known = f"0 to {every[-1].n}" if every else "none yet"
            raise ConfigError(f"{self.folder} has no generation {n}; it has {known}")
        self.adapter(target.weights)  # it must still be loadable
        last = every[-1]
        return self.conclude(
            target.model_copy(
                update={
                    "n": last.n + 1,
                    "parent": n,
                    "decision": "rollback",
                    "cell": "incumbent",
                    "cells": {"incumbent": target.cells[target.cell]},
                    "reason": f"rolled back from generation {last.n} to {n} by hand",
                    "tokens": {},
                    "seconds": {},
                    "details": {},
                }
            )
        )

    def _engine_said(self, text: str) -> None:
        """What happened to the engine is told, and remembered."""
        self.ledger.append(
            f"engine/{self.ledger.count(Note, 'engine/')}", Note(data={"said": text})
        )
        self.print(text)

    def print(self, *things: Any) -> None:
        if not self.quiet:
            self.console.print(*things)
