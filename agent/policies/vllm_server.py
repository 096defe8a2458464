"""A vLLM server of our own: started, watched, restarted and ended by us.

It runs in vLLM's own virtual environment, since its versions of transformers and torch are not
ours. Nobody but its user can reach it: it listens on a Unix socket in a folder that only that
user may enter. A port with an API key would not do, because vLLM (0.32) asks for the key below
``/v1`` only, and adapters can be loaded through ``/adapters`` as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.policies.base import PolicyFailure
from agent.policies.calls import MOST_LIKELY
from agent.policies.endpoint import Endpoint, NoAnswer
from agent.policies.models import ModelError, cache_dir

BASE = "base"  # the name of the weights without an adapter
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be
_ROWS = Path(__file__).with_name("vllm_rows.py")
_END_S = 10.0  # longer than the supervisor takes to kill
_POLL_S = 0.2
_TAIL_BYTES = 65_536
_NOISE = re.compile(
    r"\x1b\[[0-9;]*m|^\([^)]*pid=\d+\) |^(?:INFO|WARNING|ERROR) [\d:. -]+\[[^]]*\] "
)
_ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception|Exit)\b|.*\berror:)")


class VllmSettings(BaseModel):
    """A vLLM server that the run starts (``policy.engine: vllm``).

    Args:
        python: interpreter of vLLM's own virtual environment; null is the one that `make vllm`
            makes, in the cache folder.
        arguments: further options of ``vllm serve``, as ``{gpu_memory_utilization: 0.5}``;
            true stands for an option without a value.
        environment: environment variables of the server.
        start_s: longest start, in seconds; the first one compiles.
        timeout_s: longest wait for one answer, in seconds.
        restarts: how often in a run a server that died is started again.
        adapters: how many adapters are kept loaded.
        training: whether the server stays up while this machine trains (``beside``) or makes
            room (``stop``); ``auto``: it stays on a CPU and makes room on a GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str | None = None
    arguments: dict[str, str | int | float | bool] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default={"VLLM_CPU_KVCACHE_SPACE": "2"})
    start_s: float = Field(600, gt=0)
    timeout_s: float = Field(600, gt=0)
    restarts: int = Field(3, ge=0)
    adapters: int = Field(4, ge=2)
    training: Literal["auto", "beside", "stop"] = "auto"


def default_python() -> Path:
    """The interpreter of the environment that `make vllm` makes."""
    return cache_dir().parent / "vllm" / "bin" / "python"


def on_cpu(python: Path) -> bool:
    """Whether the vLLM of an interpreter's environment is a build for the CPU."""
    packages = python.parent.parent / "lib"
    builds = ("vllm_cpu-*.dist-info", "vllm-*cpu*.dist-info")
    return any(True for build in builds for _ in packages.glob(f"python*/site-packages/{build}"))


def whole_prompts(context: int) -> dict[str, int | bool]:
    """Options that keep vLLM from reading a prompt in parts.

    On a CPU, its 0.32 dies when it does so for a request with a seed (it turns the generator
    back, which torch has for GPUs only).
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, 2048)}


def right_rows(folder: Path) -> dict[str, str]:
    """Options that keep vLLM on a CPU from mixing up weights: see ``agent.policies.vllm_rows``.

    Args:
        folder: on the path of the server's interpreter.
    """
    module = f"instar_{_ROWS.stem}"  # the worker imports it by a name that is nobody else's
    shutil.copy(_ROWS, folder / f"{module}.py")
    return {"worker_extension_cls": f"{module}.Mended"}


class VllmServer:
    """The server of one run; started when it is first needed.

    Args:
        model: folder of the base model.
        settings: how.
        log: file that it writes to, kept from start to start.
        context: longest prompt plus completion, in tokens.
        slots: rows generated at a time.
        dtype: one of torch's.
        rank: largest rank of adapters; None serves the base weights only, which is faster.
        say: told what the user should know.
    """

    def __init__(
        self,
        model: Path,
        settings: VllmSettings,
        log: Path,
        *,
        context: int = 2048,
        slots: int = 56,
        dtype: str = "auto",
        rank: int | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.model, self.settings, self.log = model, settings, log.absolute()
        self.context, self.slots, self.rank, self.say = context, slots, rank, say
        self.dtype = "bfloat16" if dtype == "auto" else dtype
        self.deaths = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint: Endpoint | None = None
        self._begin = 0  # of this start's part of the log
        self._known: OrderedDict[str, Path] = OrderedDict()  # adapters to serve, by version
        self._loaded: dict[str, Path] = {}  # from where
        self._used: set[str] = set()

    # --- Service ---

    def serve(self, version: str, adapter: Path | None) -> str:
        if adapter is not None:
            rank = int(json.loads((adapter / "adapter_config.json").read_text())["r"])
            if rank > (self.rank or 0):  # it was started for less
                self.rest()
                self.rank = rank
            self._known[version] = adapter.absolute()
            self._known.move_to_end(version)
            self._used.add(version)
        if not self.running:
            self._start()
        self._load()
        return BASE if adapter is None else _name(version)

    def release(self, version: str) -> None:
        self._used.discard(version)

    @property
    def endpoint(self) -> Endpoint:
        if self._endpoint is None:
            raise NoAnswer("the vLLM server is not running")
        return self._endpoint

    def revive(self, error: NoAnswer, tries: int) -> None:
        if self._process is not None:
            if self.running and self._healthy():
                return  # it is the request that got lost
            why = self.died(_END_S) or f"the vLLM server does not answer: {error}"
            self.rest()
            self.deaths += 1
            if self.deaths > self.settings.restarts:
                raise PolicyFailure(
                    f"{why}; it was started again {self.settings.restarts} times "
                    "(policy.vllm.restarts), run the same command to go on"
                ) from error
            self.say(f"{why}: starting it again ({self.deaths} of {self.settings.restarts})")
        if not self.running:
            self._start()
            self._load()

    def rest(self) -> None:
        process, self._process, self._endpoint = self._process, None, None
        self._loaded.clear()
        if process is None:
            return
        if process.poll() is None:
            process.terminate()  # the supervisor kills all that it has started
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        self.rest()

    # --- the process ---

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the supervisor, which is the process group's."""
        assert self._process is not None, "not running"
        return self._process.pid

    def died(self, wait_s: float = 0.5) -> str:
        """How it ended, in one line with what its log says last; "" while it lives."""
        if self._process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)  # a client notices before all it started is killed
        code = self._process.returncode
        if code is None:
            return ""
        how = f"signal {abs(code) % 128}" if code < 0 or code > 128 else f"status {code}"
        return f"the vLLM server died ({how}): {last_words(self.log, self._begin)}"

    def _start(self) -> None:
        from environments.adapters.processes import supervised

        python = self._python
        if not python.is_file():
            raise ModelError(
                f"there is no vLLM at {python}: run `make vllm`, or set policy.vllm.python to the "
                "interpreter of the environment that vLLM is installed in"
            )
        folder = tempfile.mkdtemp(prefix="instar-vllm-")  # for this user alone
        address = Path(folder, "socket")
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", *self._options(address)]
        with self.log.open("ab") as out:
            self._begin = out.tell()
            self._process = subprocess.Popen(
                supervised(command, folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment(folder),
                start_new_session=True,
            )
        self._endpoint = Endpoint(f"unix:{address}", timeout_s=self.settings.timeout_s)
        deadline = time.monotonic() + self.settings.start_s
        try:
            while not self._healthy():
                why = self.died() if self._process.poll() is not None else ""
                if not why and time.monotonic() > deadline:
                    why = (
                        f"the vLLM server did not answer within {self.settings.start_s:g} s "
                        f"(policy.vllm.start_s): {last_words(self.log, self._begin)}"
                    )
                if why:
                    raise PolicyFailure(why)
                time.sleep(_POLL_S)
        except BaseException:
            self.rest()
            raise

    @property
    def _python(self) -> Path:
        return Path(self.settings.python or default_python()).expanduser()

    def _options(self, address: Path) -> list[str]:
        options: dict[str, str | int | float | bool] = {
            "model": str(self.model),
            "served_model_name": BASE,
            "dtype": self.dtype,
            "max_model_len": self.context,
            "max_num_seqs": self.slots,
            "max_logprobs": MOST_LIKELY,
            "disable_uvicorn_access_log": True,
        }
        if self.rank is not None:
            options |= {
                "enable_lora": True,
                "max_lora_rank": next((r for r in RANKS if r >= self.rank), self.rank),
                "max_loras": 2,  # the version that finishes its episodes, and the next
                "max_cpu_loras": self.settings.adapters,
            }
        if on_cpu(self._python):
            options |= whole_prompts(self.context)
            if self.rank is not None:
                options |= right_rows(address.parent)
        options |= self.settings.arguments | {"uds": str(address)}
        told: list[str] = []
        for key, value in options.items():
            name = key.replace("_", "-")
            if isinstance(value, bool):
                told.append(f"--{name}" if value else f"--no-{name}")
            else:
                told += [f"--{name}", str(value)]
        return told

    def _environment(self, folder: str) -> Mapping[str, str]:
        ours = {"PYTHONPATH", "PYTHONHOME", "VLLM_API_KEY"}
        kept = {k: v for k, v in os.environ.items() if k not in ours}
        own = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": folder}
        own["PYTHONPATH"] = folder  # which is its own, and private
        own["OMP_WAIT_POLICY"] = kept.get("OMP_WAIT_POLICY", "PASSIVE")  # see agent.machine
        if self.rank is not None:
            own["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
        return {**kept, **own, **self.settings.environment}

    def _healthy(self) -> bool:
        try:
            status, _ = self.endpoint.request("GET", "//health", wait_s=20)
        except NoAnswer:
            return False
        return status == 200

    # --- adapters ---

    def _load(self) -> None:
        """Load what is to be served and unload the oldest that no policy uses any more."""
        idle = [version for version in self._known if version not in self._used]
        for version in idle[: max(0, len(self._known) - self.settings.adapters)]:
            del self._known[version]
            if version in self._loaded:
                del self._loaded[version]
                with contextlib.suppress(NoAnswer):
                    self.endpoint.unload_adapter(_name(version))
        for version in sorted(self._used):
            folder = self._known[version]
            if self._loaded.get(version) == folder:
                continue
            try:
                # Out of memory, it is read again from where it was loaded, which may be gone (a
                # merge that was tried, then stored). Its files are the same, so its name is.
                if self._loaded.pop(version, None) is not None:
                    self.endpoint.unload_adapter(_name(version))
                self.endpoint.load_adapter(_name(version), str(folder))
            except NoAnswer as error:
                why = self.died() or str(error)
                raise PolicyFailure(f"the adapter {version} was not loaded: {why}") from error
            self._loaded[version] = folder


def _name(version: str) -> str:
    """A new name for each version: vLLM keeps what it computed by name and folder."""
    return f"policy-v{version}"


def last_words(log: Path, begin: int = 0) -> str:
    """What a log says about how it ended, in one line: its first error, and its last line."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error.strerror})"
    lines = []
    for line in text.splitlines():
        bare, before = line, None
        while bare != before:
            before, bare = bare, _NOISE.sub("", bare)
        if bare.strip():
            lines.append(bare.strip()[:300])
    errors = [line for line in lines if _ERROR.match(line)][:1]
    told = list(dict.fromkeys([*errors, *lines[-1:]]))
    return f"{' … '.join(told) or 'it wrote nothing'} (log: {log})"
