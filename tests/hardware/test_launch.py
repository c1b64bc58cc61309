"""The ROS 2 launch file, run with stand-ins for the packages of ROS: what it would start."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LAUNCH = Path(__file__).parents[2] / "hardware/assets/launch/arm.launch.py"


class Said:
    """Remembers how it was made."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.arguments, self.settings = arguments, settings


def test_the_launch_file_starts_the_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "launch": ["LaunchDescription"],
        "launch.actions": ["DeclareLaunchArgument"],
        "launch.substitutions": ["Command", "LaunchConfiguration"],
        "launch_ros": [],
        "launch_ros.actions": ["Node"],
        "launch_ros.parameter_descriptions": ["ParameterValue"],
    }
    for name, members in names.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, Said)
        monkeypatch.setitem(sys.modules, name, module)
    (entries,) = runpy.run_path(str(LAUNCH))["generate_launch_description"]().arguments
    arguments = {entry.arguments[0]: entry.settings for entry in entries if entry.arguments}
    assert Path(arguments["controllers"]["default_value"]).name == "controllers.yaml"
    assert Path(arguments["controllers"]["default_value"]).is_file()
    assert "description" in arguments
    nodes = [entry.settings for entry in entries if "package" in entry.settings]
    started = [node["executable"] for node in nodes]
    assert started == ["robot_state_publisher", "ros2_control_node", *["spawner"] * 3]
    spawned = [node["arguments"][0] for node in nodes[2:]]
    assert spawned == ["joint_state_broadcaster", "arm_controller", "gripper_controller"]
