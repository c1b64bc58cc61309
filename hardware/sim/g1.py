"""A simulated Unitree G1 on the wire of the real one.

    python -m hardware.sim.g1 --domain 7
    python -m hardware.sim.g1 --domain 7 --task g1_box        # with a table and a box, see g1_task.py

LowState at 500 Hz with checksum; LowCmd and arm_sdk, checked; the services `sport` and `motion_switcher`. As
on the robot, its own controller runs until MotionSwitcher releases it: it stands, walks at the velocities it
is told for as long as they last, and blends in the arm overlay. Once released, joints follow LowCmd; when
none arrives for `--timeout` seconds they are damped.

PD is computed at every physics step, 2000 times a second. By default the pelvis hangs on a gantry that
carries it along when it walks; with `--no-hung` it is on its feet, and only the commands keep it standing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from hardware.models import model_path
from hardware.process import settings, ticks
from hardware.robots.unitree_g1 import MOTORS, WEIGHT_SLOT
from hardware.robots.unitree_rpc import (
    CHECK_MODE,
    DAMP,
    GET_FSM,
    NOT_IMPLEMENTED,
    RELEASE_MODE,
    SELECT_MODE,
    SET_FSM,
    SET_VELOCITY,
    START,
    ZERO_TORQUE,
)
from hardware.transport.dds import RELIABLE, SENSOR, STATE, Participant
from hardware.transport.idl_unitree import LowCmd, LowState, Request, Response, ResponseHeader, ResponseStatus
from hardware.transport.network import Network
from robopolicy.errors import ConfigError

if TYPE_CHECKING:
    from hardware.sim.g1_task import G1Task

__all__ = [
    "JUDGE_HZ",
    "MODE_MACHINE",
    "STATE_HZ",
    "SUBSTEPS",
    "G1Settings",
    "SimulatedG1",
    "Targets",
    "main",
    "run",
]

STATE_HZ = 500
SUBSTEPS = 4
"""PD runs at 2 kHz: at 500 Hz the damping of a stop would be unstable on the light wrists."""
JUDGE_HZ = 10
MODE_MACHINE = 5
_N = len(MOTORS)
_WAIST = 12
_DAMPING = 3.0
_STANCE = {
    "hip_pitch": -0.1,
    "knee": 0.3,
    "ankle_pitch": -0.2,
    "shoulder_pitch": 0.2,
    "left_shoulder_roll": 0.2,
    "right_shoulder_roll": -0.2,
    "elbow": 0.6,
}
_STIFF = {"hip": 150.0, "knee": 200.0, "ankle": 60.0, "waist": 200.0, "wrist": 20.0, "": 60.0}


@dataclass(frozen=True, kw_only=True)
class G1Settings:
    """What `python -m hardware.sim.g1` can be told."""

    hung: bool = True
    timeout: float = 0.1
    """Seconds without a LowCmd until the joints are damped."""
    task: str = ""
    """g1_reach or g1_box: what is around the robot. Nothing by default."""
    pose_hz: float = 20.0
    pose_noise: float = 0.0
    pose_delay: float = 0.0

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ConfigError(f"timeout must be positive, got {self.timeout}.")
        if self.task and not self.hung:
            raise ConfigError("A task needs a robot whose pelvis is held: hung.")


class Targets:
    """One command, ready to be evaluated at every physics step."""

    def __init__(self, command: LowCmd, received_ns: int) -> None:
        self.received_ns = received_ns
        motors = command.motors[:_N]
        names = ("q", "dq", "tau", "kp", "kd")
        self._q, self._dq, self._tau, self._kp, self._kd = (motors[name].astype(np.float64) for name in names)
        self._on = motors["mode"] == 1
        self.weight = float(np.clip(command.motors["q"][WEIGHT_SLOT], 0.0, 1.0))

    def age(self, now_ns: int) -> float:
        """Seconds since it arrived."""
        return 1e-9 * (now_ns - self.received_ns)

    def torque(self, q: np.ndarray, dq: np.ndarray) -> np.ndarray:
        """N m `[29]` at these positions and velocities."""
        return self._on * (self._kp * (self._q - q) + self._kd * (self._dq - dq) + self._tau)


class SimulatedG1:
    """The robot, its own controller and the topics."""

    def __init__(self, config: G1Settings, participant: Participant) -> None:
        self.config = config
        self.task = _task(config, participant)
        self.model = _scene(config.hung, self.task)
        self.data = mujoco.MjData(self.model)
        self._q = np.array([self.model.joint(name).qposadr[0] for name in MOTORS])
        self._v = np.array([self.model.joint(name).dofadr[0] for name in MOTORS])
        self._stance = np.array([_pick(_STANCE, name) for name in MOTORS])
        self._stiffness = np.array([_pick(_STIFF, name) for name in MOTORS])
        self._held = self._stance
        self.data.qpos[self._q] = self._stance
        mujoco.mj_forward(self.model, self.data)
        self.mode, self.fsm = "ai", START
        self.ignored = {"mode_machine": 0, "mode": 0}
        """Commands that were whole, but for another robot or another mode."""
        self._low: Targets | None = None
        self._overlay: Targets | None = None
        self._velocity, self._velocity_until = np.zeros(3), 0
        self._tick = 0
        self._state = LowState()
        self._low_commands = participant.reader("rt/lowcmd", LowCmd, SENSOR)
        self._overlays = participant.reader("rt/arm_sdk", LowCmd, SENSOR)
        self._states = participant.writer("rt/lowstate", LowState, STATE)
        self._services = [
            (
                participant.reader(f"rt/api/{name}/request", Request, RELIABLE),
                participant.writer(f"rt/api/{name}/response", Response, RELIABLE),
                answer,
            )
            for name, answer in (("sport", self._sport), ("motion_switcher", self._switch))
        ]
        if self.task is not None:
            self._begin(self.task, 0)

    @property
    def rejected(self) -> int:
        """Commands dropped for their checksum or size."""
        return self._low_commands.rejected + self._overlays.rejected

    def step(self, now_ns: int) -> None:
        """Take what has arrived, advance by 2 ms, publish; `now_ns` is any clock's time."""
        self._serve(now_ns)
        if self.task is not None and (seed := self.task.asked) is not None:
            self._begin(self.task, seed)
        self._low = self._newest(self._low_commands.take(), now_ns, self._low, wanted=self.mode == "")
        self._overlay = self._newest(self._overlays.take(), now_ns, self._overlay, wanted=self.mode != "")
        if self.config.hung:
            self._carry(now_ns)
        torque = self._released if self.mode == "" else self._own
        for _ in range(SUBSTEPS):
            self.data.ctrl[:] = torque(now_ns, self.data.qpos[self._q], self.data.qvel[self._v])
            mujoco.mj_step(self.model, self.data)
        self._tick += 1
        self._publish()
        if self.task is not None:
            mujoco.mj_kinematics(self.model, self.data)
            self.task.tell(now_ns, self.data)
            if self._tick % (STATE_HZ // JUDGE_HZ) == 0:
                upper = slice(_WAIST, None)
                self.task.judge(self.data.qpos[self._q[upper]], self.data.qvel[self._v[upper]], self.data)

    def _begin(self, task: G1Task, seed: int) -> None:
        """Jump to the first pose of an episode, which the robot's own controller holds against gravity."""
        data = self.data
        mujoco.mj_resetData(self.model, data)
        data.qpos[self._q] = self._stance
        data.qpos[self._q[_WAIST:]] = task.begin(seed, data)
        mujoco.mj_forward(self.model, data)
        self._held = data.qpos[self._q] + data.qfrc_bias[self._v] / self._stiffness
        for reader in (self._low_commands, self._overlays):
            reader.take()  # what was meant for the last episode
        self._low = self._overlay = None
        self.mode, self.fsm = "ai", START
        task.begun(seed)

    def _newest(
        self, messages: list[LowCmd], now_ns: int, last: Targets | None, *, wanted: bool
    ) -> Targets | None:
        for message in messages:
            if message.record["mode_machine"] != MODE_MACHINE:
                self.ignored["mode_machine"] += 1
            elif not wanted:
                self.ignored["mode"] += 1
            else:
                last = Targets(message, now_ns)
        return last

    def _released(self, now_ns: int, q: np.ndarray, dq: np.ndarray) -> np.ndarray:
        if self._low is None or self._low.age(now_ns) > self.config.timeout:
            return -_DAMPING * dq
        return self._low.torque(q, dq)

    def _own(self, now_ns: int, q: np.ndarray, dq: np.ndarray) -> np.ndarray:
        if self.fsm == ZERO_TORQUE:
            return np.zeros(_N)
        if self.fsm == DAMP:
            return -_DAMPING * dq
        own = self._stiffness * (self._held - q) - 0.03 * self._stiffness * dq
        overlay = self._overlay
        if overlay is None or overlay.age(now_ns) > self.config.timeout:
            return own
        own[_WAIST:] += overlay.weight * (overlay.torque(q, dq) - own)[_WAIST:]
        return own

    def _carry(self, now_ns: int) -> None:
        """Move the gantry by the velocity in force, which is in the pelvis' frame."""
        if self.mode == "" or self.fsm != START or now_ns > self._velocity_until:
            return
        forward, left, turn = self._velocity / STATE_HZ
        w, _, _, z = self.data.mocap_quat[0]
        yaw = 2.0 * np.arctan2(z, w)
        cosine, sine = np.cos(yaw), np.sin(yaw)
        self.data.mocap_pos[0, :2] += cosine * forward - sine * left, sine * forward + cosine * left
        self.data.mocap_quat[0] = np.cos(0.5 * (yaw + turn)), 0.0, 0.0, np.sin(0.5 * (yaw + turn))

    def _publish(self) -> None:
        record, motors, data = self._state.record, self._state.motors, self.data
        record["mode_machine"] = MODE_MACHINE
        record["tick"] = 2 * self._tick
        motors["mode"][:_N] = 1
        motors["q"][:_N], motors["dq"][:_N] = data.qpos[self._q], data.qvel[self._v]
        motors["ddq"][:_N] = data.qacc[self._v]
        motors["tau_est"][:_N] = data.actuator_force
        motors["temperature"][:_N] = 35
        imu = record["imu_state"]
        for name in ("quaternion", "gyroscope", "accelerometer"):
            imu[name] = data.sensor(name).data
        self._states.write(self._state)

    def _serve(self, now_ns: int) -> None:
        for requests, responses, answer in self._services:
            for request in requests.take():
                code, result = _safely(answer, request, now_ns)
                if not request.header.policy.noreply:
                    header = ResponseHeader(request.header.identity, ResponseStatus(code))
                    responses.write(Response(header, json.dumps(result) if result is not None else ""))

    def _sport(self, function: int, arguments: dict[str, Any], now_ns: int) -> tuple[int, Any]:
        if function == GET_FSM:
            return 0, {"data": self.fsm}
        if function == SET_FSM:
            self.fsm = int(arguments["data"])
            return 0, None
        if function == SET_VELOCITY:
            self._velocity = np.array(arguments["velocity"], np.float64).reshape(3)
            self._velocity_until = now_ns + int(1e9 * float(arguments.get("duration", 1.0)))
            return 0, None
        return NOT_IMPLEMENTED, None

    def _switch(self, function: int, arguments: dict[str, Any], now_ns: int) -> tuple[int, Any]:
        if function == CHECK_MODE:
            return 0, {"name": self.mode, "form": "0"}
        if function in (SELECT_MODE, RELEASE_MODE):
            self.mode = str(arguments["name"]) if function == SELECT_MODE else ""
            self._low = self._overlay = None
            return 0, None
        return NOT_IMPLEMENTED, None


def _safely(
    answer: Callable[[int, dict[str, Any], int], tuple[int, Any]], request: Request, now_ns: int
) -> tuple[int, Any]:
    try:
        arguments = json.loads(request.parameter) if request.parameter else {}
        return answer(request.header.identity.api_id, arguments, now_ns)
    except (ValueError, KeyError, TypeError, AttributeError):
        return 3201, None  # malformed arguments


def _task(config: G1Settings, participant: Participant) -> G1Task | None:
    if not config.task:
        return None
    from hardware.sim.g1_task import G1Task
    from hardware.sim.perception import PerceptionConfig

    perception = PerceptionConfig(hz=config.pose_hz, noise=config.pose_noise, delay_s=config.pose_delay)
    return G1Task(config.task, participant, perception)


def _scene(hung: bool, task: G1Task | None) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(model_path("g1.xml")))
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 0.1])
    pelvis = spec.body("pelvis")
    pelvis.pos = [0.0, 0.0, 1.0 if hung else 0.79]
    if hung:
        spec.delete(spec.joint("floating_base_joint"))
        pelvis.mocap = True
    if task is not None:
        task.furnish(spec, np.array(pelvis.pos))
    spec.option.timestep = 1.0 / (STATE_HZ * SUBSTEPS)
    return spec.compile()


def _pick(values: dict[str, float], name: str) -> float:
    return next((value for part, value in values.items() if part in name), 0.0)


def main() -> None:
    """Simulate until told to end."""
    config, network = settings(G1Settings, "A simulated Unitree G1 on its DDS topics.")
    run(config, network)


def run(config: G1Settings, network: Network) -> None:
    """Simulate in real time until the process is told to end."""
    with Participant(network) as participant:
        robot = SimulatedG1(config, participant)
        for now_ns in ticks(1_000_000_000 // STATE_HZ):
            robot.step(now_ns)


if __name__ == "__main__":
    main()
