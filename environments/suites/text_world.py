"""What all text worlds share: one tool, whose argument is a command."""

from __future__ import annotations

from environments.base import Action, StepResult, Tool
from environments.calls import clean, write_action
from environments.kinds.answer import unknown_tool

COMMAND_CHARS = 200  # no world knows a longer command
ACT = Tool(
    name="act",
    description="Carries out one command.",
    parameters={
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
)


def command_of(action: Action) -> tuple[str | None, StepResult | None]:
    """The command of an action, or None and what to answer where it holds none."""
    if action.tool is None:
        return None, StepResult(observation="Write one command on a line.", error="no call")
    if action.tool != ACT.name:
        return None, unknown_tool(action.tool, ACT)
    command = action.arguments.get("command")
    if not isinstance(command, str) or not command.strip():
        return None, StepResult(observation="The command is empty.", error="no command")
    if len(command) > COMMAND_CHARS:
        return None, StepResult(
            observation=f"A command has at most {COMMAND_CHARS} characters.",
            error="invalid command",
        )
    return " ".join(clean(command).replace("\0", "?").split()), None


def as_action(command: str) -> Action:
    """The action that gives a command."""
    return write_action(ACT, command)
