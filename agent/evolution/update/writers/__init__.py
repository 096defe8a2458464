"""Writers: from episodes to new memory items, one file for each kind of thing that is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict

from agent import choices
from agent.choices import OneOf
from agent.evolution.update.writers.base import Situation, Written
from agent.evolution.update.writers.exemplars import ExemplarSettings, exemplars
from agent.evolution.update.writers.facts import FactSettings, facts
from agent.evolution.update.writers.insights import InsightSettings, insights
from agent.evolution.update.writers.reflections import ReflectionSettings, reflections
from agent.evolution.update.writers.skills import SkillSettings, skills
from agent.evolution.update.writers.workflows import WorkflowSettings, workflows

if TYPE_CHECKING:
    from agent.run import Run


class WriteSettings(BaseModel):
    """What is written into memory in each generation; null switches a writer off.

    Args:
        exemplars, reflections, insights, skills, workflows, facts: the settings of each.
        own: writers of your own, each ``package.module:function``, from a `Situation` to what is
            `Written`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exemplars: ExemplarSettings | None = ExemplarSettings()
    reflections: ReflectionSettings | None = ReflectionSettings()
    insights: InsightSettings | None = None
    skills: SkillSettings | None = None
    workflows: WorkflowSettings | None = None
    facts: FactSettings | None = None
    own: tuple[Annotated[str, OneOf(())], ...] = ()


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
    every = [part for part in parts if part]
    every += [
        _grounded(path, situation, writer(situation))
        for path, writer in zip(s.own, own(s), strict=True)
    ]
    return Written(
        [i for part in every for i in part.items], [e for part in every for e in part.edits]
    )


def check(run: Run) -> None:
    """Whether the configured writers can be had.

    Raises:
        ConfigError: one of the user's own cannot be imported, or nothing but skills is written,
            which are lifted from programs, where there are none.
    """
    from agent.worlds import require_programs

    settings = run.config.update_memory.write
    own(settings)
    chosen = {name for name in WriteSettings.model_fields if getattr(settings, name)}
    if chosen == {"skills"} and run.config.update_memory.enabled:
        require_programs(run, "update_memory.write.skills")


def own(settings: WriteSettings) -> list[Callable[[Situation], Written]]:
    """The user's own writers.

    Raises:
        ConfigError: one cannot be imported.
    """
    return [choices.own(path, "update_memory.write.own", Written) for path in settings.own]


def _grounded(path: str, situation: Situation, written: Written) -> Written:
    """What one's own writer wrote, if its edits name items and episodes that it was given.

    Raises:
        ConfigError: an edit names something else.
    """
    from agent.config import ConfigError

    items = {item.id for item in situation.known}
    slots = {t.slot for t in (*situation.recent, *(s.trajectory for s in situation.solutions))}
    for edit in written.edits:
        if strange := {edit.item, *edit.others} - items | {*edit.because} - slots:
            raise ConfigError(
                f"update_memory.write.own={path}: an edit ({edit.does}) names {min(strange)}, "
                "which is no item of Situation.known and no episode of recent or solutions"
            )
    return written
