"""Training in two processes with FSDP 2 on CPU, which accelerate's launcher offers for GPUs only.

    python fsdp_driver.py -m MODULE ARGUMENTS...

Starts itself twice, with the environment that the launcher would set. Torch's FSDP runs on CPU;
what is replaced is accelerate's decision that it does not.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from typing import Any

LAUNCHED = {
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def launch() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env = os.environ | LAUNCHED | {"MASTER_PORT": str(free.getsockname()[1])}
    both = [
        subprocess.Popen([sys.executable, *sys.argv], env=env | {"RANK": n, "LOCAL_RANK": n})
        for n in ("0", "1")
    ]
    return max(abs(process.wait()) for process in both)


def run() -> None:
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    begin = AcceleratorState.__init__

    def with_fsdp(self: Any, *arguments: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
        begin(self, *arguments, fsdp_plugin=fsdp_plugin, **settings)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = with_fsdp
    _, _, module, *rest = sys.argv
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if "RANK" in os.environ:
        run()
    else:
        sys.exit(launch())
