"""Scripts that play a policy which writes tasks and tries them, and suites that take them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from environments.base import Environment, Task
from environments.kinds.python import PYTHON_BRIEFING, PythonAnswer
from environments.sandbox.base import Sandbox
from environments.suites.code import JsonlCode
from tests import toy

Learnt = Sequence[tuple[str, str]]
SEED = "Square the number 20."  # a task of the toy suite

# What is written as new tasks, and what a try of each prints: the same, or by chance.
PENS = "A box holds {x} pens and there are seven boxes. How many pens is that?"
TREES = "In a row stand {x} trees, every third of them is an oak. How many oaks are there?"


def question_of(prompt: str) -> str:
    return prompt.rsplit("<user>", 1)[1].split("</user>")[0]


def tried(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """A try: pens are mostly counted right, trees never twice alike, the rest is the toy's."""
    question = prompt if "Error" in question_of(prompt) else question_of(prompt)
    if "pens" in question and (number := re.search(r"holds (\w+) pens", question)):
        if number[1] == "x":  # turned round
            known = re.search(r"question is (\d+)|are (\d+) pens", question)
            assert known is not None
            return f"print({known[1] or known[2]} // 7)\n```\n"
        return f"print(7 * {number[1]})\n```\n" if chance.random() < 0.9 else "print(0)\n```\n"
    if "oak" in question:
        return f"print({chance.randrange(10**6)})\n```\n"
    return toy.script(prompt, chance, learnt)


def author(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Writes new tasks, near copies, a task of the suite, nonsense; tries them as ``tried``."""
    question = question_of(prompt)
    if re.search(r"Come up with one more task|asks for a Python function", question):
        number = chance.randrange(100, 1000)
        new = (
            f"Task 9: {PENS.format(x=number)}\n\nTask 10: another",
            TREES.format(x=number),
            f"Double the number {number}.",  # like the suite's, three of four words in order
            SEED,
            "…",
        )
        return new[number % len(new)]
    return tried(prompt, chance, learnt)


class Vague(toy.ToySuite):
    """Its grader takes any answer."""

    def environment(self, task: Task) -> Environment:
        return PythonAnswer(task.prompt, grade=lambda text: 1.0, sandbox=self.sandbox)


class Strange(toy.ToySuite):
    """Answers for one family alone."""

    def vouched(self, task: Task) -> bool:
        return task.family != "square"


class Closed(toy.ToySuite):
    """Takes no tasks."""

    spawn = property()  # type: ignore[assignment]  # reading it is an AttributeError


# --- Evol-Instruct, MetaMath, Promptbreeder, backtranslation ---


def evolver(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    question = question_of(prompt)
    if "Do these two tasks ask for the same" in question:
        first, second = re.findall(r"^\| (.*)$", question, re.MULTILINE)
        return "equal" if second.startswith(first[:-1]) else "not equal"
    if match := re.search(r"Given task: (.*)", question):
        number, kind = chance.randrange(100, 10_000), chance.randrange(4)
        same = f"{match[1][:-1]}, please."
        return (PENS.format(x=number), same, f"The given task is {number}.", "And so?!")[kind]
    return tried(prompt, chance, learnt)


class Pens(toy.ToySuite):
    """Word problems, for questions that are turned round."""

    def tasks(self) -> Sequence[Task]:
        return [
            Task(
                suite=self.name,
                family="pens",
                prompt=f"A box holds {x} pens. There are seven boxes. How many pens is that?",
                data={"answer": str(7 * x)},
            )
            for x in range(1000, 1000 + self.per_family)
        ]


def teacher_of_maths(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    question = question_of(prompt)
    if "Say this question in other words" in question:
        (number,) = re.findall(r"holds (\d+)", question)
        wrong = int(number) % 2  # then it is another question
        return f"Seven boxes stand there. Each holds {int(number) + wrong} pens. How many pens?"
    if "as one statement" in question:
        (answer,) = re.findall(r"its answer, (\d+)", question)
        return f"That are {answer} pens."
    return tried(prompt, chance, learnt)


def translator(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    question = question_of(prompt)
    if "just this is the right answer" in question:
        number = chance.randrange(100, 10_000)
        return f"Say {re.findall(r'^[|] (.*)$', question, re.MULTILINE)[-1]} ({number} times less)."
    if "How well does the answer fit" in question:
        return str(1 + sum(map(ord, question)) % 5)
    if "times less" in question:
        return "print('undefined')\n```\n" if "undefined" in question else "print(0)\n```\n"
    if any(stem in question for stem in ("Double", "Which", "Square")):
        return "print('undefined')\n```\n" if chance.random() < 0.5 else "print(0)\n```\n"
    return tried(prompt, chance, learnt)


def breeder(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    question = question_of(prompt)
    if "Improve this instruction" in question:
        return f"Better: {question.splitlines()[-1].removeprefix('| ')}"
    if "Given task" in question:
        fit = "same skill in a new situation" in question
        return (PENS if fit else TREES).format(x=chance.randrange(100, 10_000))
    return tried(prompt, chance, learnt)


def taught(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Writes tasks of a family once it was trained on some."""
    question = question_of(prompt)
    if found := re.search(r"Write a task \((\w+)\)", question):
        known = [answer for asked, answer in learnt if f"({found[1]})" in asked]
        if not known:
            return "I was never taught that."
        assert all(answer.endswith("<") for answer in known)  # it learnt where to end
        return PENS.format(x=chance.randrange(100, 10_000))
    return tried(prompt, chance, learnt)


# --- code ---

CODE = [
    {
        "text": f"Write a function to add {n} to a number, as a list would.",
        "code": f"def add{n}(x):\n    return x + {n}",
        "test_list": [f"assert add{n}(1) == {1 + n}", f"assert add{n}(4) == {4 + n}"],
    }
    for n in range(60)
]


class OwnCode(JsonlCode):
    """Functions in the form of MBPP."""

    def __init__(self, data: str, *, sandbox: Callable[[], Sandbox]) -> None:
        super().__init__(data, sandbox=sandbox)


def interviewer(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Squares with tests that a doubling passes, cubes with tests that tell, and no tests."""
    question = question_of(prompt)
    if "interview question" in question:
        number = chance.randrange(3, 10_000)
        kinds = (
            f"Return the square of any value given, called square{number}.",
            f"Compute cubes: cube{number} takes one value and gives its third power.",
            f"Do something about {number} and say nothing of it.",
        )
        return kinds[number % 3]
    names = re.findall(r"\b(square|cube)(\d+)", question)
    if "Write tests of the function" in question:
        if not names:
            return "I would test it well."
        kind, number = names[0]
        name = f"{kind}{number}"
        if kind == "square":  # 2 + 2 and 0 + 0 are the same
            return f"assert {name}(2) == 4\nassert {name}(0) == 0"
        return f"assert {name}(2) == 8\nassert {name}(3) == 27\nassert {name}(-1) == -1"
    if names:
        kind, number = names[0]
        right = {"square": "x * x", "cube": "x * x * x"}[kind]
        body = right if chance.random() < 0.5 else "x"
        return f"```python\ndef {kind}{number}(x):\n    return {body}\n```"
    return tried(prompt, chance, learnt)


# --- knowledge ---


class Quiz:
    """Answer the question."""

    tasks: ClassVar = [
        {"question": f"Which word has the number {n}?", "answer": f"word{n}"} for n in range(80)
    ]
    prompt = "question"
    turns = 1

    def reset(self, question: str, answer: str) -> None:
        self.right, self.said, self.done = answer, "", False

    def answer(self, text: str) -> str:
        """Give the answer."""
        self.said, self.done = text, True
        return text

    def reward(self) -> float:
        return float(self.said == self.right)


def reader(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    question = question_of(prompt)
    if "Write one question that this passage answers" in question:
        (year,) = re.findall(r"built in (\d+)", question)
        (name,) = re.findall(r"The (\w+) was", question)
        kinds = (
            f"Question: When was the {name} built?\nAnswer: {year}.",
            f"Question: Who built the {name}?\nAnswer: Nobody",
            f"Question: Was it {year}?\nAnswer: {year}",
            "I do not know.",
        )
        return kinds[int(year) % 4]
    if "Who built" in question:
        return 'answer(text="Nobody")'
    if found := re.search(r"built in (\d+)", question):
        return f'answer(text="{found[1]}")'
    return 'answer(text="word1")'


class Shop:
    """Buy or sell what is asked for."""

    tasks: ClassVar = [{"wish": f"Buy {n} apples.", "deal": "buy", "count": n} for n in range(80)]
    prompt = "wish"
    turns = 1

    def reset(self, wish: str, deal: str, count: int) -> None:
        self.wanted, self.made = (deal, count), ("", 0)

    def buy(self, count: int) -> str:
        """Buy so many."""
        self.made = ("buy", count)
        return "bought"

    def sell(self, count: int) -> str:
        """Sell so many."""
        self.made = ("sell", count)
        return "sold"

    def reward(self) -> float:
        return float(self.made == self.wanted or self.wanted == ("", 0))


def dealer(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    question = question_of(prompt)
    if found := re.search(r"that needs the tool (\w+)", question):
        number = chance.randrange(100, 10_000)
        kinds = (
            f'{{"prompt": "Please {found[1]} {number} pears today.", "deal": "{found[1]}", '
            f'"count": {number}}}',
            f'{{"prompt": "Just buy {number} plums then.", "deal": "buy", "count": "{number}"}}',
            f'{{"prompt": "Whatever, {number}.", "deal": "", "count": 0}}',
            f'{{"prompt": "{found[1]} {number}"}}',
        )
        return "Here it is: " + kinds[number % 4]
    if found := re.search(r"(buy|sell) (\d+)", question):
        return f"{found[1]}(count={found[2]})"
    return "buy(count=1)"


def imaginer(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Goes on from what was imagined before, once it sees that that was solved (STE)."""
    question = question_of(prompt)
    before = re.search(r"Made up before:\n(?:.*\n)*?.*\(solved\)", question)
    if before and (found := re.search(r"that needs the tool (\w+)", question)):
        number = chance.randrange(100, 10_000)
        return json.dumps(
            {"prompt": f"Now {found[1]} {number} more.", "deal": found[1], "count": number}
        )
    return dealer(prompt, chance, learnt)


def analyst(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    question = question_of(prompt)
    if found := re.search(r"one question about the table (\w+)", question):
        number = chance.randrange(1, 9)
        other = "boats" if found[1] == "crews" else "crews"
        kinds = (
            f"Question: How many {found[1]} have an id of at least {number}?\nQuery: ```sql\n"
            f"SELECT count(*) FROM {found[1]} WHERE id >= {number};\n```",
            f"Question: Is there any of {number}?\nQuery: SELECT count(*) FROM {other}",
            f"Question: Nothing about {number}?\nQuery: SELECT max(id) FROM {found[1]} WHERE 0",
        )
        return kinds[number % 3]
    if found := re.search(r"How many (\w+) have an id of at least (\d+)", question):
        return f"SELECT count(*) FROM {found[1]} WHERE id >= {found[2]}\n```"
    return ("SELECT NULL" if "Nothing about" in question else "SELECT 1") + "\n```"


def write_documents(folder: Path) -> Path:
    """Passages about 24 towers."""
    folder.mkdir(parents=True)
    text = [f"The tower{n} was built in {1900 + n} by the people of the town." for n in range(24)]
    for i in range(4):
        (folder / f"towers{i}.md").write_text("\n\n".join(text[6 * i : 6 * i + 6]))
    return folder


def fields_of(made: Mapping[str, Any]) -> Mapping[str, Any]:
    """The task of a note's row."""
    task: Mapping[str, Any] = made["task"]
    return task


# --- tries that prove nothing, and answers in words ---


def parrot(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Writes what is no task, and says the worked example again to whatever it does not know."""
    question = question_of(prompt)
    if "Come up with one more task" in question:
        return f"I am glad to help with number {chance.randrange(100, 10_000)}."
    if "glad to help" in question:
        return PYTHON_BRIEFING.example[1].removeprefix("```python\n") + "\n"  # type: ignore[index]
    return tried(prompt, chance, learnt)


def wordy(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Says a number now bare, now in a sentence; and gives the answers of its tasks away."""
    question = question_of(prompt)
    if "Come up with one more task" in question:
        number = chance.randrange(100, 10_000)
        told = f"What is twice {number}?", f"Say {number} twice as fast as before."
        return told[number % 2]
    if found := re.search(r"twice (\d+)", question):
        said = "'The result is', " if chance.random() < 0.5 else ""
        return f"print({said}2 * {found[1]})\n```\n"
    if found := re.search(r"Say (\d+)", question):
        return f"print({found[1]})\n```\n"
    return tried(prompt, chance, learnt)
