"""A zenoh-bridge-ros2dds for the simulated arm: its DDS topics as keys of zenoh, on the loopback alone.

    python -m hardware.sim.zenoh_bridge --domain 7 --port 7447 --namespace bot1

The real one finds topics by itself; this one has those of `hardware.sim.ros2_arm`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from hardware.process import settings, ticks
from hardware.robots.streams import dds_name
from hardware.transport.dds import LATCHED, Participant, Quality, Reader
from hardware.transport.idl_ros import Bool, JointState, JointTrajectory, PoseStamped
from hardware.transport.topics import MALFORMED
from hardware.transport.zenoh import from_cdr, open_session, subscribe, zenoh

__all__ = ["FROM_ROBOT", "TO_ROBOT", "ZenohBridge", "ZenohBridgeSettings", "main"]

_ANY_WRITER = Quality(reliable=False)
FROM_ROBOT: dict[str, tuple[Any, Quality]] = {
    "joint_states": (JointState, _ANY_WRITER),
    "object_pose": (PoseStamped, _ANY_WRITER),
    "stop": (Bool, LATCHED),
}
TO_ROBOT: dict[str, Any] = {
    "arm_controller/joint_trajectory": JointTrajectory,
    "gripper_controller/joint_trajectory": JointTrajectory,
}
_LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ZenohBridgeSettings:
    """What `python -m hardware.sim.zenoh_bridge` can be told."""

    port: int = 7447
    namespace: str = ""


class ZenohBridge:
    """Carries bytes both ways until it is closed."""

    def __init__(self, config: ZenohBridgeSettings, participant: Participant) -> None:
        prefix = f"{config.namespace.strip('/')}/" if config.namespace.strip("/") else ""
        self.refused = 0
        self._ended = threading.Event()
        self._session = open_session(listen=[f"tcp/127.0.0.1:{config.port}"])
        self._threads = [
            self._carry(
                participant.reader(dds_name(name), kind, quality), self._publisher(prefix + name, quality)
            )
            for name, (kind, quality) in FROM_ROBOT.items()
        ]
        self._subscriptions = [
            subscribe(self._session, prefix + name, self._into(participant, name, kind))
            for name, kind in TO_ROBOT.items()
        ]

    def close(self) -> None:
        """Leave both sides."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _publisher(self, key: str, quality: Quality) -> Any:
        elsewhere = zenoh.Locality.REMOTE
        if not quality.latched:
            return self._session.declare_publisher(key, express=True, allowed_destination=elsewhere)
        cache = zenoh.ext.CacheConfig(max_samples=quality.depth)
        return zenoh.ext.declare_advanced_publisher(
            self._session, key, cache=cache, publisher_detection=True, allowed_destination=elsewhere
        )

    def _carry(self, reader: Reader[Any], publisher: Any) -> threading.Thread:
        def carry() -> None:
            while not self._ended.is_set():
                if reader.wait(_LOOK_S):
                    for message in reader.take():
                        publisher.put(message.serialize())

        thread = threading.Thread(target=carry, daemon=True)
        thread.start()
        return thread

    def _into(self, participant: Participant, name: str, kind: Any) -> Callable[[bytes], None]:
        writer = participant.writer(dds_name(name), kind)

        def write(data: bytes) -> None:
            try:
                writer.write(from_cdr(kind, data))
            except MALFORMED:
                self.refused += 1

        return write


def main() -> None:
    """Carry until told to end."""
    config, network = settings(ZenohBridgeSettings, "A zenoh bridge for the simulated arm.")
    with Participant(network) as participant, ZenohBridge(config, participant):
        for _ in ticks(round(1e9 * _LOOK_S)):
            pass


if __name__ == "__main__":
    main()
