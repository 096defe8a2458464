"""Writers: from episodes to new memory items, one file for each kind of thing that is written."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from agent.evolution.update.writers.base import Situation, Written
from agent.evolution.update.writers.exemplars import ExemplarSettings, exemplars
from agent.evolution.update.writers.facts import FactSettings, facts
from agent.evolution.update.writers.insights import InsightSettings, insights
from agent.evolution.update.writers.reflections import ReflectionSettings, reflections
from agent.evolution.update.writers.skills import SkillSettings, skills
from agent.evolution.update.writers.workflows import WorkflowSettings, workflows


class WriteSettings(BaseModel):
    """What is written into memory in each generation; null switches a writer off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exemplars: ExemplarSettings | None = ExemplarSettings()
    reflections: ReflectionSettings | None = ReflectionSettings()
    insights: InsightSettings | None = None
    skills: SkillSettings | None = None
    workflows: WorkflowSettings | None = None
    facts: FactSettings | None = None


def write(situation: Situation, settings: WriteSettings) -> Written:
    """What all writers that are switched on have written."""
    s = settings
    parts = (
        s.exemplars and exemplars(situation, s.exemplars),
        s.reflections and reflections(situation, s.reflections),
        s.insights and insights(situation, s.insights),
        s.skills and skills(situation, s.skills),
        s.workflows and workflows(situation, s.workflows),
        s.facts and facts(situation, s.facts),
    )
    written = Written([], [])
    for part in parts:
        if part:
            written.items.extend(part.items)
            written.edits.extend(part.edits)
    return written
