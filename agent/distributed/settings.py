"""Where episodes are played."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator


class RolloutSettings(BaseModel):
    """Where episodes are played and where the policy generates.

    Args:
        runner: ``local``, in this process; or ``ray``, in worker processes that ask engines in
            other processes, on this machine or on many (see agent/distributed/README.md).
        address: of a Ray cluster that runs already, and that this machine is one of (``auto``
            or ``host:port``); null starts Ray on this machine, for this run only.
        workers: processes that play episodes: environments and sandboxes are theirs.
        engines: processes that hold the policy, each of them the whole model.
        episodes: played at a time by each worker; null is as many as keep the engines full.
        worker_cpus: cores that Ray sets aside for each worker.
        engine_cpus: cores that Ray sets aside for each engine, and as many threads; null is one,
            and the threads of the local runner, since workers mostly wait for it.
        engine_gpus: GPUs that Ray sets aside for each engine; null is one where the cluster has
            any and the engine can use it.
        restarts: how often the same worker or engine is replaced before an episode of its has
            ended; then the run stops.
        wait_s: longest wait for a place in the cluster, in seconds.
        runtime_env: Ray's, as ``{working_dir: .}`` for nodes that lack your own suite's code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runner: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int = Field(2, ge=1)
    engines: int = Field(1, ge=1)
    episodes: int | None = Field(None, ge=1)
    worker_cpus: float = Field(1, ge=0)
    engine_cpus: float | None = Field(None, ge=0)
    engine_gpus: float | None = Field(None, ge=0)
    restarts: int = Field(3, ge=0)
    wait_s: float = Field(300, gt=0)
    runtime_env: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_the_cluster(self) -> Self:
        if self.address is not None and self.address.startswith("ray://"):
            raise ValueError(
                "address: the run has to be started on a machine of the cluster (ray start "
                "--address=…), with address auto; Ray's client (ray://) is not used"
            )
        return self
