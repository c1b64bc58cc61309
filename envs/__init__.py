"""Robot environments in MuJoCo: obstacle avoidance, Unitree's G1, robosuite, Meta-World, and any gymnasium
id. Importing this registers them; the simulators themselves are imported when an environment is made."""

from envs import avoidance_env, g1_env, gymnasium_env, metaworld_env, robosuite_env

__all__ = ["avoidance_env", "g1_env", "gymnasium_env", "metaworld_env", "robosuite_env"]
