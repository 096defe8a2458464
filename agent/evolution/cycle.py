"""The evolution cycle. Read ``evolve`` and ``one_generation`` first: they are all of it.

    objective ─► acquire ─► refine ─► update (memory', weights') ─► evaluate ─► next objective

Every phase looks in the ledger for what is already done, so running it again after a crash
continues it; nothing but ``evaluate`` changes which memory and weights are live.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from agent.evolution import canaries, temperatures
from agent.evolution.acquire import generate
from agent.evolution.acquire.absolute_zero import proposals
from agent.evolution.acquire.select import selector
from agent.evolution.correct import corrections
from agent.evolution.evaluate import gate
from agent.evolution.evaluate.account import account
from agent.evolution.evaluate.preference import preference
from agent.evolution.feedback import calibrate, verdicts
from agent.evolution.play import fair, measure, searchable
from agent.evolution.practice import practised
from agent.evolution.refine import Solution, refine, solves
from agent.evolution.scores import check_objectives, family_rates, propose_objective, score
from agent.evolution.solutions import solve
from agent.evolution.solutions.base import PLACE as SOLVE
from agent.evolution.update import groups, merge, writers
from agent.evolution.update import memory as update_memory
from agent.evolution.update import weights as update_weights
from agent.evolution.update.absorb import absorb
from agent.evolution.update.judge import new_verifier
from agent.evolution.update.rehearsal import rehearsed, synthesised
from agent.evolution.update.rewrites import relearn, rewritten
from agent.report.terminal import two_by_two
from agent.run import Run
from agent.run_folder import BASE
from environments.splits import SPLITS
from memory.records import CANARY, Generation, Note, Trajectory


class Candidate(NamedTuple):
    """What the update phase proposes; the incumbent's where it proposes nothing.

    Args:
        memory, weights: what the gate decides on.
        trial: the memory that goes live if it keeps the incumbent's (see `Proposal`).
        notes: for the reader of the decision.
    """

    memory: str
    trial: str
    weights: str
    notes: tuple[str, ...]


def evolve(run: Run) -> Generation:
    """Evolve up to the configured number of generations; continues where the run stands."""
    for split in SPLITS:
        run.tasks(split)  # none in one of them? say so now
    canaries.check(run)
    check_objectives(run)
    selector(run)
    generate.check(run)
    run.publish()
    run.memory.check()
    searchable(run)
    writers.check(run)
    update_weights.check(run)
    verdicts.check(run)
    corrections.check(run)
    solve.check(run)
    temperatures.check(run)
    incumbent = run.incumbent() or first_generation(run)
    while incumbent.n < run.config.generations and affordable(run):
        incumbent = one_generation(run, incumbent)
        run.print(two_by_two(incumbent))
    return incumbent


def affordable(run: Run) -> bool:
    """Whether the token budget has room for half of what the last generation took, or more.

    So what is spent lies within half a generation of the budget, above or below: methods whose
    generations differ in size take the same in the mean.
    """
    budget, (spent, last) = run.config.token_budget, learning_tokens(run)
    if budget is None or spent + last / 2 < budget:
        return True
    run.print(
        f"the token budget has no room for another generation ({spent:,} of {budget:,} spent)"
    )
    return False


def learning_tokens(run: Run) -> tuple[int, int]:
    """What practice, writing and training took: in all, and in the last generation.

    What the gate measures is not among it.
    """
    each = [
        sum(tokens for phase, tokens in g.tokens.items() if phase != "evaluate")
        for g in run.generations()
        if g.decision != "rollback"  # which took none
    ]
    return sum(each), each[-1] if each else 0


def one_generation(run: Run, incumbent: Generation) -> Generation:
    """One turn of the cycle; returns the new incumbent, which may be the old agent."""
    n = incumbent.n + 1
    with run.timed(f"{n}/acquire"):
        earlier = verdicts.seen(run, incumbent.weights, canaries.acquired(run, before=n))
        new = practised(run, n, incumbent, earlier)
        if void := canaries.judge(run, n):
            new = []
    with run.timed(f"{n}/refine"):
        experience = earlier + verdicts.seen(run, incumbent.weights, new)
        experience += corrections.corrected(run, n, incumbent, experience)
        vouched = [t for t in experience if run.vouched(t.task)]
        solutions = refine(vouched, run.config.refine, n)
    with run.timed(f"{n}/update"):
        candidate = update(run, n, incumbent, experience, solutions)
        if void:
            candidate = candidate._replace(notes=(void, *candidate.notes))
    with run.timed(f"{n}/evaluate"):
        verdict = evaluate(run, n, incumbent, candidate)
    phases = ("acquire", "refine", "update", "evaluate")
    return run.conclude(
        verdict.model_copy(
            update={
                "details": verdict.details
                | calibrate.calibration(run, n)
                | generate.account(run, n),
                "tokens": calibrate.apart(run, n, phase_tokens(run, n)),
                "seconds": {phase: run.seconds(f"{n}/{phase}") for phase in phases},
            }
        )
    )


def first_generation(run: Run) -> Generation:
    """Generation 0: the agent before any evolution, measured on the gate split."""
    with run.timed("0/evaluate"):
        played = measure(run, "generation 0 · gate", "gate", "", BASE)
        tasks = fair(run.tasks("gate"), [played])
        successes = [played[task.id] for task in tasks]
        proposal = propose_objective(run, 0, "", BASE)
    return run.conclude(
        Generation(
            n=0,
            parent=0,
            weights=BASE,
            memory="",
            decision="start",
            cell="incumbent",
            reason="the agent before any evolution",
            cells={"incumbent": score(tasks, successes)},
            families=family_rates(tasks, successes),
            objective=proposal.weights,
            tokens={"evaluate": run.tokens("gate/")},
            seconds={"evaluate": run.seconds("0/evaluate")},
            details={"objective": proposal.told},
        )
    )


# --- update ---


def update(
    run: Run,
    n: int,
    incumbent: Generation,
    experience: Sequence[Trajectory],
    solutions: Sequence[Solution],
) -> Candidate:
    """Candidate weights and candidate memory, from all experience and what is worth learning."""
    # The policy is asked before it is let go for training.
    full = [s for s in solutions if solves(s.trajectory, run.config.refine)]
    written = update_memory.written(run, n, incumbent, experience, full)
    vouched = [t for t in experience if run.vouched(t.task)]
    unjudged = new_verifier(run, n, incumbent.weights, solutions, vouched)
    learns = run.config.update_weights
    own, tried = rehearsed(learns, run.config.refine, n, run.config.seed, solutions, vouched)
    train = partial(new_weights, run, n, incumbent, solutions)
    weights, why = relearn(run, n, incumbent, own, tried, train)
    memory, trial = update_memory.proposed(run, n, incumbent, weights, written, experience)
    if weights != incumbent.weights and run.config.update_memory.enabled:
        known = absorb(run, n, weights, memory, {t.task for t in experience})
        memory = update_memory.remembered(run, n, memory, known)
    return Candidate(memory, trial, weights, tuple(filter(None, (why, unjudged))))


def new_weights(
    run: Run,
    n: int,
    incumbent: Generation,
    known: Sequence[Solution],
    solutions: Sequence[Solution],
    experience: Sequence[Trajectory],
    student: str = "",
) -> tuple[str, str]:
    """Version of an adapter trained on what was tried, or why there is none.

    Args:
        run, n, incumbent: the run, the generation and who acted in it.
        known: solutions of all generations, whether they are trained on or not.
        solutions: what is worth learning; none by strangers.
        experience: all trajectories that are learnt from, failures included; none by strangers.
        student: name of a training before the last one (see `relearn`).
    """
    settings = run.config.update_weights
    name = f"trained/{n}/{student}" if student else f"trained/{n}"
    if not settings.enabled:
        return incumbent.weights, ""
    note = run.ledger.get(Note, name)
    if note is not None:  # no version: it diverged, and would again
        return str(note.data["version"]) or incumbent.weights, str(note.data.get("why", ""))
    if settings.objective == "sft" and len(solutions) < settings.min_examples:
        return incumbent.weights, (
            f"no training: {len(solutions)} verified solutions, "
            f"update_weights.min_examples is {settings.min_examples}"
        )
    start = incumbent.weights if settings.begin == "incumbent" else BASE
    believed = not canaries.judge(run, n)  # else nothing that it makes is learnt from either
    made_up = []
    if believed:
        weights = incumbent.weights
        made_up = [*synthesised(run, n, weights, known), *proposals(run, n, weights)]
    if settings.replay.rewrite and believed:
        solutions, experience = rewritten(run, n, start, solutions, experience)
    policy = run.policy(incumbent.weights)
    lessons = update_weights.lessons(settings, run.config.refine, n, solutions, experience, policy)
    why = lessons.told()
    if lessons.total < settings.min_examples:
        kinds = "pairs" if settings.objective == "dpo" else "trajectories"
        few = (
            f"no training: {lessons.total} {kinds} for {settings.objective}, "
            f"update_weights.min_examples is {settings.min_examples}"
        )
        return incumbent.weights, "; ".join(filter(None, (few, why)))
    if why:
        run.print(f"generation {n}: {why}")
    described: dict[str, Any] = {
        "generation": n,
        "parent": start,
        "objective": settings.objective,
        "families": update_weights.composition(lessons.examples, experience),
    }
    if lessons.silent:
        described["silent"] = lessons.silent
    try:
        if settings.adapters == "per-group":
            version, told, tokens = groups.candidate(
                run, n, incumbent, lessons.examples, solutions, experience, described
            )
            member = version
        else:
            folder = f"{merge.ADAPTER}-{student}" if student else merge.ADAPTER
            fed = [*lessons.examples, *made_up]
            own, tokens = merge.members(run, n, fed, described, folder)
            version, told, member = own[0], "", own[0]
            if not student:
                version, told = merge.candidate(run, n, own, {t.task for t in experience})
    except FloatingPointError as error:
        run.ledger.append(name, Note(data={"version": "", "why": str(error)}))
        return incumbent.weights, str(error)
    why = "; ".join(filter(None, (why, told)))
    if not version:
        return incumbent.weights, why
    note = Note(
        data={"version": version, "member": member, "tokens": tokens}
        | ({"why": why} if why else {})
    )
    run.ledger.append(name, note)
    return version, why


# --- evaluate ---


def evaluate(run: Run, n: int, incumbent: Generation, candidate: Candidate) -> Generation:
    """The 2×2 on the gate split, retention, and the decision."""
    settings = run.config.gate
    agents = {"incumbent": (incumbent.memory, incumbent.weights)}
    if candidate.memory != candidate.trial:
        agents["memory"] = (candidate.memory, incumbent.weights)
    if candidate.weights != incumbent.weights:
        agents["weights"] = (incumbent.memory, candidate.weights)
    if len(agents) == 3:
        agents["both"] = (candidate.memory, candidate.weights)
    played = {
        cell: measure(run, f"generation {n} · gate · {cell}", "gate", *agent)
        for cell, agent in agents.items()
    }
    tasks = fair(run.tasks("gate"), list(played.values()))
    families = [task.family for task in tasks]
    successes = {cell: [own[task.id] for task in tasks] for cell, own in played.items()}
    candidates = {cell: successes[cell] for cell in gate.CELLS if cell in agents}
    comparisons = gate.compare(candidates, successes["incumbent"], families)
    told = [gate.explain(c, settings.threshold) for c in comparisons]
    chosen, remarks = "incumbent", list(candidate.notes)
    if broken := len(run.tasks("gate")) - len(tasks):
        remarks.append(f"{broken} gate tasks left out because an episode broke")
    for comparison in gate.ranked(comparisons, settings):
        kept, remark = retention(run, n, incumbent, *agents[comparison.cell])
        remarks.append(f"{comparison.cell}: {remark}")
        if kept or not settings.enabled:
            chosen = comparison.cell
            break
    if chosen != "incumbent":
        best = next(c for c in comparisons if c.cell == chosen)
        if not settings.enabled:
            remarks.insert(0, "gate.enabled=false: it goes on whatever the test says")
        reason = "; ".join([gate.explain(best, settings.threshold), *remarks])
    elif comparisons:
        reason = "; ".join(["no candidate passed", *told, *remarks])
    else:
        reason = "; ".join(["nothing new to test", *remarks])
    memory, weights = agents[chosen]
    proposal = propose_objective(run, n, memory, weights)
    if memory == incumbent.memory:
        memory = candidate.trial
    shown = chosen if chosen != "incumbent" else gate.foremost(comparisons)
    decided = Generation(
        n=n,
        parent=incumbent.n,
        weights=weights,
        memory=memory,
        decision="kept" if chosen == "incumbent" else "promoted",
        cell=chosen,
        reason=reason,
        cells={cell: score(tasks, own) for cell, own in successes.items()},
        families=family_rates(tasks, successes[chosen]),
        objective=proposal.weights,
        details={
            "candidate": {"memory": candidate.memory, "weights": candidate.weights},
            "threshold": settings.threshold,
            "comparisons": [
                {
                    "cell": c.cell,
                    "wins": c.wins,
                    "losses": c.losses,
                    "e_value": c.evidence,
                    "difference": c.difference.model_dump(mode="json"),
                }
                for c in comparisons
            ],
            "remarks": list(remarks),
            "objective": proposal.told,
        },
    )
    # What is told beside the gate: it decides nothing, and nothing learns from it.
    beside = preference(run, n, shown, agents) | account(run, incumbent, decided, shown, agents)
    return decided.model_copy(update={"details": decided.details | beside})


def retention(
    run: Run, n: int, incumbent: Generation, memory: str, weights: str
) -> tuple[bool, str]:
    """Whether a candidate still knows what the incumbent mastered, on tasks kept for that."""
    families = gate.mastered(incumbent.families, run.config.gate)
    tasks = [task for task in run.tasks("retention") if task.family in families]
    if not tasks:
        return gate.retained([], [], [], run.config.gate)
    label = f"generation {n} · retention ·"
    new = measure(run, f"{label} candidate", "retention", memory, weights, tasks)
    old = measure(
        run, f"{label} incumbent", "retention", incumbent.memory, incumbent.weights, tasks
    )
    tasks = fair(tasks, [new, old])
    return gate.retained(
        [new[task.id] for task in tasks],
        [old[task.id] for task in tasks],
        [task.family for task in tasks],
        run.config.gate,
    )


# --- costs ---


def phase_tokens(run: Run, n: int) -> dict[str, int]:
    """Tokens per phase: produced, and in the update also those read in training."""
    trained = [run.ledger.get(Note, f"{what}/{n}") for what in ("trained", "verifier")]
    trained += [note for _, note in run.ledger.all(Note, f"trained/{n}/")]
    trained_on = sum(int(str(note.data.get("tokens", 0))) for note in trained if note)
    making, solving = generate.tokens(run, n), run.said_tokens(f"{n}/{SOLVE}/")
    said = run.said_tokens(f"{n}/") - run.said_tokens(f"{n}/evaluate/")
    judged = sum(run.said_tokens(f"{m}/evaluate/") for m in range(1, n + 1))
    # An agent is measured once, whichever generation asks first; the rest is this one's.
    earlier = sum(g.tokens.get("evaluate", 0) for g in run.generations())
    tried = run.tokens(f"{n}/acquire/") + run.tokens(f"{n}/{CANARY}/")
    return {
        "acquire": tried + making.all + solving,
        "update": run.tokens(f"{n}/probe/") + trained_on + said - making.said - solving,
        "evaluate": run.tokens("gate/") + run.tokens("retention/") + judged - earlier,
    }
