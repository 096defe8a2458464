"""A run that nobody played: a ledger of any size, as evolution would have left it.

It has every kind of record that pages show: items that are added, tried, revised, merged,
absorbed and retired; episodes with recollections, tool calls, errors and failures; generations
that are promoted and kept. Everything follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memory.ledger import Ledger
from memory.records import (
    Candidate,
    Failure,
    Generation,
    Kind,
    MemoryChange,
    MemoryItem,
    MemorySnapshot,
    Note,
    Recollection,
    Record,
    Score,
    Status,
    Step,
    StopReason,
    Trust,
    Worth,
    content_hash,
)
from tests.episodes import episode, step

FAMILIES = {
    "gcd": ("What is the greatest common divisor of {a} and {b}?", "print(math.gcd({a}, {b}))"),
    "chain_sum": ("State the final answer: {a} + {b} - {c} =", "print({a} + {b} - {c})"),
    "products": ("Calculate {a} * {b}.", "print({a} * {b})"),
    "count_bits": ("How many 1 bits are there in the number {a}?", "print(bin({a}).count('1'))"),
    "letter_counting": (
        "How often does the letter {w[0]} occur in: {w}?",
        "print('{w}'.count('{w[0]}'))",
    ),
    "spell_backward": ("Spell this word backward: {w}", "print('{w}'[::-1])"),
    "reversal": ("Reverse this list of words: {w}, {v}, {w}", "print('{w}, {v}, {w}')"),
    "sorting": ("Sort these words by the alphabet: {w}, {v}", "print(sorted(['{w}', '{v}']))"),
}
WORDS = ("amber", "basalt", "cedar", "delta", "ember", "fjord", "garnet", "juniper", "kelp")
RULES = (
    "Print the answer itself and nothing else; the verifier compares the whole output.",
    "Read the question to its end before writing code: the unit is often in the last sentence.",
    "Import what you use: math is not there by itself.",
    "Compute with integers; a float that looks right fails by its '.0'.",
    "When an error is about a name, define it in the same block; nothing is kept between turns.",
)
PER_SNAPSHOT = 20_000


def write_run(
    folder: Path,
    items: int = 60,
    episodes: int = 240,
    generations: int = 5,
    seed: int = 0,
    prompt_tokens: int = 120,
    hostile: str = "",
) -> Path:
    """Write a ledger.

    Args:
        folder: the run folder; made if it is missing.
        items, episodes: how many.
        generations: beside generation 0.
        seed: of everything.
        prompt_tokens: of each step: most of a trajectory's size.
        hostile: a text that some items, prompts, actions and observations hold.

    Returns:
        The ledger's path.
    """
    path = folder / "ledger.sqlite"
    with Ledger(path) as ledger:
        made = Made(random.Random(seed), generations, prompt_tokens, hostile)
        for n in range(generations + 1):
            share = [0, 0] if n == 0 else [items // generations, episodes // (generations + 1)]
            if n == generations:
                share = [items - made.items, episodes - made.episodes]
            elif n == 0:
                share = [0, episodes // (generations + 1)]
            made.write(ledger, n, *share)
    return path


class Made:
    """What was written so far, and what the next generation makes of it."""

    def __init__(self, rng: random.Random, generations: int, tokens: int, hostile: str) -> None:
        self.rng, self.generations, self.hostile = rng, generations, hostile
        self.tokens = tuple(range(100, 100 + tokens))
        self.items = self.episodes = 0
        self.memory, self.weights = "", "base"
        self.alive: dict[str, MemoryChange] = {}
        self.known: list[MemoryItem] = []
        self.slots: list[str] = []
        self.families: dict[str, float] = dict.fromkeys(FAMILIES, 0.1)
        self.score = 0.12

    def write(self, ledger: Ledger, n: int, items: int, episodes: int) -> None:
        """One generation: its episodes, its items, its snapshots, its record."""
        self.new_slots: list[str] = []
        _batched(ledger, self.play(n, episodes))
        fresh = [self.item(n, i) for i in range(items)]
        fresh = list({item.id: item for item in fresh}.values())
        _batched(ledger, ((item.id, item) for item in fresh))
        weights = content_hash(["weights", n])[:13] if n else "base"
        kept = n > 2 and n % 4 == 0  # such a generation's candidates fail
        changes = self.changes(n, fresh, weights)
        memory = self.memory
        for start in range(0, len(changes), PER_SNAPSHOT):
            snapshot = MemorySnapshot(
                parent=memory, generation=n, changes=tuple(changes[start : start + PER_SNAPSHOT])
            )
            memory = snapshot.id
            ledger.append(memory, snapshot)
        if n:
            sources = self.new_slots[:40]
            data: Any = {"folder": f"generations/{n:03}/adapter", "sources": sources}
            ledger.append(f"adapter/{weights}", Note(data=data))
        before, families = self.score, dict(self.families)
        if n and not kept:
            self.memory, self.weights = memory, weights
            self.alive |= {c.item: c for c in changes}
            self.known += fresh
            self.score = min(0.93, self.score + 0.5 / (n + 0.6))
            self.families = {
                f: max(0.0, min(1.0, self.score + self.rng.uniform(-0.2, 0.25))) for f in families
            }
        cells = {"incumbent": _score(before)}
        if n:
            cells |= {
                "memory": _score(before + (self.score - before) * 0.5),
                "weights": _score(before + (self.score - before) * 0.7),
                "both": _score(self.score if not kept else before - 0.04),
            }
        gained = self.score - before
        decision: Any = "start" if not n else "kept" if kept else "promoted"
        reason = {
            "start": "the agent before any evolution",
            "kept": "no candidate was better: both -0.040 [-0.09, +0.01], e 0.21 < 60",
            "promoted": f"both {self.score:.3f} ({gained:+.3f}), e 1.2e+04 ≥ 60; retention +0.010",
        }[decision]
        generation = Generation(
            n=n,
            parent=max(0, n - 1),
            weights=self.weights,
            memory=self.memory,
            decision=decision,
            cell="both" if decision == "promoted" else "incumbent",
            reason=reason,
            cells=cells,
            families=self.families,
            objective={f: round(1 - v, 3) for f, v in self.families.items()},
            tokens={"acquire": 27_000 + 900 * n, "update": 22_000, "evaluate": 12_500}
            if n
            else {"evaluate": 6600},
            seconds={"acquire": 84.8, "refine": 0.1, "update": 92.0, "evaluate": 71.8}
            if n
            else {"evaluate": 27.1},
            details={"threshold": 20.0, "e_value": 12_000.0 if n and not kept else 0.21}
            | {"account": {"by": "data", "dropped": 0, "sentences": self.account()}},
        )
        ledger.append(f"{n:06}", generation)

    def account(self) -> list[Any]:
        """What is said of the generation, with some of its episodes."""
        text = f"In practice some train tasks were solved for the first time. {self.hostile}"
        return [{"text": text, "episodes": self.new_slots[:2]}] if self.new_slots else []

    def item(self, n: int, i: int) -> MemoryItem:
        """The next item."""
        self.items += 1
        rng = self.rng
        family = rng.choice(list(FAMILIES))
        prompt, answer = self.task(family)
        kind = rng.choices(list(Kind)[:5], (55, 18, 14, 8, 5))[0]
        parents: list[MemoryItem] = []
        made: Any = "added"
        text = f"{prompt}\n```python\n{answer}\n```"
        olds = [o for o in rng.sample(self.known, min(8, len(self.known))) if o.kind is kind]
        if kind is Kind.REFLECTION:
            text = f"The first try printed a sentence, not the answer. For {family}: {answer}"
        elif kind is Kind.INSIGHT:
            text = f"{rng.choice(RULES)} (seen in {family}, {rng.randint(2, 40)} times)"
            if olds:
                parents, made = olds[:1], "revised"
                text = (
                    olds[0].text.split(" (")[0]
                    + f" In {family} this holds as well. (case {self.items})"
                )
        elif kind is Kind.SKILL:
            text = f"def solve_{family}_{self.items}():\n    # {prompt}\n    {answer}"
        elif kind is Kind.FACT:
            text = (
                f"Tasks of {family} give {rng.randint(1, 9)} numbers below {rng.randint(10, 999)}."
            )
        if len(olds) > 1 and made == "added" and rng.random() < 0.3:
            parents, made = olds[:2], "merged"
        if self.hostile and i % 9 == 0:
            text = f"{self.hostile} {text}"
        slots = rng.sample(self.new_slots, min(2, len(self.new_slots))) or ["0/acquire/none/0"]
        return MemoryItem(
            kind=kind,
            text=text,
            key=f"{prompt} ({self.items})",
            sources=tuple(slots),
            tasks=(slots[0].split("/")[-2],),
            family="" if kind is Kind.FACT else family,
            trust=Trust.JUDGED if kind in (Kind.REFLECTION, Kind.INSIGHT) else Trust.VERIFIED,
            born=n,
            made=made,
            parents=tuple(p.id for p in parents),
        )

    def changes(self, n: int, fresh: list[MemoryItem], weights: str) -> list[MemoryChange]:
        """What becomes of new items and of some old ones."""
        rng = self.rng
        changes = {
            item.id: MemoryChange(
                item=item.id,
                status=rng.choices((Status.ACTIVE, Status.SHADOW, Status.RETIRED), (70, 22, 8))[0],
                generation=n,
                reason=f"new {item.kind} of {item.family or 'any family'}",
                because=item.sources,
            )
            for item in fresh
        }
        for item in fresh:
            for parent in item.parents:
                if parent in self.alive:
                    reason = f"{'merged into' if item.made == 'merged' else 'revised as'} {item.id}"
                    changes[parent] = MemoryChange(
                        item=parent, status=Status.RETIRED, generation=n, reason=reason
                    )
        for id_, old in self.alive.items():
            if id_ in changes or rng.random() > 0.3:
                continue
            uses = old.worth.uses + rng.randint(0, 9)
            wins = min(uses, old.worth.wins + rng.randint(0, 7))
            utility = round(max(-1.0, min(1.0, rng.gauss(0.12, 0.15))), 4)
            width = 0.9 / (1 + uses) ** 0.5
            worth = Worth(
                uses=uses, wins=wins, pairs=uses // 3, utility=utility, used=n,
                low=round(max(-1, utility - width), 4), high=round(min(1, utility + width), 4),
            )  # fmt: skip
            status, reason, absorbed = old.status, "measured again", old.absorbed_by
            fate = rng.random()
            if old.status is Status.SHADOW and fate < 0.5:
                status, reason = Status.ACTIVE, "3 independent tasks were solved with it"
            elif old.status is Status.ACTIVE and fate < 0.35:
                absorbed, reason = (weights,), f"the weights {weights} do as well without it"
            elif old.status is Status.ACTIVE and fate < 0.45:
                status, reason = Status.RETIRED, f"utility {utility:.2f} after {uses} uses"
            elif fate > 0.995:
                status, reason = Status.QUARANTINED, "tasks were lost with it in the prompt"
            changes[id_] = MemoryChange(
                item=id_, status=status, generation=n, absorbed_by=absorbed, worth=worth,
                reason=reason, because=tuple(self.new_slots[:2]),
            )  # fmt: skip
        return list(changes.values())

    def play(self, n: int, count: int) -> Iterator[tuple[str, Record]]:
        """Episodes of a generation, each with its look into memory."""
        rng = self.rng
        active = [i for i in self.known[-4000:] if self.alive[i.id].status is Status.ACTIVE]
        for _ in range(count):
            self.episodes += 1
            family = rng.choice(list(FAMILIES))
            prompt, answer = self.task(family)
            task = content_hash([family, prompt])[:16]
            phase = rng.choices(("acquire", "probe", "gate"), (6, 1, 3))[0]
            slot = f"{n}/{phase}/{task}/{self.episodes}"
            near = rng.sample(active, min(6, len(active)))
            looks: tuple[str, ...] = ()
            if near:
                look = self.look(task, prompt, near)
                looks = (look.id,)
                yield look.id, look
            won = rng.random() < self.families[family]
            broken = rng.random() < 0.01
            steps = [self.step(answer, "", None, won, last=won)]
            if not won:
                steps.insert(
                    0,
                    self.step(
                        f"prnt({answer})",
                        "NameError: name 'prnt' is not defined",
                        "NameError",
                        False,
                    ),
                )
            trajectory = episode(
                slot,
                *steps,
                success=won and not broken,
                suite="made",
                family=family,
                split="gate" if phase == "gate" else "train",
                phase=phase,
                policy=self.weights,
                memory=self.memory,
                recalled=tuple(i.id for i in near[:3]),
                recollections=looks,
                temperature=0.7 if phase == "acquire" else 0.0,
                seed=self.episodes,
                prompt=f"{self.hostile} {prompt}".strip(),
                stop=StopReason.FAILED
                if broken
                else StopReason.TERMINATED
                if won
                else StopReason.TURNS,
                failure=Failure(source="sandbox", message="the sandbox ended") if broken else None,
            )
            self.new_slots.append(slot)
            yield slot, trajectory

    def look(self, task: str, prompt: str, near: list[MemoryItem]) -> Recollection:
        """What was considered for a task."""
        verdicts = ("shown", "shown", "shown", "quota", "alike", "tokens")
        candidates = tuple(
            Candidate(
                item=item.id,
                similarity=round(0.93 - 0.07 * i, 4),
                recency=round(0.5**i, 4),
                utility=self.alive[item.id].worth.utility,
                score=round(0.9 - 0.1 * i, 4),
                verdict=verdict,
            )
            for i, (item, verdict) in enumerate(zip(near, verdicts, strict=False))
        )
        return Recollection(
            query=prompt, task=task, memory=self.memory, reader=self.weights,
            candidates=candidates, tokens=sum(len(i.text) // 4 for i in near[:3]),
        )  # fmt: skip

    def step(self, code: str, said: str, error: str | None, won: bool, last: bool = True) -> Step:
        """One turn, whose text is a block of Python."""
        produced = len(code) // 4 + 8
        said = said or ("Correct." if won else "Wrong: the expected output differs.")
        return step(
            f"```python\n{code}\n```",
            said + self.hostile,
            token_ids=self.tokens + tuple(range(produced)),
            loss_mask=(0,) * len(self.tokens) + (1,) * produced,
            logprobs=(-0.21,) * produced,
            policy=self.weights,
            action={"tool": "python", "arguments": {"code": f"{code}{self.hostile}"}},
            reward=float(won and last),
            error=error,
        )

    def task(self, family: str) -> tuple[str, str]:
        """A prompt and the code that answers it."""
        rng = self.rng
        values = {
            "a": rng.randint(10, 9999), "b": rng.randint(10, 9999), "c": rng.randint(1, 99),
            "w": rng.choice(WORDS), "v": rng.choice(WORDS),
        }  # fmt: skip
        prompt, answer = FAMILIES[family]
        return prompt.format(**values), answer.format(**values)


def _batched(ledger: Ledger, records: Iterator[tuple[str, Record]], size: int = 1000) -> None:
    batch: list[tuple[str, Record]] = []
    for pair in records:
        batch.append(pair)
        if len(batch) == size:
            ledger.append_many(batch)
            batch = []
    ledger.append_many(batch)


def _score(mean: float, n: int = 128) -> Score:
    return Score(mean=round(mean, 4), low=round(mean - 0.05, 4), high=round(mean + 0.05, 4), n=n)
