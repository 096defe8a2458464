"""mem0 for benchmarks/memory.py: it runs in another Python and is given our vectors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

# Runs in the Python named by --mem0.
MEM0 = """
import json, os, resource, sys, time
os.environ["MEM0_TELEMETRY"] = "False"
folder, adds, k = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.environ["MEM0_DIR"] = folder
import numpy as np
from mem0 import Memory
texts = json.load(open(folder + "/texts.json"))
queries = json.load(open(folder + "/queries.json"))
vectors = np.load(folder + "/vectors.npy", mmap_mode="r")
asked = np.load(folder + "/asked.npy")
known = {text: asked[i] for i, text in enumerate(queries)}
class Given:
    def embed(self, text, memory_action=None):
        return known[text].tolist()
config = {
    "vector_store": {"provider": "chroma",
                     "config": {"collection_name": "bench", "path": folder + "/store"}},
    "embedder": {"provider": "openai", "config": {"api_key": "unused"}},
    "llm": {"provider": "openai", "config": {"api_key": "unused"}},
    "history_db_path": folder + "/history.db",
}
memory = Memory.from_config(config)
memory.embedding_model = Given()
known.update((text, vectors[i]) for i, text in enumerate(texts[:adds]))
began = time.perf_counter()
for text in texts[:adds]:
    memory.add(text, user_id="u", infer=False)
seconds = time.perf_counter() - began
for i in range(adds, len(texts), 5000):
    part = range(i, min(i + 5000, len(texts)))
    memory.vector_store.insert(
        vectors=[row.tolist() for row in vectors[part.start:part.stop]],
        ids=[f"bulk{j}" for j in part],
        payloads=[{"data": texts[j], "user_id": "u"} for j in part],
    )
times = []
for text in queries:
    began = time.perf_counter()
    found = memory.search(text, filters={"user_id": "u"}, top_k=k)
    times.append(time.perf_counter() - began)
    assert found["results"], found
from importlib.metadata import version
print("figures " + json.dumps({
    "version": version("mem0ai"), "add_per_second": len(texts[:adds]) / seconds, "times": times,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def mem0(python: str, folder: Path, adds: int, k: int) -> dict[str, Any] | str:
    """mem0's figures, or why there are none."""
    place = folder / "mem0"
    place.mkdir()
    for name in ("texts.json", "queries.json", "vectors.npy", "asked.npy"):
        (place / name).symlink_to(folder / name)
    done = subprocess.run(
        [str(Path(python).expanduser()), "-c", MEM0, str(place), str(adds), str(k)],
        capture_output=True,
        text=True,
    )
    for line in done.stdout.splitlines():
        if line.startswith("figures "):
            return dict(json.loads(line.removeprefix("figures ")))
    lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
    return lines[-1][:200]
