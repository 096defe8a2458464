"""Training in processes of its own, started by accelerate's launcher: ``update_weights.launch``.

The job is a file: what ``lora.train`` is given. Several devices, FSDP and mixed precision are
the launcher's own options. Run as ``accelerate launch … -m agent.training.job JOB.json``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.policies.base import PolicyFailure
from agent.training.packing import Example
from agent.training.settings import LoraSettings
from environments.adapters.processes import supervised


def launch(
    model_folder: Path,
    examples: Sequence[Example],
    settings: LoraSettings,
    folder: Path,
    *,
    seed: int,
    manifest: dict[str, Any],
    start: Path | None,
    dtype: str,
    device: str,
) -> dict[str, Any]:
    """As ``lora.train``, in the processes that ``settings.launch`` starts.

    Raises:
        PolicyFailure: they failed; with the last lines that they wrote.
        FloatingPointError: training diverged.
    """
    from agent.training.adapter import read_manifest

    check(settings.launch)
    job = {
        "model": str(model_folder),
        "examples": examples,
        "settings": settings.model_dump(mode="json") | {"launch": []},
        "folder": str(folder.absolute()),
        "seed": seed,
        "manifest": manifest,
        "start": start and str(start.absolute()),
        "dtype": dtype,
        "device": device,
    }
    with tempfile.TemporaryDirectory(prefix="instar-job-") as scratch:
        path = Path(scratch) / "job.json"
        path.write_text(json.dumps(job))
        command = [*settings.launch, "-m", "agent.training.job", str(path)]
        # Ended with us: else it would train on beside the one that is started again.
        with subprocess.Popen(
            supervised(command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                _, said = process.communicate()
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            diverged = path.with_suffix(".diverged")
            if diverged.exists():
                raise FloatingPointError(diverged.read_text())
            told = " | ".join(said.strip().splitlines()[-3:])
            raise PolicyFailure(f"update_weights.launch failed ({process.returncode}): {told}")
    return read_manifest(folder)


def check(command: Sequence[str]) -> None:
    """Whether the program of ``update_weights.launch`` is there.

    Raises:
        PolicyFailure: it is not.
    """
    if command and shutil.which(command[0]) is None:
        raise PolicyFailure(
            f"update_weights.launch cannot be run: there is no program {command[0]}; install it, "
            "or name one by its path"
        )


def main(path: Path) -> None:
    """Do the job in this process, one of several."""
    from agent.training.lora import train

    job = json.loads(path.read_text())
    try:
        train(
            Path(job["model"]),
            [_example(fields) for fields in job["examples"]],
            LoraSettings.model_validate(
                {name: job["settings"][name] for name in LoraSettings.model_fields}
            ),
            Path(job["folder"]),
            seed=job["seed"],
            manifest=job["manifest"],
            start=job["start"] and Path(job["start"]),
            dtype=job["dtype"],
            device=job["device"],
        )
    except FloatingPointError as error:
        path.with_suffix(".diverged").write_text(str(error))
        raise


def _example(fields: list[Any]) -> Example:
    made = Example(*fields)
    return made._replace(
        token_ids=tuple(made.token_ids),
        loss_mask=tuple(made.loss_mask),
        logprobs=tuple(made.logprobs),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
