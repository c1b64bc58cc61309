from __future__ import annotations

import time

import numpy as np
import pytest

from hardware.collision import Shadow
from hardware.messages import Measured, Observation
from hardware.observe import Observer
from hardware.spec import RobotSpec
from robopolicy.errors import DataError, SpecMismatch
from robopolicy.spec import ActionSpec, ObservationSpec, Spec

ACTION = ActionSpec(names=("x",), low=(-1.0,), high=(1.0,))
MS = 1_000_000
DT = 50 * MS


def wanted(**shapes: tuple[int, ...]) -> Spec:
    observations = {
        key.replace("__", "-"): ObservationSpec(
            shape=shape,
            kind="image" if len(shape) == 3 else "state",
            dtype="uint8" if len(shape) == 3 else "float32",
        )
        for key, shape in shapes.items()
    }
    return Spec(observations=observations, action=ACTION, control_hz=20.0)


def state(robot: RobotSpec, t_ns: int, q: np.ndarray) -> Observation:
    n = robot.size
    return Observation(seq=t_ns, t_ns=t_ns, q=q, dq=np.full(n, 0.5), tau=np.zeros(n), gripper=0.06)


def pose(x: float) -> np.ndarray:
    return np.array([x, 0.1, 0.8, 0.6, 0.0, 0.0, 0.8])


LIFT = wanted(robot0_eef_pos=(3,), robot0_eef_quat_site=(4,), robot0_gripper_qpos=(2,), object__state=(10,))


def test_every_part_is_what_it_says_at_one_time() -> None:
    robot = RobotSpec.load("panda_sim")
    observer, shadow = Observer(robot, LIFT), Shadow(robot)
    first, second = robot.array("home"), robot.array("home") + 0.1
    observer.add([state(robot, 0, first), state(robot, 100 * MS, second)], {})
    assert observer.silent == ["object"]
    observer.add([], {"object": [Measured(0, pose(0.0)), Measured(75 * MS, pose(0.075))]})
    found, t_ns = observer.observe(2, DT, now_ns=200 * MS)
    assert t_ns == 75 * MS  # the newest that all streams reach
    for row, share in enumerate((0.25, 0.75)):
        position, quaternion = shadow.poses(first + share * (second - first))["grip_site"]
        here = position - np.array([0.56, 0.0, -0.912])
        np.testing.assert_allclose(found["robot0_eef_pos"][row], here, atol=1e-6)
        np.testing.assert_allclose(found["robot0_eef_quat_site"][row], np.roll(quaternion, -1), atol=1e-6)
        thing = np.array([0.1 * share, 0.1, 0.8])
        expected = np.concatenate([thing, [0.0, 0.0, 0.8, 0.6], thing - here])
        np.testing.assert_allclose(found["object-state"][row], expected, atol=1e-6)
        np.testing.assert_allclose(found["robot0_gripper_qpos"][row], [0.03, -0.03])
    np.testing.assert_allclose(observer.joints(50 * MS)[0], first + 0.05)
    np.testing.assert_allclose(
        observer.end_effector(0), shadow.poses(first)["grip_site"][0] - [0.56, 0.0, -0.912]
    )


def test_without_matching_the_newest_of_each_counts_as_now() -> None:
    robot = RobotSpec.load("panda_sim")
    observer = Observer(robot, LIFT, matching=False)
    with pytest.raises(DataError, match="Nothing was received from joints, object yet"):
        observer.observe(2, DT, now_ns=0)
    observer.add([state(robot, 100 * MS, robot.array("home"))], {"object": [Measured(0, pose(0.0))]})
    found, t_ns = observer.observe(2, DT, now_ns=200 * MS)
    assert t_ns == 200 * MS
    np.testing.assert_allclose(found["object-state"][:, 0], 0.0)


def test_latency_of_a_stream_moves_its_samples_back() -> None:
    robot = RobotSpec.load("panda_sim").replace(latency_s={"object": 0.05})
    observer = Observer(robot, LIFT)
    observer.add([state(robot, t * MS, robot.array("home")) for t in (0, 100)], {})
    observer.add([], {"object": [Measured(t * MS, pose(0.001 * t)) for t in (50, 100)]})
    found, t_ns = observer.observe(1, DT, now_ns=0)
    assert t_ns == 50 * MS
    np.testing.assert_allclose(found["object-state"][0, 0], 0.1)


def test_what_came_before_the_episode_does_not_count() -> None:
    robot = RobotSpec.load("panda_sim")
    observer = Observer(robot, LIFT)
    observer.begin(80 * MS)
    observer.add([state(robot, 79 * MS, robot.array("home"))], {"object": [Measured(79 * MS, pose(0.0))]})
    assert observer.silent == ["joints", "object"]


def test_pictures_are_the_nearest_and_joints_go_through() -> None:
    robot = RobotSpec.load("panda_sim").replace(
        observations={
            "q": ("joints.position",),
            "both": ("joints.velocity", "gripper.opening"),
            "eye": ("eye.image",),
        }
    )
    observer = Observer(robot, wanted(q=(7,), both=(8,), eye=(2, 2, 3)))
    pictures = [Measured(t * MS, np.full((2, 2, 3), t, np.uint8)) for t in (0, 60, 100)]
    observer.add([state(robot, t * MS, robot.array("home")) for t in (0, 100)], {"eye": pictures})
    found, _ = observer.observe(2, DT, now_ns=0)
    assert found["eye"][:, 0, 0, 0].tolist() == [60, 100]
    assert found["eye"].dtype == np.uint8
    np.testing.assert_allclose(found["q"][0], robot.array("home"), atol=1e-6)
    np.testing.assert_allclose(found["both"][1], [0.5] * 7 + [0.06])


@pytest.mark.parametrize(
    ("observations", "spec", "message"),
    [
        (
            {},
            wanted(q=(7,), eye=(4, 4, 3)),
            r"observes 'q', 'eye', which panda_sim does not.*: nothing",
        ),
        (
            {"q": ("joints.position",)},
            wanted(q=(6,)),
            r"'q' is \[6\] for .*; panda_sim supplies \[7\]",
        ),
        ({"q": ("joints.torque",)}, wanted(q=(7,)), r"'torque'.*position, velocity"),
        ({"q": ("joints",)}, wanted(q=(7,)), "'joints' is not source.what"),
        ({"q": ("object.pose",)}, wanted(q=(7,)), r"'pose'.*image.*offset"),
    ],
)
def test_what_cannot_be_supplied_is_refused_by_name(observations: dict, spec: Spec, message: str) -> None:
    robot = RobotSpec.load("panda_sim").replace(observations=observations)
    with pytest.raises(SpecMismatch, match=message):
        Observer(robot, spec)


@pytest.mark.sim
def test_the_simulator_sees_the_same() -> None:
    """The yaml's frame and the mesh-free model give robosuite's poses, signs of quaternions included."""
    import yaml

    import envs  # noqa: F401
    from robopolicy.compose import config_directory
    from robopolicy.env import make_env
    from robopolicy.task import Task

    task = Task.from_dict(yaml.safe_load((config_directory() / "task" / "lift_absolute.yaml").read_text()))
    env, robot = make_env(task), RobotSpec.load("panda_sim")
    observer = Observer(robot, env.robot_spec)
    model, data = env.unwrapped.simulation  # type: ignore[attr-defined]
    joints = [int(model.joint(f"robot0_joint{i}").qposadr[0]) for i in range(1, 8)]
    for seed in range(3):
        expected, _ = env.reset(seed=seed)
        body = data.body("cube_main")
        observer.begin(seed)
        seen = state(robot, seed, data.qpos[joints].copy())
        seen.gripper = 2 * float(expected["robot0_gripper_qpos"][0])
        observer.add([seen], {"object": [Measured(seed, np.concatenate([body.xpos, body.xquat]))]})
        found, _ = observer.observe(1, DT, now_ns=time.monotonic_ns())
        for key, value in expected.items():
            np.testing.assert_allclose(found[key][0], value, atol=2e-3, err_msg=key)
    env.close()
