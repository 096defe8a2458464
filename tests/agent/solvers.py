"""Scripts that play a policy whose tries go by what stands before them, for tests of solutions."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

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
