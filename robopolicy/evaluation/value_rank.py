"""Does a value rank chunks as the environment does? Candidates at one state, each tried out in simulation.

A state is a moment of an episode of the policy: its seed and the actions so far, which lead there again.
From it every candidate chunk is executed and then the policy goes on, several times with other noise. What
they earn, gamma^(steps before the first success), is held against Q, within states: between states nothing
has to be chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from robopolicy.errors import DataError
from robopolicy.evaluation.ranking import bootstrap_mean, spearman
from robopolicy.progress import progress_bar
from robopolicy.rollout import ChunkRunner, PolicyActor, run_episodes
from robopolicy.seeding import derive, rng
from robopolicy.vector import LaneVectorEnv

if TYPE_CHECKING:
    from robopolicy.policies.policy import Policy
    from robopolicy.steering.judge import Judge

__all__ = ["Moment", "agreement_within", "describe", "moments", "oracle", "tried"]


@dataclass(frozen=True)
class Moment:
    """A state of an episode, and what might be done there."""

    seed: int
    prefix: np.ndarray
    """Actions that lead there, `[t, Da]`."""
    candidates: np.ndarray
    """`[K, Ta, Da]`."""
    q: np.ndarray
    """`[K]`."""


def moments(
    policy: Policy, judge: Judge, envs: LaneVectorEnv, seeds: Sequence[int], candidates: int
) -> list[Moment]:
    """One moment of each episode that the policy plays, before its first success."""
    import torch

    found = []
    texts, instruction = policy.codec.texts, envs.task.instruction
    for episode in sorted(run_episodes(envs, PolicyActor(policy), seeds, record=True), key=lambda e: e.index):
        end = episode.first_success if episode.success else episode.steps
        time = policy.action_horizon * int(
            rng(episode.seed, "moment").integers(-(-end // policy.action_horizon))
        )
        rows = np.maximum(np.arange(time - policy.obs_horizon + 1, time + 1), 0)
        observation: dict[str, Any] = {
            key: [instruction] if o.kind == "text" else episode.data[key][rows][None]
            for key, o in judge.spec.observations.items()
        }
        generator = torch.Generator(policy.device).manual_seed(derive(episode.seed, "candidates"))
        seen = {key: observation[key] for key in policy.spec.observations}
        chunks = torch.as_tensor(policy.sample(seen, n=candidates, generator=generator).actions[0])
        tensors = {
            key: judge.tokens(value) if key in {*texts, *judge.critic.codec.texts} else torch.as_tensor(value)
            for key, value in observation.items()
        }
        with torch.no_grad():
            bound = judge.bind({key: value.to(policy.device) for key, value in tensors.items()}, candidates)
            q = bound.q(bound.of_actions(chunks.to(policy.device))).cpu().numpy()
        start = policy.obs_horizon - 1
        executed = chunks[:, start : start + policy.action_horizon].numpy()
        found.append(Moment(episode.seed, episode.data["action"][:time], executed, q))
    return found


def tried(
    policy: Policy, envs: LaneVectorEnv, found: Sequence[Moment], *, rollouts: int, gamma: float
) -> np.ndarray:
    """What every candidate earns, `[S, K, R]`: gamma^(steps before the first success), 0 without one.

    The noise of rollout r is the same for all candidates of a state.
    """
    attempts = [
        (state.seed, state.prefix, chunk, rollout)
        for state in found
        for chunk in state.candidates
        for rollout in range(rollouts)
    ]
    steps = np.reshape(_play(policy, envs, attempts), (len(found), -1, rollouts))
    return np.where(steps > 0, gamma ** (steps - 1.0), 0.0)


def oracle(
    policy: Policy, envs: LaneVectorEnv, seeds: Sequence[int], *, candidates: int, moments: int = 4
) -> list[int]:
    """Steps to the first success of each episode where chunks are tried out before one is taken, or 0.

    At evenly spaced moments of the policy's own episode, until a way on succeeds, `candidates` chunks are
    each played out to the end. The environment repeats itself, so the one that succeeds can be taken: a
    choice that knows the noise to come, as no value can.
    """
    played = sorted(run_episodes(envs, PolicyActor(policy), seeds, record=True), key=lambda e: e.index)
    found = [max(episode.first_success, 0) for episode in played]
    horizon = policy.action_horizon
    for moment in range(moments):
        failing = [index for index, steps in enumerate(found) if not steps]
        times = [played[index].steps * moment // moments // horizon * horizon for index in failing]
        prefixes = [played[index].data["action"][:time] for index, time in zip(failing, times, strict=True)]
        attempts = [
            (seeds[index], prefix, None, candidate)
            for index, prefix in zip(failing, prefixes, strict=True)
            for candidate in range(candidates)
        ]
        steps = np.reshape(_play(policy, envs, attempts), (-1, candidates))
        for index, prefix, counts in zip(failing, prefixes, steps, strict=True):
            if counts.any():
                found[index] = len(prefix) + int(counts[counts > 0].min())
    return found


_Attempt = tuple[int, np.ndarray, np.ndarray | None, int]
"""Episode's seed, actions that lead to the moment, chunk to begin with, number of the noise that follows."""


def _play(policy: Policy, envs: LaneVectorEnv, attempts: Sequence[_Attempt]) -> list[int]:
    """Steps from each moment to the first success, 0 without one."""
    found: list[int] = []
    with progress_bar(total=len(attempts), desc=f"try out in {envs.task.name}", unit="chunk") as bar:
        while len(found) < len(attempts):
            part = attempts[len(found) : len(found) + envs.num_envs]
            found += _play_at_once(policy, envs, part)
            bar.update(len(part))
    return found


def _play_at_once(policy: Policy, envs: LaneVectorEnv, attempts: Sequence[_Attempt]) -> list[int]:
    import torch

    horizon, start = policy.action_horizon, policy.obs_horizon - 1
    runner = ChunkRunner(envs, obs_horizon=policy.obs_horizon, action_horizon=horizon)
    count, lanes = len(attempts), envs.num_envs
    seeds = np.array([seed for seed, *_ in attempts] + [attempts[0][0]] * (lanes - count))
    runner.reset(np.ones(lanes, bool), seeds)
    generators = [torch.Generator(policy.device) for _ in range(lanes)]
    active = np.arange(lanes) < count
    steps = [0] * count
    while active.any():
        time = runner.time.copy()
        view = runner.view
        observation: dict[str, Any] = {
            key: [view.instruction] * lanes if o.kind == "text" else view.observation[key]
            for key, o in policy.spec.observations.items()
        }
        for lane, (seed, prefix, _, noise) in enumerate(attempts):
            if time[lane] == len(prefix):
                generators[lane].manual_seed(derive(seed, f"rollout {noise}"))
        sampled = policy.sample(observation, generator=generators).actions
        chunk = np.array(sampled[:, 0, start : start + horizon], np.float32)
        for lane, (_, prefix, begun, _) in enumerate(attempts):
            if time[lane] < len(prefix):
                chunk[lane] = prefix[time[lane] : time[lane] + horizon]
            elif time[lane] == len(prefix) and begun is not None:
                chunk[lane] = begun
        step = runner.step(chunk, active).step
        if step.lost.any():
            raise DataError("An environment worker died during the comparison; run it again.")
        for lane in np.flatnonzero(active):
            good = np.flatnonzero(step.success[lane, : step.steps[lane]])
            if len(good):
                steps[lane] = int(time[lane] - len(attempts[lane][1]) + good[0] + 1)
        active &= ~(step.terminated | step.truncated)
        active[:count] &= np.array(steps) == 0
    return steps


def agreement_within(q: np.ndarray, earned: np.ndarray) -> dict[str, Any]:
    """Rank correlations of Q `[S, K]` with what was earned `[S, K, R]`, and what choosing by it is worth.

    `oracle` takes the best of the means and so is too good by their noise; `oracle, held out` chooses by one
    half of the rollouts and is measured on the other.
    """
    returns = earned.mean(2)
    rows = np.arange(len(q))
    varied = (np.ptp(returns, 1) > 0) & (np.ptp(q, 1) > 0)
    ranks = [spearman(a, b) for a, b in zip(q[varied], returns[varied], strict=True)]
    greedy, random = returns[rows, q.argmax(1)], returns.mean(1)
    found: dict[str, Any] = {
        "states": len(q),
        "states where candidates differ": int(varied.sum()),
        "rank within states": asdict(bootstrap_mean(ranks)) if ranks else None,
        "rank between states": spearman(q.mean(1), random),
        "random": asdict(bootstrap_mean(random)),
        "greedy": asdict(bootstrap_mean(greedy)),
        "greedy minus random": asdict(bootstrap_mean(greedy - random)),
        "oracle": asdict(bootstrap_mean(returns.max(1))),
    }
    if (count := earned.shape[2]) >= 2:
        halves = earned[..., : count // 2].mean(2), earned[..., count // 2 :].mean(2)
        held = [halves[1 - i][rows, halves[i].argmax(1)] for i in (0, 1)]
        found["oracle, held out"] = asdict(bootstrap_mean((held[0] + held[1]) / 2))
        found["oracle, held out, minus random"] = asdict(bootstrap_mean((held[0] + held[1]) / 2 - random))
    return found


def describe(found: Mapping[str, Any]) -> str:
    """The numbers, a line each."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            value = f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        lines.append(f"  {name:32} {f'{value:.3f}' if isinstance(value, float) else value}")
    return "\n".join(lines)
