from __future__ import annotations

import numpy as np
import torch

from tests.rl.toy_base import astray, refiner


def make(**changes: object):  # type: ignore[no-untyped-def]
    return refiner("jsrl", astray(), lanes=4, warmup=0, update_ratio=0.01, stages=3, window=2, **changes)


def test_the_guide_acts_early_and_the_learner_late() -> None:
    made = make()
    made.stage = 1  # the guide has 8 of 12 steps: two chunks of three
    assert made.guided_steps == 8
    observation = made.tensors_of(made.practice.view.observation)
    lanes = np.array([0, 4, 8, 8])
    made.practice.runner.time = lanes
    generator = torch.Generator().manual_seed(3)
    chunk, decided = made.decide(observation, generator)
    generator = torch.Generator().manual_seed(3)
    alone = made.learner.act(made.practised.state(observation), generator)
    guide = made.guide.sample(observation, generator=generator).actions[:, 0].clamp(-1, 1)
    torch.testing.assert_close(chunk[:2], guide[:2])
    assert torch.equal(chunk[2:], made.practised.to_actions(alone)[2:])
    torch.testing.assert_close(made.practised.to_actions(decided["squashed"]), chunk)


def test_the_guide_steps_back_only_while_success_holds() -> None:
    made = make()
    assert made.guided_steps == 12

    def ended(success: float) -> int:
        made._see({"practice_success": success, "practice_episodes": 2.0})
        return int(made.guided_steps)

    def seen(success: float) -> int:
        while made.outdated > 0:  # those that began before are not counted, how ever they end
            before = made.guided_steps
            assert ended(0.0) == before
        return ended(success)

    assert seen(0.5) == 8
    assert seen(0.0) == 8  # worse than the best so far
    assert seen(0.49) == 4  # within the tolerance of 5 %
    assert seen(1.0) == 0
    assert seen(1.0) == 0


def test_the_guide_is_what_is_measured_first() -> None:
    made = make()
    observation = {key: value[:2] for key, value in made.practice.view.observation.items()}
    noise = np.zeros((2, 1, *made.guide.noise_shape), np.float32)
    expected = made.guide.sample(observation, noise=noise).actions
    np.testing.assert_array_equal(made.initial().sample(observation, noise=noise).actions, expected)
    assert made.initial() is not made.guide  # it gets a history of its own
    assert type(made.refined()) is not type(made.guide)
    assert made.advance()["guided"] == 1
    made.stage = 3
    assert made.advance()["guided"] == 0


def test_where_the_curriculum_stands_is_kept() -> None:
    made, other = make(), make()
    made._see({"practice_success": 0.5, "practice_episodes": 2.0})
    assert made.outdated == 4
    other.restore(made.state())
    assert (other.stage, other.best, other.recent, other.outdated) == (1, 0.5, [], 4)
