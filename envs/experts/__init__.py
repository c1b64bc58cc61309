"""Scripted demonstrators for the robosuite tasks: varied on purpose, as people are."""

from envs.experts.scripted import STRATEGIES, ExpertConfig, ScriptedExpert, make

__all__ = ["STRATEGIES", "ExpertConfig", "ScriptedExpert", "make"]
