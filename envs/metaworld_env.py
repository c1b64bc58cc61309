"""Meta-World's tasks behind `RobotEnv`: any of them by name, with the goal visible."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.metaworld_fast import quicken
from envs.spaces import camera_specs, checked, spaces_of
from robopolicy import seeding
from robopolicy.env import Expert, Observation, RobotEnv
from robopolicy.errors import ConfigError, RobopolicyError, SpecMismatch, unknown
from robopolicy.registry import parse, register
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task

__all__ = ["MetaworldConfig", "MetaworldEnv", "MetaworldExpert", "MetaworldExpertConfig"]

# The 39 numbers of an observation: hand and gripper [4], objects [14], both one step ago, goal [3].
_ROBOT = np.r_[0:4, 18:22]
_OBJECT = np.r_[4:18, 22:39]
_SIZE = 39
_NOISE_MEMORY = 0.7


@dataclass(frozen=True, kw_only=True)
class MetaworldConfig:
    """A Meta-World task by its own name."""

    task: str = "reach-v3"
    placement: float = 1.0
    """How wide the range is, on the table, from which objects and goal are drawn (1 is Meta-World's own)."""

    def __post_init__(self) -> None:
        if self.placement < 0:
            raise ConfigError(f"placement must be at least 0, got {self.placement}.")


@dataclass(frozen=True, kw_only=True)
class MetaworldExpertConfig:
    """How the package's scripted policies are made to vary."""

    noise: float = 0.08
    """Standard deviation of the unsteadiness added to the three displacements; the policy corrects it."""
    slowest: float = 0.7
    """Each episode has its own speed, drawn between this fraction and all of the policy's."""
    pauses: float = 0.2
    """Chance that an episode contains a short pause."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 0.5 or not 0 < self.slowest <= 1 or not 0 <= self.pauses <= 1:
            raise ConfigError(
                "An expert needs noise in [0, 0.5], slowest in (0, 1] and pauses in [0, 1]: "
                f"{self.noise}, {self.slowest}, {self.pauses}."
            )


@register("env", "metaworld")
class MetaworldEnv(RobotEnv):
    """One Meta-World task whose objects and goal are drawn anew in every episode."""

    reset_options = frozenset({"object_range"})

    def __init__(self, config: MetaworldConfig, *, task: Task) -> None:
        self.config, self.task = config, task
        classes, self._policies = _import_metaworld()
        if config.task not in classes:
            raise ConfigError(unknown("Meta-World task", config.task, classes))
        from envs.rendering import Renderer

        env = classes[config.task]()
        env._partially_observable = False
        env.__dict__.pop("sawyer_observation_space", None)  # cached while the goal was still hidden
        env._freeze_rand_vec, env.seeded_rand_vec = False, True
        env._set_task_called = True
        env.max_path_length = 10**9  # the episode clock is not the environment's business
        quicken(env)
        self._env = env
        self._model = env.model
        # Resets move bodies and sites of the model relative to where an earlier episode left them.
        self._pristine = {
            name: getattr(env.model, name).copy() for name in ("body_pos", "body_quat", "site_pos")
        }
        _upright_cameras(env.model, env.data)
        self._renderer = Renderer(env.model)
        cameras = [env.model.camera(i).name for i in range(env.model.ncam)]
        control_hz = 1.0 / (env.model.opt.timestep * env.frame_skip)
        self.robot_spec = _spec(camera_specs(task, cameras), control_hz)
        self.observation_space, self.action_space = spaces_of(self.robot_spec)
        self._last: np.ndarray | None = None
        self._placement, self._goals = env._random_reset_space, env.goal_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the episode that `seed` determines (without one, the next of this environment's stream).

        Args:
            options: "object_range" widens, on the table, where objects and goal are placed by this fraction.
        """
        wider = self.config.placement * (1.0 + float((options or {}).get("object_range", 0.0))) - 1.0
        self._env._random_reset_space = _widened(self._placement, wider)
        self._env.goal_space = _widened(self._goals, wider)  # what observed goals are clipped to
        self._env.__dict__.pop("sawyer_observation_space", None)
        super().reset(seed=seed)
        for name, value in self._pristine.items():
            getattr(self._model, name)[:] = value
        self._env.seed(int(self.np_random.integers(2**31)))
        self._env.reset()
        observation = self._placed()
        space = self._env.sawyer_observation_space
        return self._observe(np.clip(observation, space.low, space.high)), {"success": False}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold one action `[4]`, clipped to +-1, for a control step.

        Raises:
            SpecMismatch: an action of another shape or with values that are not finite.
            RobopolicyError: no `reset` yet.
        """
        if self._last is None:
            raise RobopolicyError("Call reset() before step().")
        action = checked(action, self.robot_spec.action)
        observation, reward, _, _, info = self._env.step(np.clip(action, -1.0, 1.0))
        return self._observe(observation), float(reward), False, False, {"success": bool(info["success"])}

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture; the default camera is the task's `video_camera`."""
        return self._renderer.picture(self._env.data, camera or self.task.video_camera or "corner", size)

    def expert(self, seed: int, settings: Mapping[str, Any]) -> Expert:
        """The package's policy for this task; `settings` are the fields of `MetaworldExpertConfig`."""
        policy = self._policies[self.config.task]()
        return MetaworldExpert(self, policy, parse(MetaworldExpertConfig, settings, "expert"), seed)

    def get_state(self) -> np.ndarray:
        """MuJoCo's integration state and the last observation, float64 `[S]`, good within an episode."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._env.data, state, kind)
        return np.concatenate([state, self.full_observation])

    def set_state(self, state: np.ndarray) -> Observation:
        """Go to a state of the present episode; stepping on from it repeats the original exactly.

        Raises:
            SpecMismatch: a state of another size.
        """
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        size = mujoco.mj_stateSize(self._model, kind)
        if np.shape(state) != (size + _SIZE,):
            raise SpecMismatch(f"A state is [{size + _SIZE}] here, got {list(np.shape(state))}.")
        mujoco.mj_setState(self._model, self._env.data, np.ascontiguousarray(state[:size]), kind)
        mujoco.mj_forward(self._model, self._env.data)
        mujoco.mj_setState(self._model, self._env.data, np.ascontiguousarray(state[:size]), kind)
        observation = np.array(state[size:])
        self._env._prev_obs = observation[:18].copy()
        return self._observe(observation)

    @property
    def hand_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest place `[3]`, m, to which actions can send the hand."""
        return self._env.mocap_low, self._env.mocap_high

    @property
    def full_observation(self) -> np.ndarray:
        """Meta-World's own observation `[39]`, float64, as its policies expect it."""
        if self._last is None:
            raise RobopolicyError("Call reset() first.")
        return self._last

    def close(self) -> None:
        """Free the simulator and the OpenGL context, if there is one."""
        self._renderer.close()
        self._env.close()

    def _placed(self) -> np.ndarray:
        """The observation `[39]` of a fresh episode, with what stands on the table where it stands now.

        Meta-World's own shows windows, levers and drawers as they were before the reset moved them: its
        benchmark repeats each draw, and so does not notice.
        """
        import mujoco

        mujoco.mj_kinematics(self._model, self._env.data)
        self._env._get_obs()  # what the next one says of a step ago
        return np.array(self._env._get_obs())

    def _observe(self, observation: np.ndarray) -> Observation:
        self._last = observation
        found = {
            "robot-state": observation[_ROBOT].astype(np.float32),
            "object-state": observation[_OBJECT].astype(np.float32),
        }
        for camera in self.task.cameras:
            found[f"{camera}_image"] = self.render_frame(camera, self.task.image_size)
        return found


class MetaworldExpert:
    """One episode of a scripted policy, with a pace, a pause and a tremor of its own."""

    def __init__(self, env: MetaworldEnv, policy: Any, config: MetaworldExpertConfig, seed: int) -> None:
        self._env, self._policy = env, policy
        self._rng = seeding.rng(seed, "expert")
        self._noise, self._wander = config.noise, np.zeros(3)
        self._speed = float(self._rng.uniform(config.slowest, 1.0))
        pausing = self._rng.random() < config.pauses
        self._pause_from = int(self._rng.integers(3, 80)) if pausing else -100
        self._pause_until = self._pause_from + int(self._rng.integers(5, 16))
        self._step = 0
        self._grip = -1.0

    def act(self, observation: Observation) -> np.ndarray:
        """The next action `[4]`, float32."""
        del observation  # the policies read Meta-World's own
        self._step += 1
        if self._pause_from < self._step <= self._pause_until:
            return np.array([0.0, 0.0, 0.0, self._grip], np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its gains saturate, which is meant
            action = np.clip(self._policy.get_action(self._env.full_observation), -1.0, 1.0)
        fresh = self._rng.standard_normal(3)
        self._wander = _NOISE_MEMORY * self._wander + np.sqrt(1 - _NOISE_MEMORY**2) * fresh
        move = np.clip(action[:3] * self._speed + self._wander * self._noise, -1.0, 1.0)
        self._grip = float(action[3])
        return np.append(move, self._grip).astype(np.float32)


def _widened(box: spaces.Box, fraction: float) -> spaces.Box:
    """A box of points [3 or 6], x and y wider about their middles; heights stay."""
    extra = 0.5 * fraction * (box.high - box.low)
    extra[2::3] = 0.0
    return spaces.Box(box.low - extra, box.high + extra, dtype=np.float64) if extra.any() else box


def _upright_cameras(model: Any, data: Any) -> None:
    # The package's corner cameras are mounted upside down.
    for camera in range(model.ncam):
        fixed_in_world = model.cam_bodyid[camera] == 0
        if fixed_in_world and data.cam_xmat[camera].reshape(3, 3)[2, 1] < -0.1:
            w, x, y, z = model.cam_quat[camera]
            model.cam_quat[camera] = (-z, y, -x, w)  # rolled by half a turn about its line of sight


def _spec(images: Mapping[str, ObservationSpec], control_hz: float) -> Spec:
    robot = ObservationSpec(shape=(len(_ROBOT),), frame="world", group="proprioception")
    objects = ObservationSpec(shape=(len(_OBJECT),), frame="world", group="object")
    observations = {"robot-state": robot, "object-state": objects}
    observations.update(images)
    action = ActionSpec(
        names=("x", "y", "z", "gripper"),
        low=(-1.0,) * 4,
        high=(1.0,) * 4,
        representation="ee_delta",
        unit="1 cm",
        gripper="-1 open, +1 closed",
        parts=(
            ActionPart(kind="position", size=3, adds_to="robot-state", gain=0.01),
            ActionPart(kind="gripper", size=1),
        ),
    )
    return Spec(observations=observations, action=action, control_hz=control_hz)


@functools.cache
def _import_metaworld() -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise RobopolicyError(f"This task needs metaworld 3.0: {error}") from error
    return dict(ALL_V3_ENVIRONMENTS), dict(ENV_POLICY_MAP)
