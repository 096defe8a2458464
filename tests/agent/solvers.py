"""Scripts that play a policy whose tries go by what stands before them, for tests of solutions."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from environments.base import Environment, Task
from tests.agent import doors, pupils
from tests.agent.pupils import code_for

Learnt = Sequence[tuple[str, str]]
END = "\n```\n"


def system_of(prompt: str) -> str:
    return prompt.split("<system>", 1)[1].split("</system>")[0]


def explorer(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Right half of the time; says why afterwards, plans before (A³T, AutoAct, ETO, SPIN)."""
    asked = doors.question(prompt)
    if "You solve tasks with others" in prompt:
        return "Because it takes\nsums." if "Action:" in asked else "Plan it well."
    return pupils.half(prompt, chance, learnt)


def by_prompt(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Wrong by the good prompt and right by the bad one: nobody is to look (RLCD, DLMA, GRATH)."""
    told, asked = system_of(prompt), doors.question(prompt)
    if "expert" in told or "truthfully" in told:
        return f"print('good {doors.number(asked)}')" + END
    return (code_for(asked) if "careless" in told or "false" in told else "print(0)") + END


def actor(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Says what its profile says (Ditto)."""
    told = re.search(r"profile: (\w+ \w+)", system_of(prompt))
    return f"print('{told[1] if told else 'nobody'}')" + END


def debater(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Says what most of those say that it sees, and at first anything."""
    asked = prompt.rsplit("<user>", 1)[1]
    seen = Counter(re.findall(r"print\((\d+)\)", asked))
    if seen:
        return f"print({max(seen, key=lambda n: (seen[n], n))})" + END
    return f"print({chance.randrange(10**6)})" + END


def dissenter(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Two thirds are of one mind; the rest says something else each time, whatever it sees."""
    own = prompt.rsplit("Your own last answer:", 1)
    odd = "print(0." in own[1] if len(own) > 1 else chance.random() < 0.3
    return (f"print({chance.random()})" if odd else "print('agreed')") + END


def student(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Needs knowledge for one family, the interpreter's word for another (SelfEvolve)."""
    asked = prompt.rsplit("<user>", 1)[1]
    if "You solve tasks with others" in prompt:
        return "Twice is a sum.\nA sum is printed."
    own = doors.family(asked)
    known = "What is known" in asked and "Twice is a sum." in asked
    mended = "interpreter says: NameError" in asked
    able = (own == "double" and known) or (own == "next" and mended)
    return (code_for(asked) if able else "print(undefined)") + END


WRONG = "x = {x}\nif x > 3:\n    y = x\nelse:\n    y = 0\nprint(y)"


def debugger(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Finds the wrong block where it sees a value, and mends what is called wrong (LDB)."""
    asked = prompt.rsplit("<user>", 1)[1]
    if "You review attempts" in prompt:
        x = re.findall(r"x = (\d+)", asked)[0]
        found = re.search(rf"BLOCK (\d+):\n\|\s+y = x\n\| values after it: y = {x}\n", asked)
        return f"BLOCK 1: True.\nBLOCK {found[1]}: False, y is x." if found else "All True."
    if "This block is wrong: y = x" in asked:
        return code_for(asked) + END
    return WRONG.format(x=re.findall(r"\d+", doors.question(prompt))[-1]) + END


def aligned(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Does well with its principles and its thoughts in view (Self-Align)."""
    asked = prompt.rsplit("<user>", 1)[1]
    ruled = "(operational)" in system_of(prompt)
    if "You solve tasks with others" in prompt:
        return "MIND rule 16." if ruled else "Nothing."
    if "You judge attempts" in prompt:
        return pupils.judge(doors.question(prompt))
    able = ruled and "Internal thoughts: MIND" in asked
    return (code_for(asked) if able else "print(undefined)") + END


def viewer(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Answers by its perspective; a checklist settles what it then says (Self-Contrast)."""
    asked = prompt.rsplit("<user>", 1)[1]
    if "different ways to look" in asked:
        return "1. By sums.\n2. By halves.\n3. By guessing."
    if "These attempts differ" in asked:
        return "1. MEND what is no sum.\n2. Look at the sign."
    if "Check: MEND" in asked:
        return code_for(asked) + END
    side = re.search(r"Look at it so: By (\w+)", asked)
    return f"print('{side[1] if side else 'nothing'}')" + END


def mender(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Wrong until its mistake is explained (LEMA)."""
    asked = prompt.rsplit("<user>", 1)[1]
    if "You solve tasks with others" in prompt:
        return "MEND the name."
    return (code_for(asked) if "wrong with it: MEND" in asked else "print(undefined)") + END


def trier(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Needs to see its last try and what it returned, or how another task was solved (STE)."""
    asked = prompt.rsplit("<user>", 1)[1]
    own = doors.family(doors.question(prompt))
    if own == "double":
        able = "it returned: 0" in asked and "print(0)" in asked
    else:
        able = own == "next" and bool(re.search(r"Asked before: Which number", asked))
    return (code_for(asked) if able else "print(0)") + END


def walker(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Any valid action: which of them are offered decides (KnowAgent)."""
    return "whatever comes"


def talker(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """A client who tells its number when asked, and an agent who asks (Self-Talk, SOTOPIA-π)."""
    system, asked = system_of(prompt), prompt.rsplit("<user>", 1)[1]
    wanted = re.search(r"\| (Double|Which number|Square).*?(\d+)", system)
    if "You are a client" in system:
        assert wanted is not None
        if "Say in one sentence" in asked:
            return f"I want help to {doors.family(wanted[0])} something."
        return f"It is {wanted[2]}."
    if "You talk with a client" in system:
        told = re.findall(r"It is (\d+)\.", prompt)
        if not told:
            return "Which number?"
        first = re.search(r"help to (\w+)", prompt)
        assert first is not None
        code = {"double": "{x} * 2", "next": "{x} + 1", "square": "'no'"}[first[1]]
        return f"ACT:\n```python\nprint({code.format(x=told[-1])})\n```"
    if "You judge attempts" in prompt:
        return "5" if "'no'" in asked else "1"
    return "print(0)" + END


def rated(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """As `talker`, but what is done is good or fair, and it knows which (SOTOPIA-π)."""
    if "You judge attempts" in prompt:
        return "5" if "# good" in prompt else "4"
    return talker(prompt, chance, learnt).replace(
        ")\n", f")  # {chance.choice(('fair', 'good'))}\n"
    )


def proposer(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Proposes sound and unsound programs, some too easy and some too hard, and tries them."""
    asked = prompt.rsplit("<user>", 1)[1].split("</user>")[0]
    if "You write small programs" in prompt:
        n = chance.randrange(1000)
        if "different inputs" in asked:
            return "\n".join(f"Input: {k}" for k in chance.sample(range(50), 6))
        bodies = (
            *[f"return x + {n}"] * 3,
            f"import random\n    return random.random() + {n}",
            f"return id(object()) % 10**9 + {n}",
            f"return lambda: {n}",
        )
        return f"```python\ndef f(x):\n    {bodies[n % 6]}\n```\nInput: {n}"
    call = re.search(r"return x \+ (\d+)\n\nWhat does f\((\d+)\)", asked)
    if call:
        return f"{int(call[1]) + int(call[2])}\n" if chance.random() < 0.5 else "0\n"
    back = re.search(r"return x \+ (\d+)\n\nWith which arguments does f return (\d+)", asked)
    if back:
        return f"{int(back[2]) - int(back[1])}\n"
    return "def f(x):\n    return 0" + END if "Write the function f" in asked else "0\n"


class _Path(doors.Opening):
    """A thing to open, which tells what could be done."""

    @property
    def valid_actions(self) -> list[str]:
        return [*self.way, "wait here", "sing loudly"]


class Paths(doors.Doors):
    """Things to open, by valid actions."""

    name = "doors"

    def environment(self, task: Task) -> Environment:
        return _Path(task)


def commander(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Opens things, and says why."""
    if "You solve tasks with others" in prompt:
        return "Because."
    done = re.search(r"Done (\d)\.", doors.question(prompt))
    return doors.steps(prompt)[int(done[1]) if done else 0] + "\n"


def coder(prompt: str, chance: random.Random, learnt: Learnt) -> str:
    """Writes a function that nobody asked for."""
    return f"def nothing():\n    return {chance.randrange(1000)}" + END
