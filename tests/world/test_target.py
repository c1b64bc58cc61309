from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.env import make_env
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task
from robopolicy.world.target import Targets


def added(adds_to: str | None = "hand") -> Spec:
    """A hand that moves along a line, and its gripper."""
    parts = (
        ActionPart(kind="position", size=1, adds_to=adds_to, gain=0.1),
        ActionPart(kind="gripper", size=1),
    )
    return Spec(
        observations={"other": ObservationSpec(shape=(2,)), "hand": ObservationSpec(shape=(1,))},
        action=ActionSpec(names=("x", "grip"), low=(-1.0,) * 2, high=(1.0,) * 2, parts=parts),
        control_hz=10.0,
    )


def test_targets_add_up_actions_within_the_range_of_what_follows_them() -> None:
    targets = Targets(added(), {"other": 0, "hand": 2})
    states = torch.tensor([[0.0, 0.0, 0.2], [0.0, 0.0, 0.25], [0.0, 0.0, 0.3], [0.0, 0.0, 0.0]])
    actions = torch.tensor([[0.5, 1.0], [9.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    targets.fit([states], [actions])
    assert targets.along([states], [actions])[0][:, 0].tolist() == pytest.approx([0.2, 0.25, 0.3, 0.2])
    assert (targets.along([states], [actions])[0][:, 1] == 0).all()  # a gripper's command is no target
    longer, shorter = targets.along([states, states[1:3]], [actions, actions[1:3]])  # side by side as alone
    assert torch.equal(longer, targets.along([states], [actions])[0])
    assert torch.equal(shorter, targets.along([states[1:3]], [actions[1:3]])[0])
    away = targets.distances(states, targets.along([states], [actions])[0])
    assert away[:3].abs().max() == 0
    assert away[3, 0] > 0


def test_where_no_action_is_added_there_is_no_target() -> None:
    for spec, where in ((added(None), {"hand": 2}), (added(), {"other": 0})):  # or what follows is not seen
        targets = Targets(spec, where)
        targets.fit([torch.randn(5, 3)], [torch.randn(5, 2)])
        assert (targets.along([torch.randn(5, 3)], [torch.randn(5, 2)])[0] == 0).all()


def test_meta_world_s_hand_follows_the_point_that_the_targets_are() -> None:
    pytest.importorskip("metaworld", reason="Meta-World is the extra robopolicy[metaworld]")
    env = make_env(Task(name="t", env={"name": "metaworld", "task": "reach-v3"}, horizon=60))
    observation, _ = env.reset(seed=0)
    generator, states, actions, points = np.random.default_rng(0), [], [], []
    drift = generator.uniform(-0.6, 0.6, 3)
    for _ in range(40):
        action = np.clip(np.append(drift + generator.normal(0, 0.7, 3), 0.0), -1, 1).astype(np.float32)
        states.append(observation["robot-state"])
        actions.append(action)
        points.append(env.unwrapped._env.data.mocap_pos[0].copy())  # type: ignore[attr-defined]
        observation = env.step(action)[0]
    env.close()
    targets = Targets(env.robot_spec, {"robot-state": 0})
    targets.low.fill_(-9.0)
    targets.high.fill_(9.0)
    along = targets.along([torch.tensor(np.array(states))], [torch.tensor(np.array(actions))])[0]
    found = along[:, :3].numpy()
    off = found - np.array(points)
    assert np.abs(off - off[0]).max() < 2e-3
    assert np.abs(off[0]).max() < 0.02
