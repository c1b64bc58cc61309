"""A task around a simulated G1: it places things by an episode's seed, tells their poses and judges.

| topic | type | |
|---|---|---|
| /left_target_pose, /right_target_pose | geometry_msgs/PoseStamped | where the hands should go (g1_reach) |
| /box_pose | geometry_msgs/PoseStamped | the box (g1_box) |
| /sim/reset | std_msgs/Int64 | begin the episode of a seed; /sim/episode answers with it |
| /sim/success | std_msgs/Bool | whether the task is solved |

Poses are in the frame of the pelvis, as `Perception` says. Episodes and the judgement are those of the task's
environment: its rules are asked about the state that the robot and the things here are in.
"""

from __future__ import annotations

import mujoco
import numpy as np

import envs  # noqa: F401  registers the environments
from envs.g1_env import G1Env
from envs.g1_model import SIDES, furnish
from hardware.sim.perception import Perception, PerceptionConfig
from hardware.sim.ros2_arm import load_task
from hardware.transport.dds import LATCHED, STATE, Participant
from hardware.transport.idl_ros import Bool, Int64
from robopolicy import registry
from robopolicy.errors import ConfigError

__all__ = ["G1Task"]

_UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])


class G1Task:
    """The things of one task and its topics.

    Raises:
        ConfigError: a task of another robot.
    """

    def __init__(self, name: str, participant: Participant, perception: PerceptionConfig) -> None:
        task = load_task(name)
        env = registry.build("env", task.env, task=task)
        if not isinstance(env, G1Env):
            raise ConfigError(f"{name} is no task of the G1: choose g1_reach or g1_box.")
        self._env, self._has_box = env, env.config.task == "box"
        things = ("box",) if self._has_box else tuple(f"{side}_target" for side in SIDES)
        self._perceptions = {
            thing: Perception(participant, f"rt/{thing}_pose", "pelvis", perception) for thing in things
        }
        self._resets = participant.reader("rt/sim/reset", Int64, STATE)
        self._episode = participant.writer("rt/sim/episode", Int64, LATCHED)
        self._success = participant.writer("rt/sim/success", Bool, STATE)

    def furnish(self, spec: mujoco.MjSpec, origin: np.ndarray) -> None:
        """Add the things to the model of a robot whose pelvis is at `origin` `[3]`."""
        model = self._env.g1.model
        spec.option.cone, spec.option.impratio = model.opt.cone, float(model.opt.impratio)
        furnish(spec, origin, box=self._has_box)
        self._origin = origin

    @property
    def asked(self) -> int | None:
        """The seed of the episode that someone wants to begin."""
        seeds = self._resets.take()
        return seeds[-1].data if seeds else None

    def begin(self, seed: int, data: mujoco.MjData) -> np.ndarray:
        """Place the things; the posture `[17]` of waist and arms in which the episode begins, rad."""
        self._env.reset(seed=seed)
        if self._has_box:
            data.joint("box").qpos[:3] = self._env.box[0] + self._origin
            data.joint("box").qpos[3:] = self._env.simulation.joint("box").qpos[3:]
        else:
            for side, place in zip(SIDES, self._env.targets, strict=True):
                data.mocap_pos[data.model.body(f"{side}_target").mocapid[0]] = place + self._origin
        for index, perception in enumerate(self._perceptions.values()):
            perception.reset(2 * seed + index)
        return self._env.posture

    def begun(self, seed: int) -> None:
        """Say that the episode has begun."""
        self._episode.write(Int64(seed))

    def tell(self, now_ns: int, data: mujoco.MjData) -> None:
        """Publish the poses that are due; `now_ns` is wall-clock time."""
        for thing, perception in self._perceptions.items():
            quaternion = data.joint("box").qpos[3:] if self._has_box else _UPRIGHT
            perception.update(now_ns, data.body(thing).xpos - self._origin, quaternion)

    def judge(self, q: np.ndarray, dq: np.ndarray, data: mujoco.MjData) -> None:
        """Publish whether the task is solved with waist and arms at `q` `[17]`, moving with `dq` `[17]`."""
        env = self._env
        state, g1 = env.simulation, env.g1
        state.qpos[g1.qpos], state.qvel[g1.dof] = q, dq
        if self._has_box:
            state.joint("box").qpos = data.joint("box").qpos
            state.joint("box").qpos[:3] += g1.origin - self._origin
        mujoco.mj_forward(g1.model, state)
        self._success.write(Bool(env._success()))
