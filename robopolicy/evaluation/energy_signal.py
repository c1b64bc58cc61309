"""Does a policy's energy tell failing from succeeding episodes, and disturbed observations from good ones?

Every chunk of an episode is scored by its energy and, beside it, by signals that need no energy model: the
time elapsed, the distance to the nearest training observations, how much 16 samples of a diffusion policy
vary, and that policy's denoising loss of the chosen chunk. A signal is worth its area under the ROC curve:
how often it is larger for a bad chunk than for a good one, of chunks at the same time of their episodes.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from robopolicy.errors import DataError
from robopolicy.evaluation.statistics import Interval
from robopolicy.rollout import LaneView, PolicyActor
from robopolicy.seeding import derive

if TYPE_CHECKING:
    from robopolicy.data.windows import Windows
    from robopolicy.evaluation.evaluate import EpisodeRow
    from robopolicy.policies.denoising import DenoisingPolicy
    from robopolicy.policies.policy import Policy, Sample

__all__ = [
    "DRAWS",
    "LEVELS",
    "NEIGHBOURS",
    "SAMPLES",
    "DenoisingLoss",
    "Moment",
    "NearestTraining",
    "SampleVariance",
    "Scores",
    "Signal",
    "SignalActor",
    "auroc",
    "disturbed_against_nominal",
    "elapsed",
    "failing_against_succeeding",
]

NEIGHBOURS = 5
SAMPLES = 16
LEVELS = 8
DRAWS = 2_000


@dataclass(frozen=True)
class Moment:
    """What a signal may look at: B chunks before they are executed."""

    observation: Mapping[str, Any]
    """As the policy saw it, `[B, To, ...]`."""
    actions: Tensor
    """Chosen, `[B, Tp, Da]`."""
    seeds: Sequence[int]
    times: Sequence[int]


Signal = Callable[[Moment], Tensor]
"""Scores `[B]`, high where something is wrong."""
Scores = dict[tuple[int, int], dict[str, float]]
"""By episode seed and the steps executed before the chunk."""


def elapsed(moment: Moment) -> Tensor:
    """Steps executed: late chunks are those of episodes that have not succeeded."""
    return torch.tensor(moment.times, dtype=torch.float32)


class NearestTraining:
    """Mean distance to the nearest training observations, of the newest states as the codec encodes them."""

    def __init__(self, policy: Policy, windows: Windows) -> None:
        self.policy = policy
        found = [windows.gather(index) for index in torch.arange(len(windows)).split(4096)]
        self.known = torch.cat([self._encode(batch.observation) for batch in found])

    def __call__(self, moment: Moment) -> Tensor:
        """Root-mean-square distance per dimension, `[B]`."""
        here = self._encode(moment.observation)
        distance = torch.cdist(here, self.known) / here.shape[1] ** 0.5
        return distance.topk(min(NEIGHBOURS, len(self.known)), largest=False).values.mean(1)

    def _encode(self, observation: Mapping[str, Any]) -> Tensor:
        encoded = self.policy.codec.encode_observation(_tensors(observation, self.policy))
        return torch.cat([encoded[key][:, -1].flatten(1) for key in self.policy.codec.states], 1)


class SampleVariance:
    """Variance of 16 samples of a policy, of encoded actions, over the rows that would be executed."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, moment: Moment) -> Tensor:
        """`[B]`."""
        policy, seen = self.policy, _tensors(moment.observation, self.policy)
        sample = policy.sample(
            seen, n=SAMPLES, generator=_generators(moment.seeds, moment.times, "variance", policy)
        )
        rows = {k: v.repeat_interleave(SAMPLES, 0) for k, v in seen.items()}
        code = policy.codec.encode_action(sample.actions.flatten(0, 1), rows)
        start = policy.obs_horizon - 1
        executed = code.unflatten(0, (-1, SAMPLES))[:, :, start : start + policy.action_horizon]
        return executed.var(1).mean((1, 2))


class DenoisingLoss:
    """Squared error of a denoising policy's clean estimate of the chosen chunk, at fixed noises."""

    def __init__(self, policy: DenoisingPolicy) -> None:
        self.policy = policy
        generator = torch.Generator().manual_seed(derive(0, "denoising loss"))
        self.noise = torch.randn(LEVELS, *policy.noise_shape, generator=generator).to(policy.device)
        shares = torch.linspace(0.1, 0.9, LEVELS, device=policy.device)
        self.sigmas = torch.tan(shares * torch.pi / 2)

    @torch.no_grad()
    def __call__(self, moment: Moment) -> Tensor:
        """`[B]`."""
        policy, seen = self.policy, _tensors(moment.observation, self.policy)
        clean = policy.codec.encode_action(moment.actions.to(policy.device), seen)
        denoiser = policy.denoiser(policy.condition(seen))
        errors = []
        for sigma, noise in zip(self.sigmas, self.noise, strict=True):
            estimate = denoiser(clean + sigma * noise, sigma.expand(len(clean)))
            errors.append((estimate - clean).square().mean((1, 2)))
        return torch.stack(errors).mean(0)


class SignalActor(PolicyActor):
    """A `PolicyActor` that scores every chunk it chooses, and the one it would choose when disturbed.

    Args:
        policy: one with an energy, which is the score "energy".
        signals: further scores by name.
        disturb: changes a copy of the observations `[B, To, ...]`; what the policy would do then is scored,
            not executed.
    """

    def __init__(
        self,
        policy: Policy,
        signals: Mapping[str, Signal],
        disturb: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        policy.require("energy")
        self._listener = _Listener(policy)
        super().__init__(cast("Policy", self._listener))
        self.signals, self.disturb = dict(signals), disturb
        self.scores: Scores = {}
        self.disturbed: Scores = {}

    def act(self, view: LaneView) -> np.ndarray:
        """The executed rows of one sample, `[B, Ta, Da]`."""
        chunk = super().act(view)
        seeds, times = view.seeds.tolist(), view.time.tolist()
        seen, policy = self._listener.observation, self._listener.policy
        self._score(self.scores, seen, self._listener.answer, seeds, times)
        if self.disturb is not None:
            changed = self.disturb(copy.deepcopy(dict(seen)))
            sample = policy.sample(changed, generator=_generators(seeds, times, "disturbed", policy))
            self._score(self.disturbed, changed, sample, seeds, times)
        return chunk

    def _score(
        self,
        into: Scores,
        observation: Mapping[str, Any],
        sample: Sample,
        seeds: Sequence[int],
        times: Sequence[int],
    ) -> None:
        assert sample.energy is not None
        moment = Moment(observation, torch.as_tensor(sample.actions[:, 0]), seeds, times)
        found = {"energy": torch.as_tensor(sample.energy[:, 0])}
        found |= {name: signal(moment) for name, signal in self.signals.items()}
        columns = {name: values.tolist() for name, values in found.items()}
        for row, key in enumerate(zip(seeds, times, strict=True)):
            into[key] = {name: column[row] for name, column in columns.items()}


class _Listener:
    """A policy that remembers the last thing it was asked, and what it answered."""

    observation: Mapping[str, Any]
    answer: Sample

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def sample(self, observation: Mapping[str, Any], **settings: Any) -> Sample:
        self.observation, self.answer = observation, self.policy.sample(observation, **settings)
        return self.answer


def failing_against_succeeding(
    scores: Scores, episodes: Iterable[EpisodeRow], *, matched: bool = True
) -> dict[str, Interval]:
    """AUROC of each signal: chunks of failing episodes against those before the success of succeeding ones.

    Args:
        matched: compare chunks of the same time only (for which the time elapsed says nothing: 0.5).

    Raises:
        DataError: all episodes failed or all succeeded.
    """
    bad: dict[int, int] = {}
    good: dict[int, int] = {}
    for row in episodes:
        side, end = (good, row.first_success) if row.success else (bad, row.steps)
        side[row.seed] = end
    if not bad or not good:
        raise DataError(f"{len(bad)} episodes failed and {len(good)} succeeded; both are needed to compare.")
    return {
        name: auroc(_table(scores, bad, name), _table(scores, good, name), matched=matched)
        for name in _names(scores)
    }


def disturbed_against_nominal(
    disturbed: Scores, nominal: Scores, episodes: Iterable[EpisodeRow]
) -> dict[str, Interval]:
    """AUROC of each signal: chunks chosen from disturbed observations against those chosen from good ones."""
    ends = {row.seed: row.steps for row in episodes}
    return {
        name: auroc(_table(disturbed, ends, name), _table(nominal, ends, name), paired=True)
        for name in _names(nominal)
    }


def auroc(bad: np.ndarray, good: np.ndarray, *, matched: bool = True, paired: bool = False) -> Interval:
    """How often a bad score exceeds a good one, ties counting half; 95%, bootstrapped over episodes.

    Args:
        bad: scores `[E, T]` of one episode a row and one time a column, NaN where it has no chunk.
        good: `[F, T]`.
        matched: compare scores of the same time only.
        paired: rows of both are the same episodes, drawn together in the bootstrap.

    Raises:
        DataError: no bad and good chunk can be compared.
    """
    wins = np.zeros((len(bad), len(good)))
    pairs = np.zeros_like(wins)
    columns = zip(bad.T, good.T, strict=True) if matched else itertools.product(bad.T, good.T)
    for ours, theirs in columns:
        a, b = ours[:, None], theirs[None]
        wins += (a > b) + 0.5 * (a == b)
        pairs += ~np.isnan(a) & ~np.isnan(b)
    if not pairs.sum():
        raise DataError("No bad and good chunk can be compared.")
    rng = np.random.default_rng(0)
    first = rng.multinomial(len(bad), np.full(len(bad), 1 / len(bad)), size=DRAWS)
    second = first if paired else rng.multinomial(len(good), np.full(len(good), 1 / len(good)), size=DRAWS)
    counted = np.einsum("re,ef,rf->r", first, pairs, second, optimize=True)
    won = np.einsum("re,ef,rf->r", first, wins, second, optimize=True)
    low, high = np.quantile(won[counted > 0] / counted[counted > 0], [0.025, 0.975])
    return Interval(float(wins.sum() / pairs.sum()), float(low), float(high))


def _table(scores: Scores, ends: Mapping[int, int], name: str) -> np.ndarray:
    """Scores `[episodes, times]` of chunks that began before the episode's end."""
    times = sorted({time for _, time in scores})
    missing: dict[str, float] = {}
    return np.array(
        [
            [scores.get((seed, time), missing).get(name, np.nan) if time < end else np.nan for time in times]
            for seed, end in ends.items()
        ]
    )


def _names(scores: Scores) -> list[str]:
    return list(next(iter(scores.values())))


def _tensors(observation: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    """What the policy reads, text as it is and the rest as tensors on its device."""
    return {
        key: value
        if isinstance(value := observation[key], list)
        else torch.as_tensor(value, device=policy.device)
        for key in policy.spec.observations
    }


def _generators(
    seeds: Sequence[int], times: Sequence[int], purpose: str, policy: Policy
) -> list[torch.Generator]:
    return [
        torch.Generator(policy.device).manual_seed(derive(seed, f"{purpose} {time}"))
        for seed, time in zip(seeds, times, strict=True)
    ]
