"""Who of an adapter set acts: each episode is played by one member, chosen by its task's prompt.

The selector reads the prompt and nothing else: never a family, never what the suite knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.loop import Assignment
from agent.run_folder import BASE, RunError
from agent.training.adapter_set import AdapterSet, member_name, read_set
from memory.records import MEMBER_OF

if TYPE_CHECKING:
    from agent.run import Run


def cast(
    run: Run, assignments: Sequence[Assignment], version: str
) -> list[tuple[str, list[Assignment]]]:
    """Episodes by the weights that play them, in the order in which these first come up.

    Weights that are no set play all. Of a set, the adapter of the prompt's group plays; the base
    model where no group is clear, or the group has learnt nothing yet.

    Raises:
        RunError: the set was made with another embedder than the run's.
    """
    members = adapter_set(run, version)
    if members is None:
        return [(version, list(assignments))]
    embedder, selector = run.memory.embedder, members.selector
    if selector.embedder != embedder.identity:
        raise RunError(
            f"the adapter set {version} selects by the embedder {selector.embedder}, and "
            f"memory.embedder is {embedder.identity}: set it back to what the set was made with"
        )
    prompts = list(dict.fromkeys(a.task.prompt for a in assignments))
    groups = dict(zip(prompts, selector.choose(embedder.embed(prompts)), strict=True))
    parts: dict[str, list[Assignment]] = {}
    for assignment in assignments:
        member = members.members.get(groups[assignment.task.prompt], BASE)
        parts.setdefault(member_name(version, member), []).append(assignment)
    return list(parts.items())


def leader(run: Run, version: str) -> str:
    """What a version of the weights does where there is no task: of a set, the base model.

    A set's adapters are trained to solve the tasks of a group; words are the base model's.
    """
    return version if adapter_set(run, version) is None else member_name(version, BASE)


def adapter_set(run: Run, version: str) -> AdapterSet | None:
    """The set that a version of the weights is; None where it is a single adapter or a member."""
    if version == BASE or MEMBER_OF in version:
        return None
    if version not in run.sets:
        folder = run.adapter(version)
        run.sets[version] = None if folder is None else read_set(folder)
    return run.sets[version]
