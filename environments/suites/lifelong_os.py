"""LifelongAgentBench's operating-system tasks: users, groups, files and rights, done in bash.

Data: LifelongAgentBench (Zheng et al. 2025, arXiv 2505.11942), as carried by MemTensor/MemRL
(MIT). It was made for containers; here each task has a system of its own in the sandbox, where
programs are root of a range of user ids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from environments.base import Action, Briefing, Environment, SuiteError, Task
from environments.calls import write_action
from environments.kinds.shell import SHELL, ShellAnswer
from environments.nonce import nonce
from environments.sandbox.base import Sandbox
from environments.suites.data import data_files, data_path, read_records

SOURCE = "github.com/MemTensor/MemRL (folder data/llb)"
FILES = ("os_interaction_data.jsonl",)
# By their raw_entry_hash: here the published script does not pass the check. Seven change or
# install programs of /usr, three need a process that outlives the script, one fails by itself.
UNUSABLE = frozenset(
    {
        1451848030864978845,
        354867374157535605,
        945296030329352143,
        991008690289698217,
        171881407104776507,
        1756044298807075883,
        607740695848538529,
        2083287466754124785,
        2304651539296529439,
        1971795565088736855,
        345369517474432122,
    }
)
# A task's family is the first of these that has one of its commands.
FAMILIES: dict[str, tuple[str, ...]] = {
    "accounts": ("chage", "chsh"),
    "group members": ("gpasswd",),
    "users": ("useradd", "usermod"),
    "groups": ("groupadd", "addgroup", "chgrp"),
    "text": ("sed", "awk", "vi", "tee"),
    "links": ("ln",),
    "search": ("find", "grep", "wc"),
    "rights": ("chown", "chmod"),
}


class LifelongOs:
    """Tasks for a shell script in the order of the data: a stream.

    Args:
        data: folder with os_interaction_data.jsonl, or one such file.
        sandbox: makes the sandbox that an episode's scripts run in; is given ``root=True``.

    Raises:
        SuiteError: the data is missing or unusable.
    """

    name = "lifelong-os"
    description = "users, groups, files and rights of a Linux system, in bash (LifelongAgentBench)"
    briefing = Briefing(
        text="You are root on a Debian system. Write one bash script that does the task.",
        example=(
            "Create the directory /data/in and in it an empty file todo.txt that only root can "
            "read.",
            "```bash\nmkdir -p /data/in && touch /data/in/todo.txt && chmod 600 /data/in/todo.txt"
            "\n```",
        ),
        turns=3,
        max_new_tokens=256,
    )

    def __init__(self, data: str | None = None, *, sandbox: Callable[..., Sandbox]) -> None:
        self._path = data_path(self.name, data, "lifelong_agentbench", SOURCE)
        self._sandbox = sandbox

    def tasks(self) -> Sequence[Task]:
        """The usable tasks in the order of the data."""
        return self._tasks

    @functools.cached_property
    def _tasks(self) -> tuple[Task, ...]:
        fields = ("instruction", "initialization_command_item", "evaluation_info", "skill_list")
        found = {}
        files = data_files(self.name, self._path, FILES)
        for where, record in read_records(self.name, files, fields):
            if record.get("raw_entry_hash") in UNUSABLE:
                continue
            task = self._task(where, record)
            found[task.id] = task
        return tuple(found.values())

    def _task(self, where: str, record: dict[str, Any]) -> Task:
        try:
            before = _script(record["initialization_command_item"])
            check = _script(record["evaluation_info"]["evaluation_command_item"])
            gold = _script(record["evaluation_info"]["ground_truth_command_item"])
        except (KeyError, TypeError, ValueError) as error:
            raise SuiteError(
                f"suite {self.name}: {where} has no usable scripts: {type(error).__name__}: {error}"
            ) from None
        return Task(
            suite=self.name,
            family=family_of(record["skill_list"]),
            prompt=str(record["instruction"]).strip(),
            data={"before": before, "check": check, "gold": gold},
        )

    def environment(self, task: Task) -> Environment:
        """A system made ready for one task."""
        before, check = str(task.data["before"]), str(task.data["check"])
        return ShellAnswer(task.prompt, before, check, self._sandbox)

    def canary(self, task: Task, seed: int) -> Task:
        """The same task, checked by a file whose name and content nobody is told."""
        name, content = nonce(task.id, seed), nonce(task.id[::-1], seed)
        check = f'[ "$(cat /srv/{name} 2>/dev/null)" = {content} ]'
        return task.model_copy(update={"data": {**task.data, "check": check}})

    def gold(self, task: Task) -> Sequence[Action]:
        """The published script; some fail in their last, needless commands, when all is done."""
        return [write_action(SHELL, f"{task.data['gold']}\ntrue")]


def family_of(commands: Sequence[str]) -> str:
    """What a task is mostly about, by the commands of its solution: ``FAMILIES``, or ``files``."""
    for family, signs in FAMILIES.items():
        if any(command in signs for command in commands):
            return family
    return "files"


def _script(item: dict[str, Any]) -> str:
    if item["command_name"] != "bash":
        raise ValueError(f"a script for {item['command_name']!r}, not bash")
    return str(item["script"])
