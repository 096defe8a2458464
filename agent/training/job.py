"""Training in processes of its own, started by accelerate's launcher: ``update_weights.launch``.

The job is a file: what ``lora.train`` is given. Several devices, FSDP and mixed precision are
the launcher's own options. Run as ``accelerate launch … -m agent.training.job JOB.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.policies.base import PolicyFailure
from agent.training.packing import Example
from agent.training.settings import LoraSettings


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
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise PolicyFailure(f"update_weights.launch cannot be run: {error}") from error
        if done.returncode:
            diverged = path.with_suffix(".diverged")
            if diverged.exists():
                raise FloatingPointError(diverged.read_text())
            told = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise PolicyFailure(f"update_weights.launch failed ({done.returncode}): {told}")
    return read_manifest(folder)


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
