from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hardware.extras import MissingExtra
from hardware.link import RobotLink
from hardware.messages import ActionChunk, Command
from hardware.robot import Robot, RobotError, make_robot
from hardware.robots.lerobot import Channel, Lerobot, LerobotConfig
from hardware.spec import GripperSpec, LifeState, RobotSpec
from robopolicy.errors import ConfigError
from tests.hardware.fakes import small_spec
from tests.hardware.robots.fake_lerobot import FakeFollower

CHANNELS = {
    "shoulder": {"key": "pan.pos", "unit": "degrees", "reverse": True, "offset": 0.1},
    "elbow": {"key": "lift.pos", "unit": "normalized", "range": [-1.5, 1.5]},
}
GRIPPER = {"key": "gripper.pos", "unit": "percent", "range": [0.0, 0.08]}
SETTINGS = {
    "name": "lerobot",
    "factory": "tests.hardware.robots.fake_lerobot:FakeFollower",
    "channels": CHANNELS,
    "gripper": GRIPPER,
}


def spec(**driver: Any) -> RobotSpec:
    return small_spec(
        driver={**SETTINGS, **driver}, gripper=GripperSpec(), cmd_timeout_s=0.5, obs_timeout_s=0.5
    )


def connected(device: FakeFollower, **driver: Any) -> Robot:
    robot = make_robot(spec(**driver), device=device)
    robot.connect(2.0)
    return robot


def drive(robot: Robot, q: list[float], gripper: float, seconds: float = 0.6) -> Command:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now = time.monotonic_ns()
        sent = robot.write(Command(t_ns=now, valid_until_ns=now + 10**9, q=np.array(q), gripper=gripper))
        time.sleep(0.01)
    return sent


def test_units_go_there_and_back() -> None:
    cases = [
        (Channel(key="a", unit="radians"), 1.5, 1.5),
        (Channel(key="a", unit="degrees"), 90.0, np.pi / 2),
        (Channel(key="a", unit="degrees", reverse=True, offset=1.0), 90.0, 1.0 - np.pi / 2),
        (Channel(key="a", unit="normalized", range=(-1.0, 3.0)), -100.0, -1.0),
        (Channel(key="a", unit="normalized", range=(-1.0, 3.0)), 50.0, 2.0),
        (Channel(key="a", unit="percent", range=(0.08, 0.0)), 25.0, 0.06),
    ]
    for channel, raw, value in cases:
        zero, slope = channel.line
        assert zero + slope * raw == pytest.approx(value)


def test_it_connects_without_moving_and_tells_radians() -> None:
    device = FakeFollower()
    device.position = {"pan.pos": 45.0, "lift.pos": -50.0, "gripper.pos": 25.0}
    with contextlib.closing(connected(device)) as robot:
        seen = robot.read(1.0)
        np.testing.assert_allclose(seen.q, [0.1 - np.pi / 4, -0.75])
        assert seen.gripper == pytest.approx(0.02)
        np.testing.assert_array_equal(seen.streams["front"].value, 7)
        assert device.sent == []
    assert device.calls == ["connect", "disconnect"]


def test_what_the_guard_passes_arrives_in_its_units_once() -> None:
    device = FakeFollower()
    device.position["pan.pos"] = np.degrees(0.1)  # both joints at 0
    with contextlib.closing(connected(device)) as robot:
        robot.arm()
        sent = drive(robot, [0.3, -0.3], 0.06)
        assert robot.state is LifeState.RUNNING
        assert sent.q is not None
        np.testing.assert_allclose(sent.q, [0.3, -0.3], atol=1e-6)
        time.sleep(0.05)
        assert device.position["pan.pos"] == pytest.approx(np.degrees(0.1 - 0.3))
        assert device.position["lift.pos"] == pytest.approx(-20.0)
        assert device.position["gripper.pos"] == pytest.approx(75.0)
        steps = np.abs(np.diff([command["pan.pos"] for command in device.sent]))
        assert steps.max() < np.degrees(0.02) * 5  # the guard's speed, not a jump (ticks may be missed)
        time.sleep(0.1)
        count = len(device.sent)
        time.sleep(0.1)
        assert len(device.sent) == count  # nobody repeats the last command
        velocity = robot.read(0.5).dq
        np.testing.assert_allclose(velocity, 0.0, atol=1e-6)


def test_a_robot_that_breaks_is_a_latched_fault() -> None:
    device = FakeFollower()
    device.position["pan.pos"] = np.degrees(0.1)
    robot = connected(device)
    robot.arm()
    device.breaks = ConnectionError("no status packet")
    drive(robot, [0.1, 0.0], 0.05, 0.2)
    assert robot.latched == "lerobot: ConnectionError: no status packet"
    robot.close()
    assert not device.is_connected


def test_garbled_readings_are_dropped() -> None:
    device = FakeFollower()
    robot = connected(device)
    device.position["lift.pos"] = float("nan")
    time.sleep(0.05)
    robot.read(0.1)
    assert robot.counters["finite"] > 0
    robot.close()


def test_a_second_limiter_is_told() -> None:
    device = FakeFollower(cap=0.01)
    device.position["pan.pos"] = np.degrees(0.1)
    robot = connected(device)
    robot.arm()
    with pytest.warns(UserWarning, match="lerobot sent something else for .*max_relative_target"):
        drive(robot, [0.3, 0.0], 0.05, 0.3)
    robot.close()


@pytest.mark.filterwarnings("ignore:small. lerobot sent something else")
def test_refusals() -> None:
    with pytest.raises(RobotError, match="not calibrated: run lerobot-calibrate"):
        connected(FakeFollower(calibrated=False))
    with pytest.raises(
        RobotError, match=r"lacks wrist\.pos; it has front, gripper\.pos, lift\.pos, pan\.pos"
    ):
        connected(FakeFollower(), channels={**CHANNELS, "elbow": {"key": "wrist.pos"}})
    with pytest.raises(ConfigError, match="no channel says what elbow is"):
        make_robot(spec(channels={"shoulder": CHANNELS["shoulder"]}))
    with pytest.raises(ConfigError, match="no channel says what the gripper is"):
        make_robot(spec(gripper=None))
    with pytest.raises(ConfigError, match="needs a type or a factory"):
        make_robot(spec(factory=""))
    with pytest.raises(ConfigError, match="not both"):
        make_robot(spec(type="so101_follower"))
    with pytest.raises(ConfigError, match=r"there is no 'tests.nowhere:Robot'"):
        make_robot(spec(factory="tests.nowhere:Robot")).connect()
    with pytest.raises(ConfigError, match="normalized needs range"):
        Channel(key="a", unit="normalized")
    with pytest.raises(ConfigError, match="has a range, so no offset"):
        Channel(key="a", unit="percent", range=(0.0, 1.0), offset=1.0)
    with pytest.raises(ConfigError, match="range is for normalized and percent"):
        Channel(key="a", range=(0.0, 1.0))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(MissingExtra, match=r"robopolicy\[lerobot\]"):
        make_robot(spec(factory="", type="so101_follower")).connect()


def test_the_real_base_class() -> None:
    """Against lerobot itself, where it is installed: its base class is what the fake pretends to be."""
    robots = pytest.importorskip("lerobot.robots", reason="lerobot is the extra robopolicy[lerobot]")
    wanted = set(robots.Robot.__abstractmethods__)
    assert wanted <= set(dir(FakeFollower)) | {"calibrate", "configure"}

    class Follower(FakeFollower, robots.Robot):  # type: ignore[misc, name-defined]
        name = "fake"

        def calibrate(self) -> None: ...

        def configure(self) -> None: ...

    device = Follower()
    device.position["pan.pos"] = np.degrees(0.1)
    with contextlib.closing(connected(device)) as robot:
        robot.arm()
        drive(robot, [0.1, 0.0], 0.04, 0.3)
        assert robot.state is LifeState.RUNNING
    driver = Lerobot(
        LerobotConfig(
            type="so101_follower",
            settings={"port": "/dev/null", "id": "arm"},
            channels=CHANNELS,
            gripper=Channel(**{**GRIPPER, "range": (0.0, 0.08)}),  # type: ignore[arg-type]
        ),
        spec=spec(),
    )
    with pytest.raises(RobotError, match=r"lacks pan\.pos.*it has .*shoulder_pan\.pos"):
        driver.connect()


def test_in_the_control_process(tmp_path: Path) -> None:
    with RobotLink(spec(settings={"pace_s": 0.005}), tmp_path / "run") as link:
        start = link.observe()[-1].q
        np.testing.assert_allclose(start, [0.1, 0.0])
        link.arm()
        for _ in range(20):
            now = time.monotonic_ns()
            rows = np.tile([0.25, 0.1, 0.05], (10, 1))
            link.submit(ActionChunk(t_obs_ns=now, t0_ns=now, dt_ns=50_000_000, actions=rows))
            time.sleep(0.03)
        assert link.state in (LifeState.RUNNING, LifeState.HOLD)
        np.testing.assert_allclose(link.observe()[-1].q, [0.25, 0.1], atol=0.03)
        assert link.stream("front")[-1].value.shape == (4, 6, 3)


def test_the_settings_of_the_page_are_valid() -> None:
    page = (Path(__file__).parents[3] / "docs/lerobot.md").read_text()
    (text,) = [block.split("```")[0] for block in page.split("```yaml\n")[1:]]
    robot = make_robot(RobotSpec.from_dict(yaml.safe_load(text)))
    assert isinstance(robot, Lerobot)
