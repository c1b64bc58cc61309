"""What the pages on robots say is so."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from hardware.messages import Command
from hardware.robot import make_robot
from hardware.robots.ros2_arm import Ros2ArmConfig
from hardware.spec import LifeState, RobotSpec
from robopolicy.registry import parse

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "hardware/assets/launch"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def answer(server: socket.socket, told: list[list[float]]) -> None:
    """The mock of the worked example: stands still and sends a state for every message, and then some."""
    q, peer, count = [0.1, -0.2], None, 0
    server.settimeout(0.01)
    while True:
        try:
            message, peer = server.recvfrom(65536)
            told.append(json.loads(message).get("q"))
            q = told[-1] or q
        except TimeoutError:
            pass
        except OSError:
            return  # closed
        count += 1
        if peer is not None:
            server.sendto(json.dumps({"q": q, "dq": [0, 0], "tau": [0, 0], "count": count}).encode(), peer)


def test_the_worked_example_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    (module,) = blocks("docs/add_a_robot.md", "python")
    (settings,) = blocks("docs/add_a_robot.md", "yaml")
    spec = importlib.util.spec_from_loader("udp_arm_example", loader=None)
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "udp_arm_example", loaded)
    exec(compile(module, "udp_arm.py", "exec"), vars(loaded))  # noqa: S102  the page's own text
    robot_spec = RobotSpec.from_dict(yaml.safe_load(settings))
    assert robot_spec.real
    told: list[list[float]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        thread = threading.Thread(target=answer, args=(server, told), daemon=True)
        thread.start()
        patient = robot_spec.replace(
            driver={"name": "udp_arm", "port": port}, arm_ramp_s=0.05, cmd_timeout_s=0.3, obs_timeout_s=0.3
        )
        with make_robot(patient) as robot:
            np.testing.assert_allclose(robot.read(1.0).q, [0.1, -0.2])
            assert told == [None]
            robot.arm()
            for _ in range(20):
                now = time.monotonic_ns()
                robot.write(Command(t_ns=now, valid_until_ns=now + 10**9, q=np.array([0.11, -0.2])))
                time.sleep(0.01)
            assert robot.state is LifeState.RUNNING
            np.testing.assert_allclose(told[-1], [0.11, -0.2], atol=1e-6)
    thread.join(2.0)


def test_the_driver_settings_on_the_ros_page_are_valid() -> None:
    (settings,) = blocks("docs/ros2.md", "yaml")
    driver = yaml.safe_load(settings)["driver"]
    assert driver.pop("name") == "ros2_arm"
    assert parse(Ros2ArmConfig, driver).network.interface == "eth0"
    page = (ROOT / "docs/ros2.md").read_text()
    defaults = Ros2ArmConfig()
    for topic in (defaults.joint_states, defaults.trajectory, defaults.gripper_trajectory, defaults.stop):
        assert f"`{topic}`" in page


def test_the_launch_files_fit_the_driver() -> None:
    controllers = yaml.safe_load((LAUNCH / "controllers.yaml").read_text())
    spec, driver = RobotSpec.load("panda_sim"), Ros2ArmConfig()
    arm = controllers["arm_controller"]["ros__parameters"]
    assert tuple(arm["joints"]) == spec.names
    assert arm["interpolate_from_desired_state"] is True
    gripper = controllers["gripper_controller"]["ros__parameters"]
    assert gripper["joints"] == [driver.gripper_joint]
    assert driver.trajectory == "/arm_controller/joint_trajectory"
    assert driver.gripper_trajectory == "/gripper_controller/joint_trajectory"
    tree = ast.parse((LAUNCH / "arm.launch.py").read_text())
    names = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CONTROLLERS"
    )
    assert set(names) == set(controllers) - {"controller_manager"} | {"joint_state_broadcaster"}
