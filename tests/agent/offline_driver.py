"""``vllm-offline`` in an interpreter that has vLLM: a model, then adapters as JSON.

Prints, for each version, prompts, ids and log-probabilities, and what was chosen.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    from agent.policies.base import Request
    from agent.policies.chat import load_chat
    from agent.policies.offline import OfflinePolicy, OfflineVllm
    from agent.policies.vllm_server import VllmSettings

    model, adapters = Path(sys.argv[1]), json.loads(sys.argv[2])
    settings = VllmSettings(arguments={"enforce_eager": True}, environment={})
    service = OfflineVllm(model, settings, context=256, slots=4, rank=8)
    chat, ends = load_chat(model)
    found = {}
    for version in ("base", *adapters):
        folder = Path(adapters[version]) if version in adapters else None
        policy = OfflinePolicy(chat, ends, service, folder, version=version, context=256)
        prompt = policy.encode([{"role": "user", "content": "Name three colours."}])
        choices = ("go east", "go to desk 1", "go to desk 12", "take lamp", "go", "inventory")
        policy.submit("greedy", Request(prompt_ids=prompt, max_new_tokens=12))
        policy.submit("drawn", Request(prompt_ids=prompt, max_new_tokens=12, temperature=1.0,
                                       hot_tokens=2, heat=1.5))  # fmt: skip
        policy.submit("chosen", Request(prompt_ids=prompt, max_new_tokens=3, choices=choices))
        done = {}
        while policy.busy:
            done.update(policy.step())
        policy.close()
        free = [(prompt, done[key].token_ids, done[key].logprobs) for key in ("greedy", "drawn")]
        found[version] = {"free": free, "chosen": done["chosen"].text}
    policies = {
        version: OfflinePolicy(chat, ends, service, version=version, context=256,
                               adapter=Path(adapters[version]) if version in adapters else None)
        for version in ("base", *adapters)
    }  # fmt: skip
    for policy in policies.values():  # side by side: each gets its own answer
        policy.submit("beside", Request(prompt_ids=prompt, max_new_tokens=12))
    while any(policy.busy for policy in policies.values()):
        for version, policy in policies.items():
            for _, answer in policy.step():
                found[version]["free"].append((prompt, answer.token_ids, answer.logprobs))
    service.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
