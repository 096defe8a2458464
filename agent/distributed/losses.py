"""What Ray raises where the process that was asked is gone. Imports Ray."""

from __future__ import annotations

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

LOST = (RayActorError, OutOfMemoryError, WorkerCrashedError, NodeDiedError)
