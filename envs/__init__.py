"""Robot environments in MuJoCo: robosuite, Meta-World, and any gymnasium id. Importing this registers them;
the simulators themselves are imported when an environment is made."""

from envs import robosuite_env

__all__ = ["robosuite_env"]
