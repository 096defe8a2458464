"""The contestants of benchmarks/engine.py: each a process that runs when it is told to.

    python benchmarks/_engine_workers.py NAME JOB.json

A worker prints what it is once it is ready, then one line for each line that it reads.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Runs in vLLM's own Python: it is given token ids and knows nothing of this project.
VLLM = """
import json, os, sys, time
job = json.load(open(sys.argv[1]))
os.environ.update(job["environment"])

def main():
    from importlib import metadata
    from vllm import LLM, SamplingParams, TokensPrompt
    llm = LLM(**job["options"])
    def run(asked, alike):
        prompts = [TokensPrompt(prompt_token_ids=r["prompt_ids"]) for r in asked]
        params = [
            SamplingParams(
                max_tokens=r["max_new_tokens"], temperature=r["temperature"],
                top_k=r["top_k"] if r["temperature"] else 0, stop=r["stop"],
                include_stop_str_in_output=True,
                **({"seed": r["seed"], "logprobs": 0} if alike else {}),
            )
            for r in asked
        ]
        llm.reset_prefix_cache()
        begin = time.perf_counter()
        out = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return {"tokens": sum(len(o.outputs[0].token_ids) for o in out), "seconds": seconds}
    told = {"version": "vllm " + metadata.version(job["package"]), "dtype": job["options"]["dtype"]}
    print("@@" + json.dumps(told), flush=True)
    for line in sys.stdin:
        asked = json.load(open(job["requests"]))
        told = json.loads(line)
        if told["part"]:
            asked = asked[: told["part"]]
        print("@@" + json.dumps(run(asked, told["way"] == "alike")), flush=True)

if __name__ == "__main__":
    main()
"""


def answer(told: dict[str, Any]) -> None:
    """One line for whoever waits; libraries print too, so it is marked."""
    print("@@" + json.dumps(told), flush=True)


def peak_mib() -> float:
    """The most memory that this process has held, in MiB: of the GPU, where it used one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rollouts(job: dict[str, Any]) -> None:
    """Real episodes: on the embedded engine, or on a vLLM server that a run would start."""
    from rollout import Recorder, assignments, fresh, time_rollout

    from agent.config import Config
    from agent.engines import Engine
    from agent.policies.transformers import TransformersPolicy
    from environments.sandbox import make_sandbox
    from environments.suites import load_suite

    config = Config.model_validate(job["config"])
    suite = load_suite(config.suite.name, sandbox=make_sandbox)
    # No hot beginnings: generate and vLLM's own calls have one temperature for a request.
    episodes = assignments(config, suite, job["tasks"], job["samples"], hot_tokens=0)
    engine = Engine(config, Path(job["log"]), lambda text: print(text, file=sys.stderr))
    policy: Any = engine.policy(None, "base")

    def recorder() -> Recorder:
        if isinstance(policy, TransformersPolicy):
            return fresh(policy)
        status, told = engine._service.endpoint.request("POST", "//reset_prefix_cache")
        if status != 200:
            raise SystemExit(f"vLLM's prefix cache was not emptied ({status}): {told}")
        return Recorder(policy)

    try:
        own = isinstance(policy, TransformersPolicy)
        dtype: str = config.policy.dtype
        if isinstance(policy, TransformersPolicy):
            dtype = str(policy.engine.dtype).split(".")[-1]
        answer({"dtype": dtype})
        for line in sys.stdin:
            part = json.loads(line)["part"]
            watched = recorder()
            timing = time_rollout(watched, suite, episodes[: part or None], config)
            requests = Path(job["requests"])
            if own and not part and not requests.exists():
                asked = [request.model_dump(mode="json") for request in watched.requests.values()]
                requests.write_text(json.dumps(asked))
            told = {"tokens": timing.tokens, "seconds": timing.seconds, "peak_mib": peak_mib()}
            answer(told | {"episodes": len(episodes), "requests": len(watched.requests)})
    finally:
        policy.close()
        engine.close()


def generate(job: dict[str, Any]) -> None:
    """transformers' ``generate``, with threads that wait as they do by themselves."""
    os.environ.pop("OMP_WAIT_POLICY", None)  # it has no sandboxes beside it to share cores with
    from rollout import GENERATE_ROWS, time_generate

    from agent.policies.base import Request
    from agent.policies.models import resolve_model
    from agent.policies.transformers import load_model

    policy = job["config"]["policy"]
    tokenizer, model = load_model(resolve_model(policy["model"]), dtype=policy["dtype"])
    answer({"dtype": str(model.dtype).split(".")[-1]})
    for line in sys.stdin:
        part = json.loads(line)["part"]
        asked = [Request.model_validate(r) for r in json.loads(Path(job["requests"]).read_text())]
        timing = time_generate(
            model, tokenizer, asked[: part or None], max(GENERATE_ROWS, policy["slots"])
        )
        told = {"tokens": timing.tokens, "seconds": timing.seconds, "peak_mib": peak_mib()}
        answer(told)


WORKERS: dict[str, Callable[[dict[str, Any]], None]] = {"rollouts": rollouts, "generate": generate}


if __name__ == "__main__":
    import _common  # noqa: F401 (finds the project, and says how threads wait)

    WORKERS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
