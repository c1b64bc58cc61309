"""Policies steered as they run, each a policy around another: ``build("steer", config, policy=policy)``."""
