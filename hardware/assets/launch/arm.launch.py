"""Starts the controllers that robopolicy's ros2_arm driver talks to, on any ros2_control robot.

ros2 launch arm.launch.py description:=my_arm.urdf.xacro
ros2 launch arm.launch.py description:=my_arm.urdf.xacro controllers:=my_controllers.yaml
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import Command, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONTROLLERS = ("joint_state_broadcaster", "arm_controller", "gripper_controller")


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    controllers = LaunchConfiguration("controllers")
    text = Command(["xacro ", LaunchConfiguration("description")])
    description = {"robot_description": ParameterValue(text, value_type=str)}
    return LaunchDescription(
        [
            DeclareLaunchArgument("description", description="URDF or xacro with a ros2_control tag"),
            DeclareLaunchArgument(
                "controllers", default_value=str(Path(__file__).parent / "controllers.yaml")
            ),
            Node(
                package="robot_state_publisher", executable="robot_state_publisher", parameters=[description]
            ),
            Node(
                package="controller_manager",
                executable="ros2_control_node",
                parameters=[description, controllers],
            ),
            *(
                Node(package="controller_manager", executable="spawner", arguments=[name])
                for name in CONTROLLERS
            ),
        ]
    )
