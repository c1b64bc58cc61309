"""The simulated zenoh bridge: what is latched waits for late peers, and garbage stays outside."""

from __future__ import annotations

import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
pytest.importorskip("zenoh", reason="zenoh is the extra robopolicy[zenoh]")

from hardware.sim.zenoh_bridge import ZenohBridge, ZenohBridgeSettings
from hardware.transport.dds import LATCHED, Participant
from hardware.transport.idl_ros import Bool, JointTrajectory
from hardware.transport.route import Zenoh
from hardware.transport.zenoh import ZenohParticipant, open_session
from tests.hardware.wire import eventually, free_network, free_port

COMMANDS = "rt/arm_controller/joint_trajectory"


@pytest.mark.parametrize("namespace", ["", "/bot1"])
def test_both_directions_and_what_is_latched(namespace: str) -> None:
    port, network = free_port(), free_network()
    settings = ZenohBridgeSettings(port=port, namespace=namespace)
    with (
        Participant(network) as robot,
        Participant(network) as inside,
        ZenohBridge(settings, inside) as bridge,
    ):
        robot.writer("rt/stop", Bool, LATCHED).write(Bool(True))
        commands = robot.reader(COMMANDS, JointTrajectory)
        commands.wait_matched(20.0)
        way = Zenoh(connect=(f"tcp/127.0.0.1:{port}",), namespace=namespace)
        with ZenohParticipant(way) as participant:
            stops = participant.reader("rt/stop", Bool, LATCHED)
            assert stops.wait(20.0)
            assert stops.take() == [Bool(True)]
            writer = participant.writer(COMMANDS, JointTrajectory)
            writer.wait_matched(20.0)
            writer.write(JointTrajectory(joint_names=["a"]))
            assert commands.wait(20.0)
            assert commands.take() == [JointTrajectory(joint_names=["a"])]
        assert bridge.refused == 0


def test_garbage_stays_outside() -> None:
    port, network = free_port(), free_network()
    with (
        Participant(network) as robot,
        Participant(network) as inside,
        ZenohBridge(ZenohBridgeSettings(port=port), inside) as bridge,
        open_session(connect=[f"tcp/127.0.0.1:{port}"]) as session,
    ):
        commands = robot.reader(COMMANDS, JointTrajectory)
        commands.wait_matched(20.0)
        publisher = session.declare_publisher("arm_controller/joint_trajectory")
        eventually(lambda: publisher.matching_status.matching)  # type: ignore[attr-defined]
        for data in (b"", b"\0\1\0\0\1", b"\xff" * 50):
            publisher.put(data)
        publisher.put(JointTrajectory(joint_names=["last"]).serialize())
        assert commands.wait(20.0)
        assert [m.joint_names for m in commands.take()] == [["last"]]
        assert bridge.refused == 3
