from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError
from robopolicy.registry import build
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.world.replay import replay
from robopolicy.world.state import StateWorld, copies
from robopolicy.world.train import WorldTraining
from robopolicy.world.world import World
from tests.toy_env import toy_spec


def small(spec: Spec | None = None, **changes: object) -> StateWorld:
    spec = spec or toy_spec()
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec)
    torch.manual_seed(0)
    config = {"name": "state", "tasks": ["toy"], "history": 3, "width": 16, "blocks": 1, **changes}
    made = build("world", config, spec=spec, codec=codec).eval()
    assert isinstance(made, StateWorld)
    return made


def framed(world: World, states: torch.Tensor) -> torch.Tensor:
    """Frames of states `[..., 4]` with their targets at rest."""
    assert isinstance(world, StateWorld)
    return torch.cat([states, world.targets.start(states)], -1)


def _awake(world: StateWorld) -> None:
    """Its outputs begin at zero, where members do not differ."""
    for parameter in world.network.outlet.parameters():
        torch.nn.init.normal_(parameter)


def test_what_is_only_copied_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(50, 4, generator=generator)
    after = torch.randn(50, 4, generator=generator)
    after[:, 1] = before[:, 1]  # a goal that stays
    after[:, 3] = before[:, 0]  # the last step's, appended
    assert copies(before, after).tolist() == [-1, 1, -1, 0]


def test_copies_are_copied_bit_for_bit(world: World) -> None:
    assert world.get_buffer("source").tolist() == [-1, -1, 2, 3]
    history = framed(world, torch.randn(5, 3, 4))
    actions = torch.zeros(5, 3, world.spec.action.size)
    made = world.imagine(history, actions, torch.zeros(5, dtype=torch.int64), torch.randn(5, 4))
    assert torch.equal(made.frame[:, 2:4], history[:, -1, 2:4])
    assert not torch.equal(made.frame[:, :2], history[:, -1, :2])


def test_it_learns_the_point_s_motion(trained: WorldTraining, world: World) -> None:
    """The toy's law is known: the position moves by 0.2 times the action."""
    action = torch.tensor([[1.0, 0.0], [0.0, -1.0], [-0.5, 0.5], [0.0, 0.0]])
    position = torch.tensor([0.1, -0.2])
    history = framed(world, torch.cat([position, torch.tensor([0.5, 0.5])]).expand(4, 3, 4))
    actions = torch.full((4, 3, world.spec.action.size), torch.nan)
    actions[:, -1] = action
    made = world.imagine(history, actions, torch.zeros(4, dtype=torch.int64), torch.randn(4, 4))
    assert torch.allclose(made.frame[:, :2], position + 0.2 * action, atol=0.03)


def posed() -> Spec:
    """A hand that is told where to be, in the world, and how to turn."""
    parts = (
        ActionPart(kind="position", size=3, reference="place"),
        ActionPart(kind="rotation", size=3, rotation="axis_angle", reference="turn"),
        ActionPart(kind="gripper", size=1),
    )
    return Spec(
        observations={
            "place": ObservationSpec(shape=(3,)),
            "turn": ObservationSpec(shape=(4,), rotation="quat_xyzw"),
        },
        action=ActionSpec(names=tuple("xyzabcg"), low=(-1.0,) * 7, high=(1.0,) * 7, parts=parts),
        control_hz=10.0,
    )


def test_a_pose_is_told_from_the_present_one() -> None:
    world = small(posed())
    history = torch.zeros(2, 3, 7)
    history[..., 6] = 1.0
    actions = torch.zeros(2, 3, 7)
    history[1, :, :3] += 0.4
    actions[1, :, :3] += 0.4
    actions[:, -1, 0] += 0.01
    features, _ = world.encode_actions(actions, history)
    assert torch.allclose(features[0], features[1], atol=1e-6)  # wherever it is in the world
    assert not torch.allclose(features[:, -1], features[:, 0])
    actions[0, 0] = torch.nan
    assert (world.encode_actions(actions, history)[0][0, 0] == 0).all()


def test_bins_of_a_pose_span_what_was_asked_for() -> None:
    world, generator = small(posed()), torch.Generator().manual_seed(0)
    place = torch.rand(50, 3, generator=generator) - 0.5
    turn = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(50, 4)
    action = torch.cat([place + 0.02 * torch.rand(50, 3, generator=generator), torch.zeros(50, 4)], 1)
    seen = {"place": place, "turn": turn}
    World.fit(world, SimpleNamespace(action=action, observation=seen))  # type: ignore[arg-type]
    assert world.action_low[:3].min() >= 0
    assert world.action_high[:3].max() <= 0.02
    assert (world.action_low[-1], world.action_high[-1]) == (-1, 1)  # a gripper's bounds are its own
    features, clipped = world.encode_actions(action[:, None], torch.cat([place, turn], 1)[:, None])
    assert features.isfinite().all()
    assert not clipped.any()


def test_rows_do_not_depend_on_the_other_rows() -> None:
    world = small(members=2)
    _awake(world)
    generator = torch.Generator().manual_seed(1)
    history = framed(world, torch.randn(6, 3, 4, generator=generator))
    actions = torch.rand(6, 3, world.spec.action.size, generator=generator)
    noise = torch.randn(6, 4, generator=generator)
    task = torch.zeros(6, dtype=torch.int64)
    whole = world.imagine(history, actions, task, noise).frame
    changed = history.clone()
    changed[1] += 5
    other = world.imagine(changed, actions, task, noise).frame
    keep = [0, 2, 3, 4, 5]
    assert torch.equal(whole[keep], other[keep])
    part = world.imagine(history[:5], actions[:5], task[:5], noise[:5])  # not a multiple of the members
    assert part.frame.shape == (5, *world.frame_shape)
    assert torch.allclose(part.frame, whole[:5], atol=1e-5)
    assert part.doubt.shape == (5,)


def test_members_follow_rows_in_turn_and_disagree() -> None:
    world = small(members=2)
    _awake(world)
    same = (
        framed(small(), torch.ones(4, 3, 4)),
        torch.ones(4, 3, world.spec.action.size),
        torch.zeros(4, dtype=torch.int64),
    )
    made = world.imagine(*same, torch.ones(4, 4))
    assert torch.equal(made.frame[0], made.frame[2])
    assert torch.equal(made.frame[1], made.frame[3])
    assert not torch.equal(made.frame[0], made.frame[1])
    assert (made.doubt > 0).all()
    assert small().imagine(*same, torch.ones(4, 4)).doubt.eq(0).all()


def test_a_window_of_several_steps_trains_on_its_own_predictions(trained: WorldTraining) -> None:
    recordings = trained.trainer.windows
    batch = recordings.gather(torch.arange(64))
    generator = torch.Generator().manual_seed(0)
    world = small(history=2, unroll=2)  # the windows are 4 rows long
    loss, logs = world.loss(batch, generator)
    loss.backward()
    assert torch.isfinite(loss)
    assert set(logs) == {"dynamics", "strayed", "success_model"}
    assert all(p.grad is not None for p in world.network.outlet.parameters())


def test_errors_of_later_steps_reach_back_through_earlier_ones(trained: WorldTraining) -> None:
    """What is lost at the last step of two depends on what the first one imagined."""
    world = small(history=2, unroll=2)
    _awake(world)
    batch = trained.trainer.windows.gather(torch.arange(64))
    history = world.join(batch.observation)[:, :2].clone().requires_grad_()
    actions, task = batch.action, torch.zeros(64, dtype=torch.int64)
    first = world.imagine(history, actions[:, :2], task, torch.zeros(64, 4)).frame
    moved = torch.cat([history[:, 1:], first[:, None]], 1)
    second = world.imagine(moved, actions[:, 1:3], task, torch.zeros(64, 4)).frame
    (slope,) = torch.autograd.grad(second[:, :2].sum(), first)
    assert slope[:, :2].abs().min() > 0


def test_errors_of_a_trained_model_are_small_along_held_out_episodes(
    trained: WorldTraining, world: World
) -> None:
    found = replay(world, trained.held.episodes, trained.held.tasks)
    error = (found.imagined - found.real).abs()[found.recorded]
    assert error[:, :2].mean() < 0.06
    assert error[:, 2:4].max() == 0
    assert found.imagined.shape[:2] == found.success.shape == found.recorded.shape
    lengths = np.array([len(episode["action"]) for episode in trained.held.episodes])
    assert (found.recorded.sum(1).numpy() == lengths - 1).all()


def test_pictures_and_bad_sizes_are_refused() -> None:
    image = ObservationSpec(shape=(64, 64, 3), dtype="uint8", kind="image")
    spec = toy_spec()
    with pytest.raises(ConfigError, match=r"not \['top_image'\]; choose world=pixels"):
        small(Spec(observations={"top_image": image}, action=spec.action, control_hz=10))
    for wrong in ({"members": 0}, {"far": -1.0}, {"history": 0}, {"sigma_low": 9.0}, {"steps": 0}):
        with pytest.raises(ConfigError, match="world"):
            small(**wrong)


def test_what_is_far_from_all_data_or_not_finite_is_not_plausible(world: World) -> None:
    frames = framed(world, torch.zeros(4, 4))
    frames[1, 0], frames[2, 1], frames[3, 2] = 1e4, float("nan"), float("inf")
    assert world.plausible(frames).tolist() == [True, False, False, False]
