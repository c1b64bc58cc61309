"""Robot environments in MuJoCo: robosuite, Meta-World, and any gymnasium id. Importing this registers them;
the simulators themselves are imported when an environment is made."""

from envs import gymnasium_env, metaworld_env, robosuite_env

__all__ = ["gymnasium_env", "metaworld_env", "robosuite_env"]
