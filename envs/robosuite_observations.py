"""What a policy sees of a robosuite task: the state at the end of the step, or robosuite's observables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from envs.robosuite_control import GripSite
from robopolicy.env import Observation

__all__ = ["EndOfStep", "StockObservables"]

_XYZW = np.array([1, 2, 3, 0])


class EndOfStep:
    """Observations of the present state and nothing else; kinematics must be up to date.

    Args:
        suite: a robosuite task.
        keys: of `envs.robosuite_spec.PROPRIOCEPTION`.
        main: for tasks whose `object-state` is written out here (`object_state`), the object's body.
    """

    def __init__(self, suite: Any, keys: Sequence[str], main: str | None) -> None:
        self._model, self._data = suite.sim.model._model, suite.sim.data._data
        self._main = None if main is None else int(self._model.body(main).id)
        self._in_hand = main is not None and main != "cube_main"
        self._robots = [_Robot(robot, self._model, self._data) for robot in suite.robots]
        self._keys = [(key, self._robots[int(key[5])], key[7:]) for key in keys]
        # Absolute poses come before those relative to them, so that one pass over the sensors is enough.
        self._sensors = [
            (name, observable._sensor, observable.modality == "object")
            for name, observable in suite._observables.items()
            if observable.modality == "object" or name[7:] in ("eef_pos", "eef_quat")
        ]

    def read(self) -> Observation:
        """Float32 arrays by key."""
        found = {key: robot.read(name).astype(np.float32) for key, robot, name in self._keys}
        found["object-state"] = self.object_state().astype(np.float32)
        return found

    def object_state(self) -> np.ndarray:
        """Poses of the task's objects, in the order of robosuite's `object-state`."""
        main = self._main
        if main is None:
            return self._sensed()
        # Rotations that are continuous in time, unlike those of robosuite's sensors.
        hand, position = self._robots[0].hand, self._robots[0].grip.position
        where, turned = self._data.xpos[main], self._data.xquat[main]
        if not self._in_hand:
            return np.concatenate([where, turned[_XYZW], where - position])
        inverse, nearby, relative = np.empty(4), np.empty(3), np.empty(4)
        mujoco.mju_negQuat(inverse, hand)
        mujoco.mju_rotVecQuat(nearby, where - position, inverse)
        mujoco.mju_mulQuat(relative, inverse, turned)
        return np.concatenate([nearby, relative[_XYZW], where, turned[_XYZW]])

    def _sensed(self) -> np.ndarray:
        cache: dict[str, Any] = {}
        for name, sensor, _ in self._sensors:
            cache[name] = sensor(cache)
        return np.concatenate([np.ravel(cache[name]) for name, _, object_ in self._sensors if object_])


class StockObservables:
    """What robosuite itself returns after a step, without polling its sensors 25 times for it.

    robosuite reads its sensors once in a control step, after the integration of the last physics step. Joint
    positions and velocities are then new, but poses of bodies and sites are still those before that physics
    step, 2 ms older; and object poses relative to the hand in PickPlace and NutAssembly are made from the
    object's pose in the previous observation, 50 ms older at 20 Hz.
    """

    def __init__(self, suite: Any, keys: Sequence[str]) -> None:
        self._suite, self._keys = suite, keys
        hands = [
            f"robot{number}_eef_{what}" for number in range(len(suite.robots)) for what in ("pos", "quat")
        ]
        needed = {*keys, *hands}  # relative poses are made from the hands'
        for name, observable in suite._observables.items():
            if observable.modality != "object":
                observable.set_enabled(name in needed)

    def begin(self) -> None:
        """Read every sensor as `reset` does, with nothing remembered."""
        self._suite._obs_cache.clear()
        for observable in self._enabled.values():
            observable.reset()
        self.sample()

    def sample(self) -> None:
        """Read every sensor; robosuite's `step` does so itself."""
        # As `Observable.update` does, whose noise, delay and filter nobody has asked for.
        cache = self._suite._obs_cache
        for name, observable in self._enabled.items():
            value = np.array(observable._sensor(cache))
            observable._current_observed_value = value[0] if value.shape == (1,) else value
            cache[name] = np.array(observable._current_observed_value)

    def read(self) -> Observation:
        """Float32 arrays by key, as sampled last."""
        observables = self._suite._observables
        found = {key: np.asarray(observables[key].obs).astype(np.float32) for key in self._keys}
        objects = [
            np.ravel(o.obs) for o in self._enabled.values() if o.modality == "object" and o.is_active()
        ]
        found["object-state"] = np.concatenate(objects).astype(np.float32)
        return found

    @property
    def memory(self) -> np.ndarray:
        """The values sampled last, from which some of the next are made, float64 `[M]`."""
        return np.concatenate([np.ravel(o._current_observed_value) for o in self._enabled.values()])

    @memory.setter
    def memory(self, value: np.ndarray) -> None:
        start = 0
        for name, observable in self._enabled.items():
            shape = np.shape(observable._current_observed_value)
            size = int(np.prod(shape))
            found = value[start : start + size].reshape(shape)
            start += size
            observable._current_observed_value = found
            self._suite._obs_cache[name] = found
            observable._time_since_last_sample, observable._sampled = self._suite.model_timestep, True

    @property
    def _enabled(self) -> Mapping[str, Any]:
        return {name: o for name, o in self._suite._observables.items() if o.is_enabled()}


class _Robot:
    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.grip = GripSite(robot, model, data)
        self._data = data
        self._hand = int(model.body(robot.robot_model.eef_name["right"]).id)
        self._fingers = np.array(robot._ref_gripper_joint_pos_indexes["right"])
        self._joints = np.array(robot._ref_joint_pos_indexes)
        self._velocities = np.array(robot._ref_joint_vel_indexes)

    @property
    def hand(self) -> np.ndarray:
        """The hand's orientation, w first `[4]`."""
        found: np.ndarray = self._data.xquat[self._hand]
        return found

    def read(self, name: str) -> np.ndarray:
        """An observation by its key without the robot."""
        if name == "eef_pos":
            return self.grip.position
        if name == "eef_quat":
            return self.hand[_XYZW]
        if name == "eef_quat_site":
            return self.grip.quaternion[_XYZW]
        if name == "gripper_qpos":
            return np.asarray(self._data.qpos[self._fingers])
        if name == "joint_pos":
            return np.asarray(self._data.qpos[self._joints])
        return np.asarray(self._data.qvel[self._velocities])
