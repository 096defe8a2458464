"""What the unevolved agent owes to its prompt: the worked example and the given beginning.

The quickstart's prompt describes the tool, shows one worked example that belongs to no family,
and begins every turn with a code block. Each row leaves something out or takes another example;
train tasks, greedy, the base model.

    python benchmarks/prompt.py --json benchmarks/results/prompt.json
"""

from __future__ import annotations

from typing import Any

from _common import circumstances, parser, save
from rich.console import Console
from rich.table import Table

from agent.config import Config
from agent.evolution.scores import family_rates, score
from agent.loop import Assignment
from agent.policies.models import resolve_model
from agent.policies.transformers import TransformersPolicy
from agent.report import write_number
from agent.rollout import rollout
from environments.sandbox import make_sandbox
from environments.splits import first_of_each_family, split_tasks
from environments.suites import load_suite

CODE = "```python\n{}\n```"
EXAMPLES = {
    "maximum": (
        "What is the largest of these numbers: 4, 9, 2?",
        CODE.format("print(max(4, 9, 2))"),
    ),
    "longest word": (
        "How many characters does the longest of these words have: pear, fig, apple?",
        CODE.format('words = ["pear", "fig", "apple"]\nprint(max(len(word) for word in words))'),
    ),
    "median": (
        "What is the median of these numbers: 7, 1, 5?",
        CODE.format("import statistics\nprint(statistics.median([7, 1, 5]))"),
    ),
}


def prompts() -> dict[str, dict[str, Any]]:
    """Name → what differs from the quickstart's prompt."""
    bare = {"example": "none", "begin": ""}
    return {
        "quickstart": {},
        "no beginning": {"begin": ""},
        "no example": {"example": "none"},
        "neither": bare,
        **{f"example: {name}": {"example": example} for name, example in EXAMPLES.items()},
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tasks", type=int, help="per family (16; 2 with --quick)")
    arguments = options.parse_args()
    count = arguments.tasks or (2 if arguments.quick else 16)
    config = Config()
    suite = load_suite(config.suite.name, sandbox=make_sandbox)
    tasks = first_of_each_family(split_tasks(suite.tasks())["train"], count)
    policy = TransformersPolicy(resolve_model(config.policy.model), slots=config.policy.slots)
    rows: dict[str, Any] = {}
    for name, changes in prompts().items():
        settings = config.agent.model_copy(update=changes)
        episodes = [Assignment(f"prompt/{t.id}", t, "train", "act") for t in tasks]
        won = {
            t.task: float(t.success)
            for done in rollout(episodes, policy, suite, settings, seed=config.seed)
            for t in done
        }
        successes = [won[task.id] for task in tasks]
        rows[name] = {
            **score(tasks, successes).model_dump(mode="json"),
            "families": family_rates(tasks, successes),
        }
    figures = {**circumstances("prompt"), "quick": arguments.quick, "prompts": rows}
    table = Table(box=None, header_style="bold", pad_edge=False)
    families = sorted({task.family for task in tasks})
    for column in ("prompt", "success", *families):
        table.add_column(column, overflow="fold")
    for name, own in rows.items():
        shown = f"{write_number(own['mean'])} [{own['low']:.2f}, {own['high']:.2f}]"
        table.add_row(name, shown, *(write_number(own["families"][f]) for f in families))
    Console().print(table)
    save(arguments.json, figures)


if __name__ == "__main__":
    main()
