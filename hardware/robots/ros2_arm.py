"""Any arm with a ROS 2 joint-trajectory controller: docs/ros2.md says how to set one up.

Every tick sends a trajectory of two points: the guarded target, `lead_s` ahead, with its velocity; and where
braking from there ends. So a lost link, a killed process or a late tick brakes the arm by itself, within its
acceleration limits, and the controller always has two velocities to join by a cubic.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.messages import Command, Observation
from hardware.robot import Robot, RobotError
from hardware.robots.streams import Streams, dds_name
from hardware.spec import RobotSpec
from hardware.transport.clock import SourceClock
from hardware.transport.network import Network
from hardware.transport.route import join, route
from hardware.transport.topics import TopicTimeout
from robopolicy.errors import ConfigError
from robopolicy.registry import register

if TYPE_CHECKING:
    from hardware.transport.idl_ros import Bool, JointState, JointTrajectory
    from hardware.transport.topics import Participant, Reader, Writer

__all__ = ["Ros2Arm", "Ros2ArmConfig"]

_CLOCK_JUMP_NS = 1_000_000_000
_SHORTEST_BRAKING_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Ros2ArmConfig:
    """Topics of the arm."""

    network: Network = field(default_factory=Network)
    """Where DDS looks for the robot."""
    transport: Mapping[str, Any] = field(default_factory=lambda: {"name": "dds"})
    """Or through a bridge: ``{name: rosbridge, url: ws://robot:9090}``, ``{name: zenoh, connect: [...]}``."""
    joint_states: str = "/joint_states"
    trajectory: str = "/arm_controller/joint_trajectory"
    lead_s: float = 0.02
    """How far ahead a target lies: two control periods keep the controller's motion smooth."""
    stamped: bool = True
    """Trajectories say when they start. False ("start on arrival") if the robot's clock is not ours."""
    stop: str = "/stop"
    """std_msgs/Bool, latched: true latches a stop here; arming is refused until it is false."""
    gripper_trajectory: str = "/gripper_controller/joint_trajectory"
    gripper_joint: str = "panda_finger_joint1"
    gripper_opening: float = 2.0
    """Opening in metres per unit of `gripper_joint`."""
    poses: Mapping[str, str] = field(default_factory=dict)
    """Name to topic of geometry_msgs/PoseStamped, e.g. ``{object: /object_pose}``."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Name to topic of sensor_msgs/Image."""

    def __post_init__(self) -> None:
        if not 0 < self.lead_s < 1:
            raise ConfigError(f"lead_s is between 0 and 1 s, got {self.lead_s}.")
        if not self.gripper_opening > 0:
            raise ConfigError(f"gripper_opening must be positive, got {self.gripper_opening}.")
        object.__setattr__(self, "transport", dict(self.transport))
        object.__setattr__(self, "poses", dict(self.poses))
        object.__setattr__(self, "images", dict(self.images))


@register("driver", "ros2_arm")
class Ros2Arm(Robot):
    """Joint trajectories out, joint states in."""

    def __init__(self, config: Ros2ArmConfig, *, spec: RobotSpec, **context: Any) -> None:
        super().__init__(spec, **context)
        self.config = config
        if spec.interface != "position":
            raise ConfigError(f"robot {spec.name}: a ros2_arm has interface=position, got {spec.interface}.")
        self._route = route(config.transport, config.network)
        self._braking = spec.guard.acceleration_fraction * spec.array("acc")
        self._participant: Participant | None = None

    def _open(self, timeout_s: float) -> None:
        from hardware.transport.dds import LATCHED, RELIABLE
        from hardware.transport.idl_ros import Bool, JointState, JointTrajectory

        config, deadline = self.config, time.monotonic() + timeout_s
        participant = join(self._route)
        self._participant = participant
        self._states: Reader[JointState] = participant.reader(
            dds_name(config.joint_states), JointState, RELIABLE
        )
        self._stops: Reader[Bool] = participant.reader(dds_name(config.stop), Bool, LATCHED)
        self._writer: Writer[JointTrajectory] = participant.writer(
            dds_name(config.trajectory), JointTrajectory
        )
        self._gripper_writer: Writer[JointTrajectory] | None = (
            participant.writer(dds_name(config.gripper_trajectory), JointTrajectory)
            if self.spec.gripper
            else None
        )
        self._streams = Streams(participant, dict(config.poses), dict(config.images))
        self._clock_of_robot = SourceClock()
        self._seq, self._stamp = 0, 0
        self._seen: set[str] = set()
        self._opening: float | None = None
        self._sent_opening: float | None = None
        self._stop_asked = False
        self._first: Observation | None = None
        try:
            for endpoint in (self._states, self._writer, self._gripper_writer):
                if endpoint is not None:
                    endpoint.wait_matched(max(0.0, deadline - time.monotonic()))
        except TopicTimeout as error:
            self._close()
            raise RobotError(f"{self.spec.name} does not answer: {error}") from error
        while self._first is None:
            self._first = self._receive(0.05)
            if self._first is None and time.monotonic() > deadline:
                missing = sorted(set(self._expected()) - self._seen)
                self._close()
                raise RobotError(
                    f"{self.spec.name}: {config.joint_states} lacks joints {missing}; "
                    f"it has {sorted(self._seen)}."
                )

    def _receive(self, timeout_s: float) -> Observation | None:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        self._heed_stops()
        return self._states.newest(timeout_s, self._observation, lambda: self._reject("malformed"))

    def _observation(self, message: JointState) -> Observation | None:
        received, n = self._clock(), len(message.name)
        # Efforts are left out by many drivers.
        efforts = message.effort or [0.0] * n
        if not n == len(message.position) == len(message.velocity) == len(efforts):
            self._reject("shape")
            return None
        self._seen.update(message.name)
        index = {name: i for i, name in enumerate(message.name)}
        values = np.array([message.position, message.velocity, efforts])
        if not np.isfinite(values).all():
            self._reject("finite")
            return None
        if self.spec.gripper and self.config.gripper_joint in index:
            self._opening = self.config.gripper_opening * message.position[index[self.config.gripper_joint]]
        if any(name not in index for name in self.spec.names):
            return None  # of another broadcaster on the same topic
        if self.spec.gripper and self._opening is None:
            return None
        stamp = message.header.stamp.ns
        if stamp == self._stamp:
            return None  # a copy: networks make them
        if 0 < self._stamp - stamp < _CLOCK_JUMP_NS:
            self._reject("order")
            return None
        if stamp < self._stamp:
            self._clock_of_robot = SourceClock()  # the robot's clock was set back
        self._stamp = stamp
        # A message may have waited in the queue, so taking it is no sign that it is fresh.
        t_ns = self._clock_of_robot.update(stamp, received)
        self._seq += 1
        q, dq, tau = values[:, [index[name] for name in self.spec.names]]
        return Observation(
            seq=self._seq,
            t_ns=t_ns,
            t_src_ns=t_ns,
            q=q,
            dq=dq,
            tau=tau,
            gripper=self._opening,
            streams=self._streams.read(self._clock_of_robot.convert),
        )

    def _enable(self) -> None:
        if self._stop_asked:
            raise RobotError(f"{self.spec.name} cannot arm: {self.config.stop} says stop.")

    def _send(self, command: Command) -> None:
        from hardware.transport.idl_ros import Duration, Header, JointTrajectory, JointTrajectoryPoint, Time

        assert command.q is not None
        assert command.dq is not None
        lead = int(1e9 * self.config.lead_s)
        braking_s = max(_SHORTEST_BRAKING_S, float(np.max(np.abs(command.dq) / self._braking)))
        stop_at = command.q + 0.5 * braking_s * command.dq
        header = Header(Time.from_ns(time.time_ns() if self.config.stamped else 0))
        self._writer.write(
            JointTrajectory(
                header,
                list(self.spec.names),
                [
                    JointTrajectoryPoint(
                        positions=command.q.tolist(),
                        velocities=command.dq.tolist(),
                        time_from_start=Duration.from_ns(lead),
                    ),
                    JointTrajectoryPoint(
                        positions=stop_at.tolist(),
                        velocities=[0.0] * self.spec.size,
                        time_from_start=Duration.from_ns(lead + int(1e9 * braking_s)),
                    ),
                ],
            )
        )
        opening = command.gripper
        if self._gripper_writer is not None and opening is not None and opening != self._sent_opening:
            self._sent_opening = opening
            finger = JointTrajectoryPoint(
                positions=[opening / self.config.gripper_opening], time_from_start=Duration.from_ns(lead)
            )
            self._gripper_writer.write(JointTrajectory(header, [self.config.gripper_joint], [finger]))

    def _close(self) -> None:
        if self._participant is None:
            return
        self._participant.close()
        self._participant = None

    def _expected(self) -> list[str]:
        return [*self.spec.names, *([self.config.gripper_joint] if self.spec.gripper else [])]

    def _heed_stops(self) -> None:
        for message in self._stops.take():
            self._stop_asked = message.data
            if message.data:
                self._fault(f"{self.config.stop} says stop")
