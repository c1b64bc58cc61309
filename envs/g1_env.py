"""Two tasks for the upper body of a Unitree G1: reach with both hands, lift a box between them.

The pelvis is held and the legs stand still, as on a gantry or while the robot's own controller stands.
Actions are positions of the joints of waist and arms, which is what the robot's joint controllers take;
places are in the frame of the pelvis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from envs.spaces import camera_specs, checked, spaces_of
from robopolicy.env import Expert, Observation, RobotEnv
from robopolicy.errors import RobopolicyError, SpecMismatch
from robopolicy.registry import parse, register
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task

__all__ = ["CONTROL_HZ", "LIFTED", "NEAR", "STILL", "UPRIGHT", "G1Config", "G1Env"]

CONTROL_HZ = 20
NEAR = 0.03
"""Both hands within this distance of their targets have reached them, metres."""
STILL = 0.5
"""With no joint faster than this, rad/s."""
LIFTED = 0.10
"""The box is lifted when it is this far over the table, metres,"""
UPRIGHT = 0.9
"""and the cosine of its tilt is at least this, and both arms touch it."""
_PIECES = 5
"""A control step is a ramp of this many steps from one command to the next."""
_START = np.array([0.05] * 3 + [0.10] * 14)
_REACH = np.array([[0.20, 0.36], [0.10, 0.34], [0.02, 0.36]])
"""Range of the left hand's target in x, y and z, metres; the right hand's is its mirror image."""
_BOX = np.array([[0.36, 0.40], [-0.05, 0.05], [-0.3, 0.3]])
"""Range of the box in x and y, metres, and yaw, radians."""


@dataclass(frozen=True, kw_only=True)
class G1Config:
    """Which of the tasks."""

    task: Literal["reach", "box"] = "reach"


@register("env", "g1")
class G1Env(RobotEnv):
    """Joint positions `[17]` in, rad; the command moves from one action to the next during a control step.

    Joint servos yield to gravity and to what is held by some hundredths of a radian, so holding a posture
    takes commands a little beyond it.
    """

    reset_options = frozenset({"object_range"})

    def __init__(self, config: G1Config, *, task: Task) -> None:
        import mujoco

        from envs import g1_model
        from envs.rendering import Renderer

        self.config, self.task = config, task
        self._mujoco = mujoco
        self.g1 = g1_model.build(box=config.task == "box")
        self._model = self.g1.model
        self._data = mujoco.MjData(self._model)
        self._renderer = Renderer(self._model)
        self._substeps = g1_model.PHYSICS_HZ // (CONTROL_HZ * _PIECES)
        self._half = g1_model.BOX
        self._table = g1_model.TABLE_Z
        names = [self._model.body(i).name for i in range(self._model.nbody)]
        self._arms = [{i for i, name in enumerate(names) if name.startswith(side)} for side in g1_model.SIDES]
        self.robot_spec = _spec(config.task, g1_model.JOINTS, self.g1, camera_specs(task, ("front", "side")))
        self.observation_space, self.action_space = spaces_of(self.robot_spec)
        self._ready = False

    @property
    def simulation(self) -> Any:
        """The `mujoco.MjData` behind everything."""
        return self._data

    @property
    def posture(self) -> np.ndarray:
        """Joint positions `[17]`, rad."""
        return self._data.qpos[self.g1.qpos]

    @property
    def command(self) -> np.ndarray:
        """Commanded joint positions `[17]`, rad."""
        return self._data.ctrl.copy()

    @property
    def hands(self) -> np.ndarray:
        """Places of the left and the right hand `[2, 3]`, metres."""
        return self._data.site_xpos[list(self.g1.hands)] - self.g1.origin

    @property
    def pointing(self) -> np.ndarray:
        """Unit vectors along the left and the right hand `[2, 3]`."""
        return self._data.site_xmat[list(self.g1.hands)].reshape(2, 3, 3)[:, :, 0]

    @property
    def targets(self) -> np.ndarray:
        """Where the hands should go `[2, 3]`, metres (task reach)."""
        return self._data.mocap_pos - self.g1.origin

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre `[3]`, metres, and rotation `[3, 3]` of the box (task box)."""
        body = self._data.body("box")
        return body.xpos - self.g1.origin, body.xmat.reshape(3, 3).copy()

    @property
    def touching(self) -> tuple[bool, bool]:
        """Whether the left and the right arm touch the box (task box)."""
        box = self._model.body("box").id
        bodies = self._model.geom_bodyid[self._data.contact.geom]
        touched = set(bodies[(bodies == box).any(1)].ravel().tolist())
        left, right = (bool(arm & touched) for arm in self._arms)
        return left, right

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the episode that `seed` determines.

        Args:
            options: "object_range" widens the ranges of targets and box by this fraction (0 is none).
        """
        super().reset(seed=seed)
        mujoco, data, g1 = self._mujoco, self._data, self.g1
        mujoco.mj_resetData(self._model, data)
        wider = 1.0 + float((options or {}).get("object_range", 0.0))
        data.qpos[g1.qpos] = g1.home + self.np_random.uniform(-1.0, 1.0, len(_START)) * _START
        if self.config.task == "reach":
            for side, sign in enumerate((1.0, -1.0)):
                data.mocap_pos[side] = g1.origin + self._draw(_REACH, wider) * (1.0, sign, 1.0)
        else:
            x, y, yaw = self._draw(_BOX, wider)
            pose = data.joint("box").qpos
            pose[:3] = g1.origin + np.array([x, y, self._table + self._half[2]])
            pose[3:] = np.cos(0.5 * yaw), 0.0, 0.0, np.sin(0.5 * yaw)
        mujoco.mj_forward(self._model, data)
        data.ctrl[:] = self.posture + data.qfrc_bias[g1.dof] / g1.kp
        self._ready = True
        return self._observe(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Command joint positions `[17]`, rad, clipped to the joints' ranges.

        The episode ends when the box has fallen off the table.

        Raises:
            SpecMismatch: an action of another shape or with values that are not finite.
            RobopolicyError: no `reset` yet.
        """
        if not self._ready:
            raise RobopolicyError("Call reset() before step().")
        before = self.command
        change = np.clip(checked(action, self.robot_spec.action), self.g1.lower, self.g1.upper) - before
        for piece in range(1, _PIECES + 1):
            self._data.ctrl[:] = before + change * (piece / _PIECES)
            self._mujoco.mj_step(self._model, self._data, nstep=self._substeps)
        self._mujoco.mj_kinematics(self._model, self._data)
        success = self._success()
        fallen = self.config.task == "box" and bool(self.box[0][2] < self._table)
        return self._observe(), float(success), fallen, False, {"success": success}

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture from "front" or "side".

        Raises:
            ConfigError: another camera.
        """
        self._mujoco.mj_comPos(self._model, self._data)
        self._mujoco.mj_camlight(self._model, self._data)
        return self._renderer.picture(self._data, camera or self.task.video_camera or "front", size)

    def expert(self, seed: int, settings: Mapping[str, Any]) -> Expert:
        """A demonstrator for the episode that was just reset; `settings` are the fields of its config."""
        from envs.g1_expert import G1Expert, G1ExpertConfig

        return G1Expert(self, parse(G1ExpertConfig, settings, "expert"), seed)

    def get_state(self) -> np.ndarray:
        """MuJoCo's integration state `[S]`, which includes command and targets."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self._model, kind))
        self._mujoco.mj_getState(self._model, self._data, state, kind)
        return state

    def set_state(self, state: np.ndarray) -> Observation:
        """Go to a state from `get_state`; stepping on from it repeats the original exactly.

        Raises:
            SpecMismatch: a state of another size.
        """
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        size = self._mujoco.mj_stateSize(self._model, kind)
        if state.shape != (size,):
            raise SpecMismatch(f"A state of {self.task.name} is [{size}], got {list(state.shape)}.")
        values = np.ascontiguousarray(state, np.float64)
        self._mujoco.mj_setState(self._model, self._data, values, kind)
        self._mujoco.mj_kinematics(self._model, self._data)
        self._ready = True
        return self._observe()

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        self._renderer.close()

    def _draw(self, ranges: np.ndarray, wider: float) -> np.ndarray:
        middle, half = ranges.mean(1), 0.5 * (ranges[:, 1] - ranges[:, 0])
        return middle + wider * half * self.np_random.uniform(-1.0, 1.0, len(ranges))

    def _success(self) -> bool:
        if self.config.task == "reach":
            away = np.linalg.norm(self.hands - self.targets, axis=1)
            return bool(away.max() < NEAR and np.abs(self._data.qvel[self.g1.dof]).max() < STILL)
        place, rotation = self.box
        lifted = place[2] - self._half[2] - self._table > LIFTED and rotation[2, 2] > UPRIGHT
        return bool(lifted) and all(self.touching)

    def _observe(self) -> Observation:
        found: dict[str, np.ndarray] = {
            "joint_positions": self.posture.astype(np.float32),
            "joint_velocities": self._data.qvel[self.g1.dof].astype(np.float32),
        }
        if self.config.task == "reach":
            found["left_target"], found["right_target"] = self.targets.astype(np.float32)
        else:
            found["box_position"] = self.box[0].astype(np.float32)
            found["box_quaternion"] = self._data.joint("box").qpos[3:].astype(np.float32)
        for camera in self.task.cameras:
            found[f"{camera}_image"] = self.render_frame(camera, self.task.image_size)
        return found


def _spec(task: str, joints: tuple[str, ...], g1: Any, images: Mapping[str, ObservationSpec]) -> Spec:
    count = (len(joints),)
    place = ObservationSpec(shape=(3,), unit="m", frame="pelvis", group="object")
    observations = {
        "joint_positions": ObservationSpec(shape=count, unit="rad", group="proprioception"),
        "joint_velocities": ObservationSpec(shape=count, unit="rad/s", group="proprioception"),
    }
    if task == "reach":
        observations |= {"left_target": place, "right_target": place}
    else:
        turn = ObservationSpec(shape=(4,), frame="pelvis", group="object", rotation="quat_wxyz")
        observations |= {"box_position": place, "box_quaternion": turn}
    action = ActionSpec(
        names=joints,
        low=tuple(g1.lower.tolist()),
        high=tuple(g1.upper.tolist()),
        representation="joint_position",
        unit="rad",
        parts=(ActionPart(kind="joint", size=len(joints), reference="joint_positions"),),
    )
    return Spec(observations={**observations, **images}, action=action, control_hz=float(CONTROL_HZ))
