"""Tasks made up from tasks, without other knowledge than the policy's own.

Each function is one method: it writes drafts; what they are graded by and whether they are sound
is found out in ``proof``. Tasks that were made up in earlier generations are written from again,
so that they evolve with the agent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import punctuation

from agent.evolution.acquire.drafts import Author, Draft, ask, first_task, listed
from agent.evolution.feedback.base import quoted
from agent.evolution.update.writers.base import transcript
from agent.evolution.votes import answer_of
from environments.base import Task
from memory.records import Note

FROM_MODEL = 2  # of the demonstrations, at most so many are made-up tasks (there 2 of 8)
NUMBER = re.compile(r"(?<![\w.,-])\d+(?:\.\d+)?(?![\w%]|[.,]\d)")
UNKNOWN = "What is the value of unknown variable x?"
SAME, OTHER = "equal", "not equal"
NEW = "New task:"

EVOLVE = {
    "constraints": "Add one more constraint or requirement.",
    "deepen": "Ask about it in more depth and breadth.",
    "concretise": "Put more specific concepts in place of general ones.",
    "reasoning": "Have it ask for more steps of reasoning explicitly.",
    "complicate": "Give it more input (a table, a list, a program, a formula) to work on.",
}
BREADTH = "breadth"


def self_instruct(author: Author) -> list[Draft]:
    """More tasks like a few.

    Self-Instruct, arXiv 2212.10560, §2.2: eight tasks are shown, six of the seeds and two that
    were made up before; what is as near as ROUGE-L 0.7 to any other is dropped (``novel``).
    """
    shown = _shown(author, author.settings.demonstrations)
    questions = {
        key: f"Come up with one more task of this kind.\n\n{listed(own, author)}"
        for key, own in shown.items()
    }
    said = ask(author, "self-instruct", questions, begin=_next(shown))
    return _drafts("self-instruct", shown, said)


def evol_instruct(author: Author) -> list[Draft]:
    """A task made harder in one of five ways, or another one of its kind; failed ones fall out.

    Evol-Instruct, arXiv 2304.12244, §3: in-depth and in-breadth evolving, drawn alike, of seeds and
    of what was evolved before; elimination of what says nothing new (the policy compares), holds
    no words, or copies words of the instruction. What it has no answer to falls out in ``proof``.
    """
    shown, how = _shown(author, 1, made=1), dict[str, str]()
    for key in shown:
        how[key] = author.chance("operator", key).choice([*EVOLVE, BREADTH])
    questions = {
        key: f"{_evolving(how[key])}\n\nGiven task: {author.fields(own[0])['prompt']}"
        for key, own in shown.items()
    }
    said = ask(author, "evol-instruct", questions, begin=NEW)
    drafts = _drafts("evol-instruct", shown, said, how)
    parents = {d.key: author.fields(shown[d.key.split("/")[1]][0])["prompt"] for d in drafts}
    compared = ask(
        author,
        "equality",
        {
            d.key: f"Do these two tasks ask for the same, with the same constraints?\n"
            f"First:\n{quoted(parents[d.key])}\nSecond:\n{quoted(d.prompt)}"
            for d in drafts
            if d.prompt
        },
        choices=(SAME, OTHER),
        temperature=0.0,
    )
    return [
        d._replace(lost=d.lost or eliminated(d.prompt, compared.get(d.key) == SAME)) for d in drafts
    ]


def eliminated(evolved: str, same: bool) -> str:
    """Why an evolution failed (§3, elimination evolving), or ""."""
    told = evolved.lower()
    if same:
        return "says nothing new"
    if not re.sub(rf"[\s{re.escape(punctuation)}]|\b(?:{'|'.join(_STOP)})\b", "", told):
        return "holds no words of its own"
    if any(words in told for words in ("given task", "new task", "rewritten task")):
        return "copies words of the instruction"
    return ""


_STOP = ("a", "an", "and", "are", "as", "at", "be", "for", "in", "is", "it", "of", "on", "or",
         "so", "that", "the", "this", "to", "was", "what", "with")  # fmt: skip


def metamath(author: Author) -> list[Draft]:
    """A question rephrased, or turned round: its answer is given, one of its numbers asked for.

    MetaMath, arXiv 2309.12284, §3: rephrasing, self-verification and FOBAR, in turn. The answers
    are known beforehand; a question whose answer no try reaches is dropped.
    """
    shown = _shown(author, 1)
    ways = ("rephrase", "self-verification", "fobar")
    how = {key: ways[i % 3] for i, key in enumerate(shown)}
    known = {key: author.fields(own[0]) for key, own in shown.items()}
    questions = {}
    for key, fields in known.items():
        task = quoted(fields["prompt"])
        if how[key] == "rephrase":
            questions[key] = f"Say this question in other words. Keep its numbers.\n{task}"
        elif how[key] == "self-verification":
            questions[key] = (
                f"Write the last sentence of this question and its answer, "
                f"{fields['answer']}, as one statement.\n{task}"
            )
    said = ask(author, "metamath", questions)
    drafts = []
    for key, own in shown.items():
        fields, chance = known[key], author.chance("mask", key)
        answer = fields["answer"]
        if how[key] == "rephrase":
            prompt = first_task(said[key])
        elif how[key] == "fobar":
            prompt, answer = fobar(fields["prompt"], answer, chance.random())
        else:
            statement = " ".join(said[key].split())
            prompt, answer = self_verification(fields["prompt"], statement, chance.random())
        drafts.append(
            Draft(
                key=f"metamath/{key}",
                prompt=prompt,
                family=own[0].family,
                how=f"metamath/{how[key]}",
                parents=(own[0].id,),
                fields={"answer": answer},
                lost="" if prompt else "holds no number to ask for",
            )
        )
    return drafts


def fobar(question: str, answer: str, where: float) -> tuple[str, str]:
    """A question turned round and the number that it asks for; "" where it has no number.

    Args:
        question, answer: what is turned round.
        where: 0 to 1, which of its numbers is masked.
    """
    masked, number = _masked(question, where)
    if not masked:
        return "", ""
    known = f"If we know the answer to the above question is {answer},"
    return f"{masked} {known} what is the value of unknown variable x?", number


def self_verification(question: str, statement: str, where: float) -> tuple[str, str]:
    """A question whose last sentence is a statement of its answer; arguments as of ``fobar``."""
    *context, _ = re.split(r"(?<=[.!?])\s+", question.strip())
    masked, number = _masked(" ".join(context), where)
    return (f"{masked} {statement} {UNKNOWN}", number) if masked and statement else ("", "")


def _masked(text: str, where: float) -> tuple[str, str]:
    """A text with one of its numbers replaced by x, and the number."""
    found = list(NUMBER.finditer(text))
    if not found:
        return "", ""
    number = found[min(int(where * len(found)), len(found) - 1)]
    return f"{text[: number.start()]}x{text[number.end() :]}", number.group()


def code_llama(author: Author) -> list[Draft]:
    """Interview questions; tests and solutions are written for each, and mutants must fail.

    Code Llama, arXiv 2308.12950, §2.5 (self-instruct): questions, exact duplicates dropped, tests
    for each, ten solutions, the first that passes is taken. Mutants of it are added here: tests
    that let them pass prove nothing.
    """
    shown = _shown(author, author.settings.demonstrations)
    questions = {
        key: "Write one more interview question that asks for a Python function.\n\n"
        f"{listed(own, author)}"
        for key, own in shown.items()
    }
    said = ask(author, "code-llama", questions, begin=_next(shown))
    return _drafts("code-llama", shown, said)


def backtranslation(author: Author) -> list[Draft]:
    """From what was written without solving its task, back to a task that it does solve.

    Instruction backtranslation, arXiv 2308.06259, §2: the text is an answer, its instruction is
    predicted, and the policy grades the pairs of 1 to 5 (self-curation). There the texts are web
    pages, here the agent's own failed tries, which ran and gave an answer.
    """
    tasks = {task.id: task for task in author.seeds}
    seen, corpus = set[str](), []
    for t in author.experience:
        if t.success or t.failure or not t.steps or t.task not in tasks:
            continue
        answer, text = answer_of(t), transcript(t.turns)
        if answer and text not in seen:
            seen.add(text)
            corpus.append((t, answer, text))
    author.chance("corpus").shuffle(corpus)
    corpus = corpus[: author.settings.drafts]
    questions = {
        str(i): f"This was written:\n{quoted(text)}\nIt gave:\n{quoted(answer)}\n\n"
        "Write the task to which just this is the right answer, with all that it needs."
        for i, (_, answer, text) in enumerate(corpus)
    }
    said = ask(author, "backtranslation", questions, begin="Task:")
    tests = "tests" in author.form
    drafts = []
    for (key, text), (t, answer, _) in zip(said.items(), corpus, strict=True):
        code = t.turns[-1].action.get("arguments")
        solution = str(code.get("code", "")) if isinstance(code, dict) else ""
        fields = {"solution": solution} if tests else {"answer": answer}
        prompt = first_task(text)
        how, family = "backtranslation", t.family
        drafts.append(Draft(f"{how}/{key}", prompt, family, how, (t.task,), fields=fields))
    grades = ask(
        author,
        "curation",
        {
            d.key: f"Task:\n{quoted(d.prompt)}\nAnswer:\n{quoted(corpus[i][2])}\n\n"
            "How well does the answer fit the task, from 1 (not at all) to 5 (just that)?"
            for i, d in enumerate(drafts)
            if d.prompt
        },
        choices=tuple("12345"),
        temperature=0.0,
    )
    least = author.settings.grade
    return [
        d._replace(lost=f"graded below {least}" if int(grades.get(d.key, "0")) < least else "")
        if d.prompt
        else d
        for d in drafts
    ]


MUTATIONS = (
    "Change the task so that somebody who solved it has to think again.",
    "Write another task that needs the same skill in a new situation.",
    "Put two tasks of this kind together into one.",
    "Make the numbers and the words of the task unusual.",
)
HYPER = "Improve this instruction for changing tasks. Say it in one sentence."


def promptbreeder(author: Author) -> list[Draft]:
    """A task changed by an instruction that evolves as well.

    Promptbreeder, arXiv 2309.16797, §3: mutation-prompts change task-prompts, and are changed
    themselves by a hyper-mutation (§3.2.3); binary tournaments replace the loser by a mutation of
    the winner (§3.1). A mutation-prompt is as fit as the number of its tasks that were sound.
    There task-prompts are what is asked of a model for a whole benchmark, here they are the tasks.
    """
    mutations = _population(author)
    shown = _shown(author, 1, made=1)
    how = {key: str(i % len(mutations)) for i, key in enumerate(shown)}
    questions = {
        key: f"{mutations[int(how[key])]}\n\nGiven task: {author.fields(own[0])['prompt']}"
        for key, own in shown.items()
    }
    said = ask(author, "promptbreeder", questions, begin=NEW)
    return _drafts("promptbreeder", shown, said, how)


def _population(author: Author) -> list[str]:
    """The generation's mutation-prompts; noted once."""
    name = f"mutations/{author.n}"
    if (note := author.run.ledger.get(Note, name)) is not None:
        return str(note.data["text"]).splitlines() or list(MUTATIONS)
    notes = ((m, author.run.ledger.get(Note, f"mutations/{m}")) for m in range(author.n - 1, 0, -1))
    # A generation that was rolled back to has none.
    last, before = next(((m, note) for m, note in notes if note is not None), (0, None))
    texts = (str(before.data["text"]).splitlines() if before else []) or list(MUTATIONS)
    if before is not None:
        fit = [
            sum(m.how == f"promptbreeder/{i}" for m in author.made if m.generation == last)
            for i in range(len(texts))
        ]
        order = list(range(len(texts)))
        author.chance("tournament").shuffle(order)
        pairs = zip(order[::2], order[1::2], strict=False)
        beaten = {max(pair, key=fit.__getitem__): min(pair, key=fit.__getitem__) for pair in pairs}
        asked = {str(i): f"{HYPER}\n{quoted(texts[i])}" for i in beaten}
        for i, said in ask(author, "hyper-mutation", asked).items():
            texts[beaten[int(i)]] = " ".join(said.split()) or texts[beaten[int(i)]]
    author.run.ledger.append(name, Note(data={"text": "\n".join(texts)}))
    return texts


def _shown(author: Author, count: int, made: int = FROM_MODEL) -> dict[str, list[Task]]:
    """The tasks that each draft is written from, by the draft's key."""
    return {str(i): author.some(i, count, made) for i in range(author.settings.drafts)}


def _next(shown: Mapping[str, Sequence[Task]]) -> dict[str, str]:
    """How the list of tasks that is shown goes on."""
    return {key: f"Task {len(own) + 1}:" for key, own in shown.items()}


def _drafts(
    what: str,
    shown: Mapping[str, Sequence[Task]],
    said: Mapping[str, str],
    how: Mapping[str, str] | None = None,
) -> list[Draft]:
    """What was written, with the tasks that it was written from."""
    return [
        Draft(
            key=f"{what}/{key}",
            prompt=first_task(text),
            family=shown[key][0].family,
            how=f"{what}/{how[key]}" if how else what,
            parents=tuple(task.id for task in shown[key]),
        )
        for key, text in said.items()
    ]


def _evolving(operator: str) -> str:
    if operator == BREADTH:
        return (
            "Write a new task of the same kind as the given one, but rarer. It should be as long "
            "and as hard, and have one short answer."
        )
    return (
        f"Rewrite the given task so that it is a little harder. {EVOLVE[operator]} "
        "Add 10 to 20 words at most. It should still have one short answer."
    )
