"""The policy talks with itself: a client who wants something, an agent who does it (self-talk)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from agent.evolution.feedback.base import quoted
from agent.evolution.solutions.base import PLACE, Stage, again, first_world, one_line, role_of
from agent.evolution.solutions.compose import Composition, composed
from agent.formats import format_of
from agent.loop import Assignment
from agent.policies.base import Message
from agent.prompt import frame, opening
from agent.run import Run
from environments.base import Action, Environment, StepResult, Task, Tool
from environments.calls import WHOLE, read_action
from memory.records import Trajectory

CLIENT = (
    "You are a client{who}. You want this to be done, and only you know it:\n{task}\n"
    "Answer what the agent asks, in a sentence. Lines that begin with | are data."
)
OPEN = "Say in one sentence what kind of help you want. Keep the details for later."
AGENT = (
    "You talk with a client who wants something. Ask for what you need to know, one question a "
    "turn. When you know enough, write ACT: and behind it what you do.\n{tools}"
)
TALK = "talk"
_ACT = re.compile(r"^\s*ACT:[ \t]*\n?(.*)", re.DOTALL | re.MULTILINE)
_DETAIL = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"\w{5,}")


def solve(stage: Stage) -> list[Trajectory]:
    """Dialogues of which the agent's turns are learnt, if what it did in the end was right.

    Self-Talk, arXiv 2401.05033, §3: the client has a task, the agent has to find it out; kept are
    dialogues with enough sub-goals reached. Here these are the task's details that the client told
    before the agent acted (``metrics``: ``told``), and the world says whether it was right.
    SOTOPIA-π, 2403.08715, §4: both have roles, and a judge rates the episode. One action ends it.
    """
    tools = _tools(stage)
    talks = {a.slot: _begun(stage, a, tools) for a in stage.planned}
    opened = _say(stage, "client", {s: [*t.client, _user(OPEN)] for s, t in talks.items()}, 0)
    talks = {s: t.opened(one_line(opened[s])) for s, t in talks.items() if opened[s].strip()}
    going = dict(talks)
    for turn in range(1, stage.settings.rounds + 1):
        said = _say(stage, "agent", {slot: t.as_agent() for slot, t in going.items()}, turn)
        for slot, text in said.items():
            talks[slot] = talks[slot].heard(text.strip())
        going = {
            slot: talks[slot]
            for slot, text in said.items()
            if text.strip() and not _ACT.search(text) and turn < stage.settings.rounds
        }
        said = _say(stage, "client", {slot: t.as_client() for slot, t in going.items()}, turn)
        for slot, text in said.items():
            talks[slot] = going[slot] = talks[slot].replied(one_line(text))
    slots = {a.slot: a for a in stage.planned}
    return composed(stage, [_made(stage, slots[s], t) for s, t in talks.items() if t.turns])


class _Talk(NamedTuple):
    """A dialogue so far.

    Args:
        agent, client: what stands before it, for either.
        first: what the client opens with.
        turns, replies: the agent's turns, and what the client said to each but the last.
    """

    agent: tuple[Message, ...]
    client: tuple[Message, ...]
    first: str = ""
    turns: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()

    def opened(self, text: str) -> _Talk:
        return self._replace(first=text)

    def heard(self, text: str) -> _Talk:
        return self._replace(turns=(*self.turns, text)) if text else self

    def replied(self, text: str) -> _Talk:
        return self._replace(replies=(*self.replies, text))

    def as_agent(self) -> list[Message]:
        more = [m for done, then in zip(self.turns, self.replies, strict=True)
                for m in (_assistant(done), _user(then))]  # fmt: skip
        return [*self.agent, _user(self.first), *more]

    def as_client(self) -> list[Message]:
        said = [self.first, *self.replies]
        more = [m for s, t in zip(said, self.turns, strict=True) for m in (_assistant(s), _user(t))]
        return [*self.client, _user(OPEN), *more]


class Talk:
    """A task's world behind a client: words go to the client, what follows ACT: to the world.

    Args:
        inner: the task's own world.
        task: what the client wants.
        first: what it opens with.
        replies: what it says to the agent's turns, one after the other.
    """

    def __init__(self, inner: Environment, task: Task, first: str, replies: Sequence[str]):
        self.inner, self.first, self.left = inner, first, list(replies)
        self.wanted, self.said = task.prompt, [first]

    @property
    def tools(self) -> Sequence[Tool]:
        """The one tool: to say something."""
        return (say_tool(self.inner.tools),)

    def start(self) -> str:
        """The client's first words."""
        self.inner.start()
        return self.first

    def step(self, action: Action) -> StepResult:
        """The client's answer, or what the world says of the act, which ends the dialogue."""
        if (found := _ACT.search(action.text)) is not None:
            done = self.inner.step(read_action(found[1], self.inner.tools))
            told = {"told": told_share(self.wanted, " ".join(self.said))}
            return done.model_copy(
                update={"truncated": not done.terminated, "metrics": done.metrics | told}
            )
        if not self.left:
            return StepResult(observation="The client leaves.", terminated=True)
        self.said.append(self.left.pop(0))
        return StepResult(observation=self.said[-1])

    def close(self) -> None:
        """Close the world; safe to call twice."""
        self.inner.close()


def say_tool(tools: Sequence[Tool]) -> Tool:
    """Saying something, where a world with these tools is behind the client."""
    return Tool(
        name="say",
        description=AGENT.format(tools=format_of(tools).tools),
        parameters={
            "type": "object",
            "properties": {"text": {"type": "string", "contentMediaType": WHOLE}},
        },
    )


def told_share(wanted: str, said: str) -> float:
    """The share of a task's details (its numbers, or else its longer words) that were said."""
    details = set(_DETAIL.findall(wanted)) or set(_WORD.findall(wanted.lower()))
    heard = set(_DETAIL.findall(said)) | set(_WORD.findall(said.lower()))
    return len(details & heard) / len(details) if details else 1.0


def _begun(stage: Stage, a: Assignment, tools: Sequence[Tool]) -> _Talk:
    run, (own, other) = stage.run, role_of(stage, a.task)
    asked = frame(run.config.agent, run.suite.briefing, format_of((say_tool(tools),)))
    if own:
        asked = asked.model_copy(update={"system": f"{asked.system}\n{_role(stage, own)}"})
    who = f", {other}: {stage.settings.roles[other]}" if other else ""
    client = CLIENT.format(who=who, task=quoted(a.task.prompt))
    return _Talk(tuple(opening(asked, "")[:-1]), ({"role": "system", "content": client},))


def needs(run: Run) -> str:
    """Why it cannot be had, or ""."""
    with first_world(run) as world:
        if not world.valid_actions:
            return ""
    return (
        f"suite {run.config.suite.name} is a world of many turns, and one action ends a dialogue; "
        "take a suite that asks for an answer or for one call"
    )


def _tools(stage: Stage) -> Sequence[Tool]:
    """Those of the suite's worlds."""
    with first_world(stage.run, stage.planned[0].task) as world:
        return world.tools


def _role(stage: Stage, name: str) -> str:
    return f"You are {name}: {stage.settings.roles[name]}" if name else ""


def _say(stage: Stage, who: str, asked: dict[str, list[Message]], turn: int) -> dict[str, str]:
    keys = {slot: f"said/{stage.n}/{PLACE}/{TALK}/{who}/{turn}/{slot}" for slot in asked}
    said = stage.run.say(
        f"generation {stage.n} · {who} {turn}",
        {keys[slot]: messages for slot, messages in asked.items()},
        stage.weights,
        stage.settings.tokens,
        temperature=stage.settings.temperature,
    )
    return {slot: said[key] for slot, key in keys.items()}


def _made(stage: Stage, a: Assignment, talk: _Talk) -> Composition:
    run = stage.run
    heard = [stage.said(TALK, f"client/{i}/{a.slot}") for i in range(len(talk.replies) + 1)]
    spoken = [stage.said(TALK, f"agent/{i}/{a.slot}") for i in range(1, len(talk.turns) + 1)]
    own, _ = role_of(stage, a.task)
    return Composition(
        again(a, "dialogue")._replace(role=_role(stage, own)),
        talk.turns,
        (*heard, *spoken),
        world=lambda: Talk(run.suite.environment(a.task), a.task, talk.first, talk.replies),
    )


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
