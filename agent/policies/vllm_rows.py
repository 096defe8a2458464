"""Mends vLLM on a CPU, from within its worker: a row without an adapter gets none.

The kernels in torch read -1, which stands for "no adapter", as an index: in a batch with rows of
an adapter, rows of the base weights get the adapter in the last slot (vLLM 0.32, its pull request
48421). This file is copied to where the server finds it, so it imports nothing of ours.
"""

from typing import Any

from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


def _mend(name: str) -> None:
    shrink = getattr(PunicaWrapperCPU, name)

    def mended(self: Any, y: Any, *rest: Any) -> None:
        shrink(self, y, *rest)
        if not self.no_lora:  # what is expanded from zeros adds nothing
            y[self.token_lora_indices < 0] = 0

    setattr(PunicaWrapperCPU, name, mended)


for _name in ("_shrink_prefill", "_shrink_decode"):
    _mend(_name)


class Mended:
    """What ``--worker-extension-cls`` asks for: importing it is what mends."""
