"""A simulated Franka Panda behind the ROS 2 topics of a joint-trajectory controller.

    python -m hardware.sim.ros2_arm --domain 7 --task lift --pose-noise 0.005 --pose-delay 0.05

| topic | type | |
|---|---|---|
| /joint_states | sensor_msgs/JointState | arm and fingers, at `--state-hz` |
| /object_pose | geometry_msgs/PoseStamped | the task's object in the world frame, as `Perception` says |
| /arm_controller/joint_trajectory | trajectory_msgs/JointTrajectory | followed as ros2_controllers would |
| /gripper_controller/joint_trajectory | trajectory_msgs/JointTrajectory | panda_finger_joint1, 0 to 0.04 m |
| /stop | std_msgs/Bool | true: brake and refuse trajectories; false: take them again |
| /sim/reset | std_msgs/Int64 | begin the episode of a seed; /sim/episode answers with it |
| /sim/success | std_msgs/Bool | whether the task is solved |
| /sim/scene | sensor_msgs/JointState | every coordinate of the scene, for `hardware.sim.camera` |

The scene is the robosuite task's, stepped in real time at 500 Hz, every step with the torques that make the
arm follow: computed torque, within the motors' limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import yaml

import envs  # noqa: F401  registers the environments
from hardware.process import settings, ticks
from hardware.sim.joint_trajectory import JointTrajectoryController
from hardware.sim.perception import Perception, PerceptionConfig
from hardware.transport.dds import LATCHED, RELIABLE, STATE, Participant
from hardware.transport.idl_ros import Bool, Header, Int64, JointState, JointTrajectory, Time
from hardware.transport.network import Network
from robopolicy import registry
from robopolicy.compose import config_directory
from robopolicy.errors import ConfigError, unknown
from robopolicy.task import Task

__all__ = ["ARM", "FINGER", "PHYSICS_HZ", "ArmSettings", "SimulatedArm", "load_task", "main", "run"]

ARM = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER = "panda_finger_joint1"
PHYSICS_HZ = 500
# Closed-loop stiffness and damping per unit of inertia: critically damped, 8 Hz.
_STIFFNESS, _DAMPING = 2500.0, 100.0


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """What `python -m hardware.sim.ros2_arm` can be told."""

    task: str = "lift"
    seed: int = 0
    state_hz: int = 250
    pose_hz: float = 20.0
    pose_noise: float = 0.0
    pose_delay: float = 0.0
    camera_hz: float = 0.0
    """How often the scene is told to `hardware.sim.camera`; 0: never."""

    def __post_init__(self) -> None:
        if self.state_hz < 1 or PHYSICS_HZ % self.state_hz:
            raise ConfigError(f"state_hz must divide {PHYSICS_HZ}, got {self.state_hz}.")
        if not 0 <= self.camera_hz <= self.state_hz:
            raise ConfigError(f"camera_hz is between 0 and {self.state_hz}, got {self.camera_hz}.")


class SimulatedArm:
    """The scene, the two controllers and the topics; `step` is one physics step."""

    def __init__(self, config: ArmSettings, participant: Participant) -> None:
        self.config = config
        self._env = registry.build("env", (task := load_task(config.task)).env, task=task)
        self._env.reset(seed=config.seed)
        self._model, self._data = self._env.simulation
        model = self._model
        self._q = np.array([model.joint(f"robot0_joint{i}").qposadr[0] for i in range(1, 8)])
        self._v = np.array([model.joint(f"robot0_joint{i}").dofadr[0] for i in range(1, 8)])
        self._arm_ctrl = np.array([model.actuator(f"robot0_torq_j{i}").id for i in range(1, 8)])
        fingers = [f"gripper0_right_finger_joint{i}" for i in (1, 2)]
        self._fingers = np.array([model.joint(name).qposadr[0] for name in fingers])
        self._finger_v = np.array([model.joint(name).dofadr[0] for name in fingers])
        self._finger_ctrl = np.array(
            [model.actuator(f"gripper0_right_gripper_finger_joint{i}").id for i in (1, 2)]
        )
        self._low, self._high = model.actuator_ctrlrange[self._arm_ctrl].T.copy()
        self._mass = np.zeros((model.nv, model.nv))
        self.arm = JointTrajectoryController(ARM, self._data.qpos[self._q])
        self.gripper = JointTrajectoryController((FINGER,), self._data.qpos[self._fingers[:1]])
        self.refused = 0
        self._stopped = False
        self._steps = 0
        self._trajectories = participant.reader(
            "rt/arm_controller/joint_trajectory", JointTrajectory, RELIABLE
        )
        self._grips = participant.reader("rt/gripper_controller/joint_trajectory", JointTrajectory, RELIABLE)
        self._stops = participant.reader("rt/stop", Bool, LATCHED)
        self._resets = participant.reader("rt/sim/reset", Int64, STATE)
        self._states = participant.writer("rt/joint_states", JointState)
        self._episode = participant.writer("rt/sim/episode", Int64, LATCHED)
        self._success = participant.writer("rt/sim/success", Bool, STATE)
        self._scene = participant.writer("rt/sim/scene", JointState, STATE) if config.camera_hz else None
        self._scene_due = 0
        perception = PerceptionConfig(hz=config.pose_hz, noise=config.pose_noise, delay_s=config.pose_delay)
        self._perception = Perception(participant, "rt/object_pose", "world", perception)
        self._object = self._env.object_body
        self._perception.reset(config.seed)
        self._episode.write(Int64(config.seed))

    def step(self, now_ns: int) -> None:
        """Take what has arrived, advance by 2 ms and publish what is due; `now_ns` is wall-clock time."""
        self._listen(now_ns)
        model, data = self._model, self._data
        q, dq = self.arm.sample(now_ns)
        opening, _ = self.gripper.sample(now_ns)
        mujoco.mj_step1(model, data)
        mujoco.mj_fullM(model, self._mass, data.qM)
        wanted = _STIFFNESS * (q - data.qpos[self._q]) + _DAMPING * (dq - data.qvel[self._v])
        torque = self._mass[np.ix_(self._v, self._v)] @ wanted + data.qfrc_bias[self._v]
        # robosuite damps joints so much that the last one could not reach half of the Panda's speed.
        data.qfrc_applied[self._v] = -data.qfrc_passive[self._v]
        data.ctrl[self._arm_ctrl] = np.clip(torque, self._low, self._high)
        data.ctrl[self._finger_ctrl] = opening[0], -opening[0]
        mujoco.mj_step2(model, data)
        self._steps += 1
        if self._steps % (PHYSICS_HZ // self.config.state_hz) == 0:
            self._publish(now_ns + 1_000_000_000 // PHYSICS_HZ)

    def _listen(self, now_ns: int) -> None:
        for asked in self._resets.take():
            self._reset(asked.data)
        for stop in self._stops.take():
            self._stopped = stop.data
            if stop.data:
                self.arm.stop(now_ns)
                self.gripper.stop(now_ns)
        for reader, controller in ((self._trajectories, self.arm), (self._grips, self.gripper)):
            for trajectory in reader.take():
                why = "stopped" if self._stopped else controller.accept(trajectory, now_ns)
                if why:
                    self.refused += 1
                    if self.refused <= 10:
                        print(f"refused a trajectory: {why}", flush=True)

    def _reset(self, seed: int) -> None:
        self._env.reset(seed=seed)
        self.arm.reset(self._data.qpos[self._q])
        self.gripper.reset(self._data.qpos[self._fingers[:1]])
        self._perception.reset(seed)
        for reader in (self._trajectories, self._grips):
            reader.take()
        self._episode.write(Int64(seed))

    def _publish(self, now_ns: int) -> None:
        data = self._data
        mujoco.mj_kinematics(self._model, data)
        positions = np.concatenate([data.qpos[self._q], np.abs(data.qpos[self._fingers])])
        velocities = np.concatenate([data.qvel[self._v], [1, -1] * data.qvel[self._finger_v]])
        efforts = np.concatenate([data.qfrc_actuator[self._v], [1, -1] * data.qfrc_actuator[self._finger_v]])
        self._states.write(
            JointState(
                Header(Time.from_ns(now_ns), "world"),
                [*ARM, FINGER, "panda_finger_joint2"],
                positions.tolist(),
                velocities.tolist(),
                efforts.tolist(),
            )
        )
        self._perception.update(now_ns, data.xpos[self._object], data.xquat[self._object])
        if self._scene is not None and now_ns >= self._scene_due:
            period = int(1e9 / self.config.camera_hz)
            self._scene_due = max(self._scene_due + period, now_ns - period)
            self._scene.write(JointState(Header(Time.from_ns(now_ns)), position=data.qpos.tolist()))
        if self._steps % (PHYSICS_HZ // 10) == 0:
            self._success.write(Bool(self._solved()))

    def _solved(self) -> bool:
        return bool(self._env._suite._check_success())


def load_task(name: str) -> Task:
    """The task of ``configs/task/<name>.yaml``.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    directory: Path = config_directory() / "task"
    path = directory / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(unknown("task", name, (p.stem for p in directory.glob("*.yaml"))))
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    return Task.from_dict(values)


def main() -> None:
    """Simulate until told to end."""
    config, network = settings(ArmSettings, "A simulated Franka Panda on ROS 2 topics.")
    run(config, network)


def run(config: ArmSettings, network: Network) -> None:
    """Simulate in real time until the process is told to end."""
    with Participant(network) as participant:
        arm = SimulatedArm(config, participant)
        for now_ns in ticks(1_000_000_000 // PHYSICS_HZ):
            arm.step(now_ns)


if __name__ == "__main__":
    main()
