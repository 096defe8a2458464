"""What an environment must stand: garbage, repetition, company, its own gold solution.

Every finding is a sentence that says what is wrong and, where that is known, what to change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from environments.base import Action, Suite, Task
from environments.calls import read_action
from environments.conformance.actions import GARBAGE, likely, misuse, properties_of
from environments.conformance.leaks import Leaks
from environments.conformance.player import Broken, Findings, Player, Record, difference, told
from environments.sandbox.base import SandboxUnavailable

STEPS = 8  # longest walk where there is no gold solution
FULL = 1 - 1e-6

Choose = Callable[[Player], Action | None]


def examine(suite: Suite, task: Task) -> Findings:
    """Play one task in several ways."""
    findings = Findings()
    for part in (_tools, _plays, _garbage):
        try:
            part(suite, task, findings)
        except Broken as error:
            findings.once(_cause(error), str(error))
            if "took longer than" in str(error):
                break
    return findings


def _cause(error: Broken) -> str:
    """What was raised, whatever action it was."""
    return str(error).partition(" raised ")[2] or str(error)


def _tools(suite: Suite, task: Task, findings: Findings) -> None:
    player = Player(suite, task, findings)
    try:
        player.start()
        tools = list(player.environment.tools)
    finally:
        player.close()
    if not tools:
        findings.add("it offers no tools.")
    for tool in tools:
        if not tool.description.strip():
            findings.add(f"the tool {tool.name} has no description; say what it does.")
        for name, schema in properties_of(tool).items():
            keys = {"type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref"}
            if not isinstance(schema, dict) or not keys & schema.keys():
                findings.add(f"the parameter {name} of the tool {tool.name} has no type.")
    if len({tool.name for tool in tools}) < len(tools):
        findings.add("two of its tools have the same name.")
    example = suite.briefing.example
    if example and tools and read_action(example[1], tools).tool not in {t.name for t in tools}:
        findings.add(f"the example's answer {example[1]!r:.60} is no call of its tools.")
    findings.counts["tools"] = len(tools)


def _plays(suite: Suite, task: Task, findings: Findings) -> None:
    gold = _gold(suite, task, findings)
    alone = _play(suite, task, findings, _walk if gold is None else _script(gold))
    findings.counts["steps"] += len(alone.actions)
    if gold is not None:
        _judge_gold(suite, gold, alone, findings)
        _play(suite, task, findings, _walk_valid)
    leaks = Leaks()  # what only the first episode leaves is a cache
    try:
        again = _play(suite, task, Findings(), _script(alone.actions))
        different = difference(alone, again)
        if different:
            findings.add(
                f"the same actions gave something else the second time: {different}; draw all "
                "randomness from the seed, and keep nothing from one episode to the next."
            )
        else:
            beside = _play_beside(suite, task, alone.actions)
            if different := difference(alone, beside):
                findings.add(
                    f"with another episode in progress, the same actions gave something else: "
                    f"{different}; keep what changes on the instance, not on the class or module."
                )
        findings.add(*(f"after close() {left}; close() must end it." for left in leaks.found()))
    finally:
        leaks.close()


def _gold(suite: Suite, task: Task, findings: Findings) -> list[Action] | None:
    make = getattr(suite, "gold", None)
    if make is None:
        return None
    try:
        gold = make(task)
    except SandboxUnavailable:
        raise
    except Exception as error:
        findings.add(f"gold() raised {type(error).__name__}: {error}")
        return None
    return None if gold is None else list(gold)


def _judge_gold(suite: Suite, gold: list[Action], played: Record, findings: Findings) -> None:
    findings.counts["gold"] += 1
    results = played.results
    for action, result in zip(gold, results, strict=False):
        if result.error:
            findings.add(
                f"the gold solution's {told(action)} was refused: {result.observation:.100}"
            )
    reward = results[-1].reward if results else 0.0
    if reward < FULL:
        end = f"; it ends with: {results[-1].observation:.100}" if results else "; it is empty."
        findings.add(f"the gold solution earns {reward:g}, not 1{end}")
    if len(gold) > suite.briefing.turns:
        findings.add(
            f"the gold solution takes {len(gold)} actions, but an agent has only "
            f"{suite.briefing.turns} turns."
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
        player.close()
        other.close()


def _script(actions: Sequence[Action]) -> Choose:
    """These actions, as long as the episode lasts; gold must be among the valid actions."""

    def choose(player: Player) -> Action | None:
        turn = len(player.actions)
        if turn >= len(actions):
            return None
        action, valid = actions[turn], player.valid()
        if valid:
            tools = list(player.environment.tools)
            read = [(a.tool, a.arguments) for a in (read_action(text, tools) for text in valid)]
            if (action.tool, action.arguments) not in read:
                player.findings.add(
                    f"the gold solution's {told(action)} is not among valid_actions at that "
                    f"moment ({valid[0]!r:.60}, …); an agent that chooses among them cannot do it."
                )
        return action

    return choose


def _walk(player: Player) -> Action | None:
    """Something to do where no solution is known: what is valid, or what the types suggest."""
    action = _walk_valid(player)
    turn, tools = len(player.actions), list(player.environment.tools)
    if action is not None or turn >= STEPS or not tools:
        return action
    tool = tools[turn % len(tools)]
    words = player.first.split() or ["x"]
    return likely(tool, words[turn % len(words)])


def _walk_valid(player: Player) -> Action | None:
    """One of the valid actions, each time another one."""
    turn, valid = len(player.actions), player.valid()
    if not valid or turn >= STEPS:
        return None
    tools = list(player.environment.tools)
    player.offered = valid[turn * 7 % len(valid)]
    action = read_action(player.offered, tools)
    if action.tool not in {tool.name for tool in tools}:
        raise Broken(f"valid_actions offers {player.offered!r:.60}, no call of its tools.")
    return action


def _garbage(suite: Suite, task: Task, findings: Findings) -> None:
    player: Player | None = None
    try:
        player = _begun(suite, task, findings)
        for action in (*GARBAGE, *misuse(player.environment.tools)):
            if player is None or player.over:
                if player is not None:
                    player.close()
                player = _begun(suite, task, findings)
            try:
                reward = player.step(action).reward
            except Broken as error:
                findings.once(_cause(error), str(error))
                player.close()
                player = None
                if "took longer than" in str(error):
                    return
                continue
            findings.counts["garbage"] += 1
            if reward >= FULL:
                problem = f"the action {told(action)} earned the full reward."
                findings.once((action.tool, "full"), problem)
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
