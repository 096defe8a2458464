"""What every benchmark here shares: where it ran, and how its figures are stored."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.config import Config

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CODE = ("agent", "environments", "memory", "benchmarks/*.py")
LIBRARIES = ("torch", "transformers", "peft", "chromadb", "sentence-transformers", "reasoning-gym")
# What is to be reached; here, since the scripts that measure it and the tables tell of it.
MEMORY_BARS = {
    "recall p50 / (embedding + raw Chroma)": ("at most", 1.3),
    "recall@10": ("at least", 0.99),
    "bulk add / raw Chroma": ("at least", 1.0),
    "recall p50, 100 generations / 1": ("at most", 1.3),
}
INSPECTOR_BARS = {"first paint, ms": ("at most", 1000.0), "scrub p95, ms": ("at most", 200.0)}
SANDBOX_BARS = {"bubblewrap / bare interpreter": 2.0, "docker warm, ms": 40.0, "worker, ms": 3.0}
ENGINE_BARS = {
    "rollouts / generate": ("at least", 1.6),
    "rollouts / vLLM offline": ("at least", 0.9),
    "rollouts on vLLM / vLLM offline": ("at least", 0.9),
}
ENGINE_GOAL = ("rollouts / vLLM offline", 1.2)
TRAINING_BARS = {"tokens a second / the better of the others": ("at least", 2.0)}
OURS = "instar"  # the recipe that is to be first, or tied for first, on every suite
TRAINING_GOAL = 0.6  # of the measured matmul rate
UNEVOLVED = {"base": "unevolved", "best_of_n": "best of n, unevolved"}  # as they are called

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says when it starts and stops
sys.path.insert(0, str(ROOT))  # works in a checkout that is not installed

from agent.machine import share_cores  # noqa: E402

share_cores()  # as the command `instar` does


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the two options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="small and fast; not to be published")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return made


def told_in_a_line(main: Callable[[], None]) -> None:
    """Run a script; a mistake that ``instar`` tells in one line is one line here too."""
    from agent.cli import _status

    try:
        main()
    except Exception as error:
        if _status(error) is None:
            raise
        raise SystemExit(" ".join(str(error).split())) from None


def circumstances(benchmark: str) -> dict[str, Any]:
    """Date, commit, machine, command and versions: what makes figures comparable."""
    from agent.evolution.final import machine

    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    command = shlex.join(["python", str(name), *sys.argv[1:]])
    return {
        "benchmark": benchmark,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "command": command.replace(f"{Path.home()}/", "~/"),
        "versions": {"python": sys.version.split()[0]} | {n: _version(n) for n in LIBRARIES},
    }


def commit() -> str:
    """The commit's short name, with ``+`` where the code differs from it; "unknown" without git."""
    head = _git("rev-parse", "--short", "HEAD")
    if head is None:
        return "unknown"
    return head + ("+" if _git("status", "--porcelain", "--", *CODE) else "")


def save(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON in one step, if a path was given."""
    if path is None:
        return
    from agent.run_folder import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    print(f"written: {path}")


def piece(
    file: Path | None, name: str, config: Config, measure: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """What a part of a campaign found, with its date, commit and configuration.

    It is kept in a folder beside the campaign's figures, or in `runs/`; what lies there is read
    and not measured again, so that a campaign of many hours goes on in another checkout and on
    another machine.

    Raises:
        SystemExit: what lies there was measured with other settings.
    """
    from agent.config import Config

    kept = (file.with_suffix("") if file else ROOT / "runs") / f"{name}.json"
    if not kept.is_file():
        found = measure()
        now = {"date": time.strftime("%Y-%m-%d"), "commit": commit()}
        save(kept, {**found, **now, "config": config.model_dump(mode="json")})
    told: dict[str, Any] = json.loads(kept.read_text())
    if _used(Config.model_validate(told["config"])) != _used(config):
        raise SystemExit(f"{kept}: measured with other settings than these; move it away")
    return told


def measured(pieces: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """When and at which commits pieces were measured; in place of when they were put together."""
    commits = dict.fromkeys(piece["commit"] for piece in pieces)
    return {"date": max(piece["date"] for piece in pieces), "commit": ", ".join(commits)}


def _used(config: Config) -> dict[str, Any]:
    """The settings, without those of objectives that nothing is trained by."""
    from agent.idle import OBJECTIVES

    tree = config.model_dump(mode="json")
    own = tree["update_weights"]
    for name in {*OBJECTIVES} - {own["objective"]}:
        if not own["verifier"]["enabled"]:
            del own[name]
    return tree


def standing(figures: Mapping[str, Any]) -> str:
    """Where ours stands on a suite: first, behind whom, or tied, by no more than chance, with whom.

    Args:
        figures: of the suite, from ``methods.told``.
    """
    arms = {n: a["mean"] for n, a in figures["arms"].items()}
    if OURS not in arms:
        return "not measured"
    others = sorted((n for n in arms if n != OURS), key=lambda n: -arms[n])
    near = [n for n in others if figures["contrasts"][n]["p_holm"] >= 0.05]
    ahead = [n for n in others if arms[n] > arms[OURS] and n not in near]
    shown = " and ".join(UNEVOLVED.get(name, name) for name in ahead or near)
    if ahead:
        return f"behind {shown}"
    if len(near) == len(others) > 1:
        return "tied with all others"
    return f"tied for first with {shown}" if near else "first"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
