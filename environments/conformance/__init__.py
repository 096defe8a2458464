"""What an environment must stand: garbage, repetition, company, its own gold solution.

Every finding is a sentence that says what is wrong and, where that is known, what to change. What
only follows from another finding is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from environments.base import FULL_REWARD, Action, Suite, Task
from environments.calls import read_action
from environments.conformance.actions import GARBAGE, likely, misuse
from environments.conformance.leaks import Leaks
from environments.conformance.player import (
    Broken,
    Findings,
    Player,
    Record,
    difference,
    told,
    unforeseen,
)
from environments.conformance.slips import lacking, not_seen
from environments.plain import PlainSuite
from environments.sandbox.base import SandboxUnavailable

STEPS = 8  # longest walk, unless there are more tools
WALKS = 6  # most walks of a task

Choose = Callable[[Player], Action | None]


def examine(suite: Suite, task: Task) -> Findings:
    """Play one task in several ways."""
    findings = Findings()
    for part in (_tools, _plays, _garbage):
        findings.part = part.__name__.strip("_")
        try:
            part(suite, task, findings)
        except Broken as error:
            findings.add(str(error), error.kind, error.part)
            if part is _tools or error.part == "limits":
                break  # where it does not even start, nothing else can be seen
    return findings


def _tools(suite: Suite, task: Task, findings: Findings) -> None:
    player = Player(suite, task, findings)
    try:
        findings.part = "start"
        player.start()
        findings.part = "tools"
        tools = player.tools()
    finally:
        player.close()
    findings.counts["tools"] = len(tools)
    if problem := not_seen(suite, task, player.first):
        findings.add(problem, "not seen", "memory")
    if not tools:
        findings.add("it offers no tools.")
    for tool in tools:
        if not tool.description.strip():
            findings.add(f"the tool {tool.name} has no description; say what it does.")
        for name, schema in tool.properties.items():
            keys = {"type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref"}
            if not isinstance(schema, dict) or not keys & schema.keys():
                findings.add(f"the parameter {name} of the tool {tool.name} has no type.")
    if len({tool.name for tool in tools}) < len(tools):
        findings.add("two of its tools have the same name.")
    example = suite.briefing.example
    called = read_action(example[1], tools).tool if example and tools else None
    known = called in {tool.name for tool in tools}
    if example and tools and not known and not lacking(suite, example[1]):
        findings.add(f"the example's answer {example[1]!r:.60} is no call of its tools.")


def _plays(suite: Suite, task: Task, findings: Findings) -> None:
    gold = _gold(suite, task, findings)
    alone: list[Record] = []
    if gold is not None:
        alone.append(_play(suite, task, findings, _script(gold)))
        _judge_gold(suite, gold, alone[0], findings)
    known = {name: value for action in gold or () for name, value in action.arguments.items()}
    alone += _walks(suite, task, findings, known)
    leaks = Leaks()  # what only the first episodes leave is a cache
    try:
        for record in alone:
            if not _same_again(suite, task, record, findings):
                break
        for left in leaks.found():
            told = f"after close() {left}; close() must end it."
            findings.add(told, ("left", left.partition(" (")[0]), "clean-up")
        findings.counts["clean-up"] += 1
    finally:
        leaks.close()


def _same_again(suite: Suite, task: Task, alone: Record, findings: Findings) -> bool:
    """Whether the same actions give the same: in a new instance, and in company."""
    findings.counts["steps"] += len(alone.actions)
    again = _play(suite, task, Findings(), _script(alone.actions))
    if different := difference(alone, again):
        findings.add(
            f"the same actions gave something else the second time: {different}; draw all "
            "randomness from the seed, and keep nothing from one episode to the next.",
            "again",
            "determinism",
        )
        return False
    beside = _play_beside(suite, task, alone.actions)
    if different := difference(alone, beside):
        findings.add(
            f"with another episode in progress, the same actions gave something else: "
            f"{different}; keep what changes on the instance, not on the class or module.",
            "beside",
            "determinism",
        )
        return False
    return True


def _gold(suite: Suite, task: Task, findings: Findings) -> list[Action] | None:
    make = getattr(suite, "gold", None)
    if make is None:
        findings.counts["no gold"] += 1
        return None
    try:
        gold = make(task)
    except SandboxUnavailable:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        known = any(cause in finding.sentence for finding in findings.problems.values())
        if not known and not lacking(suite, str(error)):
            problem = f"gold() raised {cause}"
            findings.add(problem.replace(task.id, "…"), ("gold", type(error).__name__), "gold")
        return None
    findings.counts["no gold"] += gold is None
    actions = list(gold) if isinstance(gold, Iterable) else [gold]
    if gold is not None and not all(isinstance(action, Action) for action in actions):
        problem = f"gold() returned {gold!r:.60}, not a sequence of Action (environments.base)."
        findings.add(problem, "gold no action", "gold")
        return None
    return None if gold is None else actions


def _judge_gold(suite: Suite, gold: list[Action], played: Record, findings: Findings) -> None:
    if any(lacking(suite, told(action)) for action in gold):
        return
    findings.counts["gold"] += 1
    results, refused = played.results, False
    for number, (action, result) in enumerate(zip(gold, results, strict=False), 1):
        refused = refused or bool(result.error)
        if result.error and not unforeseen(results[:number]):
            findings.add(
                f"the gold solution's {told(action)} was refused: {result.observation:.100}",
                ("gold refused", action.tool),
                "gold",
            )
    reward = results[-1].reward if results else 0.0
    if reward < FULL_REWARD and not refused:
        end = f"; it ends with: {results[-1].observation:.100}" if results else "; it is empty."
        problem = f"the gold solution earns {reward:g}, not 1{end}"
        findings.add(problem, "gold earns less", "gold")
    elif isinstance(suite, PlainSuite) and reward >= FULL_REWARD and not results[-1].terminated:
        findings.add(
            "the gold solution earns 1, and yet the episode goes on, so the agent acts until its "
            "turns are over; set self.done = True when the task is done.",
            part="gold",
        )
    if len(gold) > suite.briefing.turns:
        findings.add(
            f"the gold solution takes {len(gold)} actions, but an agent has only "
            f"{suite.briefing.turns} turns.",
            part="gold",
        )


def _play(suite: Suite, task: Task, findings: Findings, choose: Choose) -> Record:
    player = Player(suite, task, findings)
    try:
        player.start()
        while not player.over and (action := choose(player)) is not None:
            player.step(action)
        return player.record()
    finally:
        player.close()


def _play_beside(suite: Suite, task: Task, actions: Sequence[Action]) -> Record:
    """An episode while another one, always a step ahead, is in progress."""
    player, other = (Player(suite, task, Findings()) for _ in range(2))
    try:
        player.start()
        other.start()
        for action in actions:
            if not other.over:
                other.step(action)
            if not player.over:
                player.step(action)
        return player.record()
    finally:
        try:
            player.close()
        finally:
            other.close()


def _script(actions: Sequence[Action]) -> Choose:
    """These actions, as long as the episode lasts; gold must be among the valid actions."""

    def choose(player: Player) -> Action | None:
        turn = len(player.actions)
        if turn >= len(actions):
            return None
        action, valid = actions[turn], player.valid()
        if valid:
            tools = player.tools()
            read = [(a.tool, a.arguments) for a in (read_action(text, tools) for text in valid)]
            if (action.tool, action.arguments) not in read:
                player.findings.add(
                    f"the gold solution's {told(action)} is not among valid_actions at that "
                    f"moment ({valid[0]!r:.60}, …); an agent that chooses among them cannot do it.",
                    "gold not valid",
                    "gold",
                )
        return action

    return choose


def _walks(suite: Suite, task: Task, findings: Findings, known: Mapping[str, Any]) -> list[Record]:
    """Episodes that together call every tool that can be called.

    Args:
        suite: the suite.
        task: the task.
        findings: where problems go.
        known: arguments that the gold solution gives; every other walk uses them.
    """
    tried: set[str] = set()
    offered: set[str] = set()
    records: list[Record] = []
    while len(records) < WALKS:
        before, own = len(tried), known if len(records) % 2 == 0 else {}
        choose = _explore(tried, offered, own, shift=len(records))
        records.append(_play(suite, task, findings, choose))
        done = offered <= tried or len(tried) == before
        if done and len(records) >= (2 if known else 1):
            break
    return records


def _explore(tried: set[str], offered: set[str], known: Mapping[str, Any], shift: int) -> Choose:
    """Something to do: tools that were not tried first, by what is valid or what types suggest."""

    def choose(player: Player) -> Action | None:
        turn, tools = len(player.actions), player.tools()
        offered.update(tool.name for tool in tools)
        new = [tool for tool in tools if tool.name not in tried]
        if not tools or turn >= max(STEPS, min(len(tools), 5 * STEPS)):
            return None
        action = _valid_action(player, turn + shift, {tool.name for tool in new})
        if action is None:
            tool = new[0] if new else tools[(turn + shift) % len(tools)]
            words = player.first.split() or ["x"]
            action = likely(tool, words[(turn + shift) % len(words)], known)
        if action.tool is not None:
            tried.add(action.tool)
        return action

    return choose


def _valid_action(player: Player, number: int, new: set[str]) -> Action | None:
    """One of the valid actions, each time another one; of a new tool where there is one."""
    valid, tools = player.valid(), player.tools()
    if not valid:
        return None
    chosen = valid[number * 7 % len(valid)]
    if new and len(tools) > 1:
        chosen = next((text for text in valid if read_action(text, tools).tool in new), chosen)
    action = read_action(chosen, tools)
    if action.tool not in {tool.name for tool in tools}:
        if lacking(player.suite, chosen):
            return None
        kind = "valid action no call"
        raise Broken(f"valid_actions offers {chosen!r:.60}, no call of its tools.", kind)
    player.offered = chosen
    return action


def _garbage(suite: Suite, task: Task, findings: Findings) -> None:
    player: Player | None = None
    try:
        player = _begun(suite, task, findings)
        for action in (*GARBAGE, *misuse(player.tools())):
            if player is None or player.over:
                if player is not None:
                    player.close()
                player = _begun(suite, task, findings)
            try:
                reward = player.step(action).reward
            except Broken as error:
                findings.add(str(error), error.kind, error.part)
                player.close()
                player = None
                if error.part == "limits":
                    return
                continue
            findings.counts["garbage"] += 1
            if reward >= FULL_REWARD:
                problem = f"the action {told(action)} earned the full reward."
                findings.add(problem, "full", "rewards")
    finally:
        if player is not None:
            player.close()


def _begun(suite: Suite, task: Task, findings: Findings) -> Player:
    player = Player(suite, task, findings)
    try:
        player.start()
    except Broken:
        player.close()
        raise
    return player
