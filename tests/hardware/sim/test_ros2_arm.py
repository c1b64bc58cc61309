"""The simulated Panda and the driver, in two processes, over DDS on the loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.messages import Command
from hardware.process import Simulated
from hardware.robot import Robot, make_robot
from hardware.robots.streams import Measured, image_of
from hardware.sim.client import Scene
from hardware.sim.ros2_arm import load_task
from hardware.spec import LifeState, RobotSpec
from hardware.transport.dds import SENSOR, Participant
from hardware.transport.idl_ros import Image
from hardware.transport.network import Network
from robopolicy import registry
from robopolicy.errors import RobopolicyError
from tests.hardware.wire import free_network

pytestmark = pytest.mark.sim

NOISE, DELAY = 0.005, 0.05


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = free_network()
    options = {
        "domain": network.domain,
        "pose-noise": NOISE,
        "pose-delay": DELAY,
        "pose-hz": 50,
        "seed": 4,
        "camera-hz": 10,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with Simulated("hardware.sim.ros2_arm", *arguments):
        yield network


@pytest.fixture
def robot(network: Network) -> Iterator[Robot]:
    spec = RobotSpec.load("panda_sim")
    driver = {**spec.driver, "network": {"domain": network.domain}, "poses": {"object": "/object_pose"}}
    robot = make_robot(spec.replace(driver=driver, arm_ramp_s=0.05, cmd_timeout_s=0.3, obs_timeout_s=0.3))
    yield robot
    robot.close()


def follow(
    robot: Robot, q: np.ndarray, seconds: float, gripper: float | None = None
) -> list[tuple[Command, np.ndarray]]:
    """Command one target for a while; what was sent beside what was measured."""
    rows = []
    due = time.monotonic()
    for _ in range(round(seconds * robot.spec.control_hz)):
        now = time.monotonic_ns()
        sent = robot.write(Command(t_ns=now, valid_until_ns=now + 10**9, q=q, gripper=gripper))
        rows.append((sent, robot.read().q))
        due += 1.0 / robot.spec.control_hz
        time.sleep(max(0.0, due - time.monotonic()))
    return rows


def test_the_arm_goes_where_it_is_told_and_stays_there(robot: Robot, network: Network) -> None:
    with Scene(network) as scene:
        scene.reset(11)
    robot.connect()
    start = robot.read(1.0).q
    robot.arm()
    goal = start + np.array([0.1, 0.05, -0.05, 0.1, 0.05, -0.1, 0.1])
    rows = follow(robot, goal, 1.8, gripper=0.0)
    commanded = np.array([sent.q for sent, _ in rows])
    np.testing.assert_allclose(commanded[-1], goal, atol=1e-9)
    measured = robot.read(1.0)
    np.testing.assert_allclose(measured.q, goal, atol=5e-3)
    assert measured.gripper is not None
    assert measured.gripper < 0.01
    assert robot.state is LifeState.RUNNING
    # The arm never runs ahead of what was sent, and lags by the lead and the link.
    lag = np.abs(np.array([q for _, q in rows]) - commanded).max()
    assert lag < 0.1
    robot.stop(reason="enough")
    assert robot.latched == "enough"


def test_a_silent_driver_leaves_the_arm_at_rest(robot: Robot) -> None:
    robot.connect()
    robot.arm()
    start = robot.read(1.0).q
    follow(robot, start + 0.3, 0.6)
    time.sleep(0.5)  # no commands: the last trajectory ends in braking
    first = robot.read(1.0)
    assert np.abs(first.dq).max() < 0.02
    time.sleep(0.2)
    np.testing.assert_allclose(robot.read(1.0).q, first.q, atol=2e-3)
    assert np.abs(first.q - start).max() > 0.02


def test_object_poses_are_late_and_noisy_as_asked(robot: Robot, network: Network) -> None:
    with Scene(network) as scene:
        scene.reset(12)
        robot.connect()
        seen: list[Measured] = []
        ages = []
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            observation = robot.read(0.1)
            pose = observation.streams.get("object")
            if pose is not None and (not seen or pose.t_ns != seen[-1].t_ns):
                seen.append(pose)
                ages.append(1e-9 * (time.monotonic_ns() - pose.t_ns))
    assert len(seen) > 30
    positions = np.array([pose.value[:3] for pose in seen])
    assert 0.5 * NOISE < positions.std(0).mean() < 1.5 * NOISE
    assert 0.78 < positions[:, 2].mean() < 0.86  # the cube lies on the table, in the world frame
    assert np.median(ages) > 0.8 * DELAY


def test_an_episode_is_decided_by_its_seed(network: Network, robot: Robot) -> None:
    robot.connect()
    starts = []
    with Scene(network) as scene:
        for seed in (21, 22, 21):
            scene.reset(seed)
            assert scene.success is False  # takes a tenth of a second, in which states of the episode arrive
            starts.append(robot.read(1.0).q)
    np.testing.assert_allclose(starts[0], starts[2], atol=1e-3)
    assert np.abs(starts[0] - starts[1]).max() > 2e-3


@pytest.mark.slow
def test_the_camera_shows_what_the_environment_would(network: Network, robot: Robot) -> None:
    task = load_task("lift")
    env = registry.build("env", task.env, task=task)
    env.reset(seed=31)
    expected = env.render_frame("agentview", 32).astype(float)
    with (
        Scene(network) as scene,
        Simulated("hardware.sim.camera", f"--domain={network.domain}", "--size=32"),
        Participant(network) as participant,
    ):
        images = participant.reader("rt/agentview/image_raw", Image, SENSOR)
        images.wait_matched(5.0)
        scene.reset(31)
        deadline = time.monotonic() + 10.0
        difference = 255.0
        while difference > 2.0:  # until the first picture of this episode
            assert time.monotonic() < deadline, f"pictures differ by {difference}"
            assert images.wait(5.0)
            newest = images.latest()
            if newest is not None:
                difference = float(np.abs(image_of(newest) - expected).mean())
    env.close()


@pytest.mark.slow
def test_an_unknown_camera_is_refused() -> None:
    with pytest.raises(RobopolicyError, match=r"(?s)no camera 'moon'.*agentview"):
        Simulated("hardware.sim.camera", f"--domain={free_network().domain}", "--camera=moon")
