"""robosuite's single-arm tasks behind `RobotEnv`."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from envs.spaces import camera_specs, checked, spaces_of
from robopolicy.env import Expert, Observation, RobotEnv
from robopolicy.errors import ConfigError, RobopolicyError, SpecMismatch, unknown
from robopolicy.registry import parse, register
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task

_OBJECTS = {"Lift": "cube_main", "PickPlaceCan": "Can_main", "NutAssemblySquare": "SquareNut_main"}
_PROPRIOCEPTION: dict[str, ObservationSpec] = {
    "robot0_eef_pos": ObservationSpec(shape=(3,), unit="m", frame="world", group="proprioception"),
    "robot0_eef_quat": ObservationSpec(
        shape=(4,), rotation="quat_xyzw", frame="world", group="proprioception"
    ),
    "robot0_eef_quat_site": ObservationSpec(
        shape=(4,), rotation="quat_xyzw", frame="world", group="proprioception"
    ),
    "robot0_gripper_qpos": ObservationSpec(shape=(2,), unit="m", group="proprioception"),
    "robot0_joint_pos": ObservationSpec(shape=(7,), unit="rad", group="proprioception"),
    "robot0_joint_vel": ObservationSpec(shape=(7,), unit="rad/s", group="proprioception"),
}
_PHYSICS_HZ = 500
_XYZW = np.array([1, 2, 3, 0])


@dataclass(frozen=True, kw_only=True)
class RobosuiteConfig:
    """A robosuite task and how its arm is commanded."""

    task: Literal["Lift", "PickPlaceCan", "NutAssemblySquare"] = "Lift"
    robot: Literal["Panda"] = "Panda"
    control_hz: int = 20
    controller: Literal["delta", "absolute"] = "delta"
    """"delta": change of the grip site's pose, +-1 is 5 cm and 0.5 rad; "absolute": its pose in the world."""
    proprioception: tuple[str, ...] = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    """`robot0_eef_quat` is the hand's orientation, as in robosuite's datasets; `robot0_eef_quat_site` is
    that of the grip site, which absolute actions command."""

    def __post_init__(self) -> None:
        if self.control_hz < 1 or _PHYSICS_HZ % self.control_hz:
            raise ConfigError(f"control_hz must divide {_PHYSICS_HZ}, got {self.control_hz}.")
        if self.task not in _OBJECTS:
            raise ConfigError(unknown("robosuite task", self.task, _OBJECTS))
        for key in self.proprioception:
            if key not in _PROPRIOCEPTION:
                raise ConfigError(unknown("proprioception key", key, _PROPRIOCEPTION))


@register("env", "robosuite")
class RobosuiteEnv(RobotEnv):
    """Lift, PickPlaceCan or NutAssemblySquare.

    Observations are computed from the state at the end of the step, so they depend on nothing else:
    robosuite's own lag by one physics step, and its relative object poses by one control step. The sign of
    a relative quaternion is continuous in time instead of jumping where its real part changes sign.
    """

    def __init__(self, config: RobosuiteConfig, *, task: Task) -> None:
        self.config, self.task = config, task
        mujoco, suite = _import_robosuite()
        self._mujoco = mujoco
        settings = suite.load_composite_controller_config(robot=config.robot)
        if config.controller == "absolute":
            settings["body_parts"]["right"].update(input_type="absolute", input_ref_frame="world")
        # The seed decides what is drawn once for ever (the size of Lift's cube); a soft reset keeps it.
        self._suite = suite.make(
            config.task,
            robots=config.robot,
            controller_configs=settings,
            control_freq=config.control_hz,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            renderer="mujoco",
            hard_reset=False,
            ignore_done=True,
            lite_physics=True,
            seed=0,
        )
        for name in self._suite.observation_names:
            self._suite.modify_observable(name, "enabled", False)
        self._model, self._data = self._suite.sim.model._model, self._suite.sim.data._data
        self._substeps = _PHYSICS_HZ // config.control_hz
        from envs.osc import OperationalSpaceController
        from envs.rendering import Renderer

        robot = self._suite.robots[0]
        self.arm = OperationalSpaceController(robot, self._model, self._data)
        self._renderer = Renderer(self._model, hidden_groups=(0,))
        self._hand = int(self._model.body(robot.robot_model.eef_name["right"]).id)
        self._object = int(self._model.body(_OBJECTS[config.task]).id)
        self._fingers = np.array(robot._ref_gripper_joint_pos_indexes["right"])
        self._joints = np.array(robot._ref_joint_pos_indexes)
        self._joint_velocities = np.array(robot._ref_joint_vel_indexes)
        cameras = [self._model.camera(i).name for i in range(self._model.ncam)]
        self.robot_spec = _spec(config, camera_specs(task, cameras))
        self.observation_space, self.action_space = spaces_of(self.robot_spec)
        self._ready = False

    @property
    def simulation(self) -> tuple[Any, Any]:
        """The `mujoco.MjModel` and `mujoco.MjData`, for scripted experts."""
        return self._model, self._data

    @property
    def object_body(self) -> int:
        """The body id of the object that the task is about."""
        return self._object

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the episode that `seed` determines (without one, the next of this environment's stream)."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(2**63))
        # Placement samplers and initial joint noise share this generator, so it is reseeded in place.
        self._suite.rng.bit_generator.state = np.random.default_rng(episode).bit_generator.state
        self._suite.reset()
        self.arm.begin()
        self._ready = True
        self._mujoco.mj_kinematics(self._model, self._data)
        return self._observe(), {"success": bool(self._suite._check_success())}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold one action `[7]` for a control step.

        Raises:
            SpecMismatch: an action of another shape or with values that are not finite.
            RobopolicyError: no `reset` yet.
        """
        if not self._ready:
            raise RobopolicyError("Call reset() before step().")
        action = checked(action, self.robot_spec.action)
        model, data = self._model, self._data
        for substep in range(self._substeps):
            self._mujoco.mj_step1(model, data)
            if substep == 0:
                self.arm.set_goal(action)
            self.arm.apply()
            self._mujoco.mj_step2(model, data)
        self._mujoco.mj_kinematics(model, data)
        reward = float(self._suite.reward(action))
        success = bool(self._suite._check_success())
        return self._observe(), reward, False, False, {"success": success}

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture; the default camera is the task's `video_camera`."""
        self._mujoco.mj_comPos(self._model, self._data)
        self._mujoco.mj_camlight(self._model, self._data)
        return self._renderer.picture(self._data, camera or self.task.video_camera or "agentview", size)

    def expert(self, seed: int, settings: Mapping[str, Any]) -> Expert:
        """A scripted expert; `settings` are the fields of `envs.experts.ExpertConfig`."""
        from envs import experts

        return experts.make(self, parse(experts.ExpertConfig, settings, "expert"), seed)

    def get_state(self) -> np.ndarray:
        """MuJoCo's integration state followed by what the controller remembers, float64 `[S]`."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self._model, kind))
        self._mujoco.mj_getState(self._model, self._data, state, kind)
        return np.concatenate([state, self.arm.memory])

    def set_state(self, state: np.ndarray) -> Observation:
        """Go to a state from `get_state`; stepping on from it repeats the original exactly.

        Time, positions and velocities alone, as robosuite and robomimic record them, begin an episode.

        Raises:
            SpecMismatch: a state of another model.
        """
        kinds = self._mujoco.mjtState
        kind, recorded = kinds.mjSTATE_INTEGRATION, kinds.mjSTATE_PHYSICS | kinds.mjSTATE_TIME
        size, memory = self._mujoco.mj_stateSize(self._model, kind), len(self.arm.memory)
        short = self._mujoco.mj_stateSize(self._model, recorded)
        if state.shape not in ((size + memory,), (short,)):
            raise SpecMismatch(
                f"A state of {self.config.task} is [{size + memory}], or [{short}] as robosuite records it; "
                f"got {list(state.shape)}."
            )
        begins = len(state) == short
        values = np.ascontiguousarray(state[: short if begins else size], np.float64)
        self._mujoco.mj_setState(self._model, self._data, values, recorded if begins else kind)
        if begins:
            self.arm.begin()
        else:
            self.arm.memory = state[size:]
        self._ready = True
        self._mujoco.mj_kinematics(self._model, self._data)
        return self._observe()

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        self._renderer.close()

    def _observe(self) -> Observation:
        data = self._data
        position, hand = self.arm.position, data.xquat[self._hand]
        found: dict[str, np.ndarray] = {}
        for key in self.config.proprioception:
            if key == "robot0_eef_pos":
                value = position
            elif key == "robot0_eef_quat":
                value = hand[_XYZW]
            elif key == "robot0_eef_quat_site":
                value = self._site_quaternion()[_XYZW]
            elif key == "robot0_gripper_qpos":
                value = data.qpos[self._fingers]
            elif key == "robot0_joint_pos":
                value = data.qpos[self._joints]
            else:
                value = data.qvel[self._joint_velocities]
            found[key] = value.astype(np.float32)
        found["object-state"] = self._object_state(position, hand).astype(np.float32)
        for camera in self.task.cameras:
            found[f"{camera}_image"] = self.render_frame(camera, self.task.image_size)
        return found

    def _object_state(self, position: np.ndarray, hand: np.ndarray) -> np.ndarray:
        where, turned = self._data.xpos[self._object], self._data.xquat[self._object]
        if self.config.task == "Lift":
            return np.concatenate([where, turned[_XYZW], where - position])
        inverse, nearby, relative = np.empty(4), np.empty(3), np.empty(4)
        self._mujoco.mju_negQuat(inverse, hand)
        self._mujoco.mju_rotVecQuat(nearby, where - position, inverse)
        self._mujoco.mju_mulQuat(relative, inverse, turned)
        return np.concatenate([nearby, relative[_XYZW], where, turned[_XYZW]])

    def _site_quaternion(self) -> np.ndarray:
        site = self.arm.site
        body = self._data.xquat[self._model.site_bodyid[site]]
        # A product of quaternions, because one read from the rotation matrix would change sign at random.
        quaternion = np.empty(4)
        self._mujoco.mju_mulQuat(quaternion, body, self._model.site_quat[site])
        return quaternion


def _spec(config: RobosuiteConfig, images: Mapping[str, ObservationSpec]) -> Spec:
    observations = {key: _PROPRIOCEPTION[key] for key in config.proprioception}
    size = 10 if config.task == "Lift" else 14
    observations["object-state"] = ObservationSpec(shape=(size,), frame="world", group="object")
    observations.update(images)
    names = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    gripper = ActionPart(kind="gripper", size=1)
    if config.controller == "delta":
        position = ActionPart(kind="position", size=3)
        rotation = ActionPart(kind="rotation", size=3, rotation="axis_angle")
        low, high, unit = (-1.0,) * 7, (1.0,) * 7, "5 cm and 0.5 rad"
    else:
        position = ActionPart(kind="position", size=3, reference=_listed("robot0_eef_pos", observations))
        rotation = ActionPart(
            kind="rotation",
            size=3,
            rotation="axis_angle",
            reference=_listed("robot0_eef_quat_site", observations),
        )
        low, high = (-1.0, -1.0, 0.5, -4.0, -4.0, -4.0, -1.0), (1.0, 1.0, 1.5, 4.0, 4.0, 4.0, 1.0)
        unit = "m and rad"
    action = ActionSpec(
        names=names,
        low=low,
        high=high,
        representation="ee_delta" if config.controller == "delta" else "ee_pose",
        unit=unit,
        gripper="-1 open, +1 closed",
        parts=(position, rotation, gripper),
    )
    return Spec(observations=observations, action=action, control_hz=float(config.control_hz))


def _listed(key: str, observations: Mapping[str, ObservationSpec]) -> str | None:
    return key if key in observations else None


@functools.cache
def _import_robosuite() -> tuple[Any, Any]:
    # robosuite warns about optional extras on import, and sets MUJOCO_GL for the whole process.
    before = os.environ.get("MUJOCO_GL")
    logging.disable(logging.WARNING)
    try:
        import mujoco
        import robosuite
    except ImportError as error:
        raise RobopolicyError(f"This task needs robosuite 1.5 and mujoco < 3.10: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
        if before is None:
            os.environ.pop("MUJOCO_GL", None)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    return mujoco, robosuite
