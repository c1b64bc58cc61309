"""Refinement of policies by reinforcement learning."""
