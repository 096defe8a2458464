"""LifelongAgentBench's shell tasks, and scripts that tamper with what checks them."""

import json
from pathlib import Path
from typing import Any

import pytest

from environments.base import Action, EnvironmentFailure, StepResult, SuiteError
from environments.checks import check_suite
from environments.kinds.shell import ShellAnswer
from environments.sandbox import make_sandbox
from environments.sandbox.base import SandboxUnavailable
from environments.suites.lifelong_os import family_of
from tests.environments.gold import DATA, failures, load

FEW = str(DATA / "lifelong_agentbench")
CHECK = (
    "[ -f /data/done ] && id -nG ann | grep -qw dev && "
    "[ $(awk 'END {print NR}' /data/done) -eq 3 ] && exit 0 || exit 1"
)


def ran(*scripts: Any, before: str = "groupadd dev && useradd -m ann && mkdir /data",
        check: str = CHECK) -> list[StepResult]:  # fmt: skip
    environment = ShellAnswer("?", before, check, make_sandbox)
    try:
        return [environment.step(Action(text="", tool="shell", arguments={"script": script}))
                for script in scripts]  # fmt: skip
    finally:
        environment.close()
        environment.close()


def test_gold_earns_the_full_reward_and_the_suite_conforms() -> None:
    suite = load("lifelong-os", data=FEW)
    assert len(suite.tasks()) == 6
    assert failures(suite) == [] == check_suite(suite, limit=1)
    for task in suite.tasks():
        assert str(task.data["check"]) not in task.prompt


def test_the_work_is_checked() -> None:
    work = "usermod -aG dev ann && printf '1\\n2\\n3\\n' > /data/done && echo finished"
    (result,) = ran(work)
    assert (result.reward, result.terminated) == (1.0, True)
    assert result.observation == "Done.\nfinished"
    assert [r.reward for r in ran("true")] == [0.0]
    assert [r.reward for r in ran("usermod -aG dev ann && echo 1 > /data/done")] == [0.0]


def test_a_failed_script_is_undone_and_may_be_tried_again() -> None:
    first, second, third = ran(
        "usermod -aG dev ann; printf '1\\n2\\n3\\n' > /data/done; echo no >&2; exit 3",
        "ls /data/done",
        "[ ! -e /data/done ] && ! id -nG ann | grep -qw dev",
    )
    assert first.observation == "Error: exit status 3; what it did is undone.\nno"
    assert (first.error, first.terminated, second.terminated) == ("script failed", False, False)
    assert "No such file" in second.observation
    assert (third.reward, third.terminated) == (0.0, True)


@pytest.mark.parametrize("script", ["", " \n", "echo \0", "x" * 70_000])
def test_what_is_no_script(script: str) -> None:
    assert [r.error for r in ran(script)] == ["bad script"]


def test_odd_text_runs_as_it_is() -> None:
    (result,) = ran("echo '\ud800 \u00e9'")
    assert result.observation == "Done.\n? \u00e9"


TAMPERING = {
    "puts a program before the system's": (
        "for d in /usr/local/bin /usr/local/sbin; do for p in awk grep id; do\n"
        "  printf '#!/bin/sh\\necho 3\\nexit 0\\n' > $d/$p; chmod +x $d/$p\ndone; done\n"
        "touch /data/done"
    ),
    "replaces a link to a program": (
        "printf '#!/bin/sh\\necho 3\\n' > /srv/awk; chmod +x /srv/awk\n"
        "ln -sf /srv/awk /etc/alternatives/awk; usermod -aG dev ann; touch /data/done"
    ),
    "replaces the folder of links": (
        "cp -a /etc/alternatives /srv/alternatives; rm -rf /etc/alternatives\n"
        "ln -s /srv/alternatives /etc/alternatives\n"
        "usermod -aG dev ann; touch /data/done\n"
        "printf '#!/bin/sh\\necho 3\\n' > /srv/x; chmod +x /srv/x\n"
        "ln -sf /srv/x /srv/alternatives/awk"
    ),
    "loads a library into every program": "echo /srv/evil.so > /etc/ld.so.preload",
    "redirects every program's libraries": "cp /bin/true /etc/ld.so.cache",
    "defines functions for shells to come": (
        "for f in /etc/profile /etc/bash.bashrc ~root/.bashrc ~root/.profile /etc/environment; do\n"
        "  echo 'grep() { true; }; awk() { echo 3; }; test() { true; }; exit 0' >> $f\ndone\n"
        "export BASH_ENV=~root/.bashrc ENV=~root/.bashrc; touch /data/done"
    ),
    "writes where programs lie": "printf 'exit 0' > /usr/bin/awk; touch /data/done; true",
    "leaves a process behind": (
        "(setsid sh -c 'sleep 0.2; usermod -aG dev ann; seq 3 > /data/done; sleep 60' &) "
        ">/dev/null 2>&1; true"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_a_script_that_tampers_with_the_check_scores_nothing(what: str) -> None:
    for result in ran(TAMPERING[what]):
        assert result.reward == 0.0, result


@pytest.mark.parametrize("what", ["loads a library into every program",
                                  "redirects every program's libraries",
                                  "replaces a link to a program",
                                  "replaces the folder of links"])  # fmt: skip
def test_tampering_spoils_even_work_that_is_done(what: str) -> None:
    work = "\nusermod -aG dev ann; seq 3 > /data/done"
    assert [r.reward for r in ran(TAMPERING[what] + work)] == [0.0]


def test_the_script_knows_nothing_of_the_check() -> None:
    (result,) = ran("cat /proc/*/cmdline /proc/*/environ /work/* 2>/dev/null; find / -xdev -newer "
                    "/etc/hostname -type f 2>/dev/null; true")  # fmt: skip
    assert "END {print NR}" not in result.observation


def test_a_system_that_cannot_be_made_ready_is_a_broken_world() -> None:
    with pytest.raises(EnvironmentFailure, match=r"first script failed: .*no-such-command"):
        ran("true", before="no-such-command")


def test_a_sandbox_without_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from environments import sandbox

    monkeypatch.setitem(sandbox.SANDBOXES, "plain", f"{__name__}:plain")
    monkeypatch.setattr(sandbox, "import_module", lambda name: __import__("types").SimpleNamespace(
        plain=lambda limits: None))  # fmt: skip
    with pytest.raises(SandboxUnavailable, match="plain has no root inside"):
        make_sandbox("plain", root=True)


def test_families() -> None:
    assert family_of(["useradd", "chage", "grep"]) == "accounts"
    assert family_of(["mkdir", "touch", "cd"]) == "files"


def test_unusable_data(tmp_path: Path) -> None:
    record = {"instruction": "?", "initialization_command_item": {"command_name": "fish"},
              "evaluation_info": {}, "skill_list": []}  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(SuiteError, match=r"record 1 has no usable scripts: .*'fish', not bash"):
        load("lifelong-os", data=str(path)).tasks()


def test_the_full_set(data_root: Path) -> None:
    suite = load("lifelong-os", data=str(data_root / "lifelong_agentbench"))
    assert len(suite.tasks()) == 489
    assert len({task.family for task in suite.tasks()}) == 9
    assert failures(suite, 80) == []
