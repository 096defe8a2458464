"""Acquire: which tasks a generation practises, made up or chosen, and how. See README.md."""

from agent.evolution.acquire.episodes import TRY, Plan, plan, slots
from agent.evolution.acquire.settings import AcquireSettings, GenerateSettings

__all__ = ["TRY", "AcquireSettings", "GenerateSettings", "Plan", "plan", "slots"]
