"""The world model of states: an ensemble of residual MLPs that denoises the change of one step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.diffusion.denoiser import edm_scales
from robopolicy.diffusion.noise import noise_level
from robopolicy.diffusion.samplers import denoise
from robopolicy.errors import ConfigError
from robopolicy.networks.ensemble_mlp import EnsembleMLP
from robopolicy.networks.regressor import Regressor
from robopolicy.registry import register
from robopolicy.spec import Spec
from robopolicy.world.target import TARGET, Targets
from robopolicy.world.world import SUCCESS, TASK, Imagined, World, WorldConfig

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch
    from robopolicy.world.recordings import Recordings

__all__ = ["CLOSE", "LOST", "PREDICTED", "StateWorld", "StateWorldConfig", "copies"]

PREDICTED = -1
CLOSE = 5.0
"""Deviations from the mean beyond which the success model sees no difference."""
LOST = 20.0
"""Usual changes of one step by which an imagination can be off and still teach something."""


@dataclass(frozen=True, kw_only=True)
class StateWorldConfig(WorldConfig):
    """Sizes, and what keeps long imaginations together.

    One step of Euler's method from the highest noise is the conditional mean. Robots move nearly without
    chance: several steps only add sampling noise, which grows. So training noise is high, where the mean is
    learned.
    """

    history: int = 6
    steps: int = 1
    location: float = 0.8
    width: int = 256
    blocks: int = 2
    members: int = 1
    """Networks of the ensemble; each learns from its own part of every batch."""
    unroll: int = 8
    """Steps imagined in training, at most; their errors teach all steps before them."""
    success_width: int = 128
    far: float = 20.0
    """Deviations from the mean at which an imagination counts as lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.width, self.blocks, self.members, self.unroll, self.success_width) < 1:
            raise ConfigError(f"world=state needs sizes, members, unroll >= 1, got {self}.")
        if self.far <= 0:
            raise ConfigError(f"world=state needs far > 0, got {self.far}.")


@register("world", "state")
class StateWorld(World):
    """All states of the spec as one vector of D numbers.

    Numbers that are always a number of the frame before (a goal that stays, a copy of the last step that
    environments like Meta-World's append) are found in the data and copied; the others are predicted, as
    changes in units of their deviation. Behind the D numbers of a frame stand Da `targets`, which it knows.
    """

    config: StateWorldConfig
    center: Tensor
    spread: Tensor
    step: Tensor
    """Deviation of one step's change, `[D]`."""
    source: Tensor
    """Which number of the frame before each number is, `[D]`; -1 for those predicted."""

    def __init__(self, config: StateWorldConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        other = [key for key, o in spec.observations.items() if o.kind != "state"]
        if other:
            raise ConfigError(f"world=state predicts states only, not {sorted(other)}; choose world=pixels.")
        self.shapes = {key: o.shape for key, o in spec.observations.items()}
        self.sizes = [int(torch.Size(shape).numel()) for shape in self.shapes.values()]
        size, tasks = sum(self.sizes), len(config.tasks)
        self.members = config.members
        self.size, self.targets = size, Targets(spec, self._where())
        self.noise_shape, self.frame_shape = (size,), (size + spec.action.size,)
        for name in ("center", "spread", "step"):
            self.register_buffer(name, torch.zeros(size) if name == "center" else torch.ones(size))
        self.register_buffer("source", torch.full((size,), PREDICTED))
        condition = config.history * (size + self.code.size) + spec.action.size + tasks
        self.network = EnsembleMLP(config.members, size, condition, width=config.width, blocks=config.blocks)
        self.judge = Regressor(size + tasks, 1, width=config.success_width, blocks=1)

    @torch.no_grad()
    def fit(self, recordings: Recordings) -> None:
        """Means, deviations, and which numbers are copies."""
        super().fit(recordings)
        frames = self._states(recordings.observation)
        moved = recordings.gather(torch.arange(len(recordings)))
        before, after = self._states({key: moved.observation[key][:, -2:] for key in self.shapes}).unbind(1)
        self.center.copy_(frames.mean(0))
        self.spread.copy_(_positive(frames.std(0, correction=0)))
        self.step.copy_(_positive((after - before).std(0, correction=0)))
        self.source.copy_(copies(before, after))
        self.targets.fit(recordings.cut(frames), recordings.cut(recordings.action))

    @torch.no_grad()
    def annotate(self, recordings: Recordings) -> None:
        """Add the targets of every row."""
        frames = recordings.cut(self._states(recordings.observation))
        actions = recordings.cut(recordings.action)
        recordings.observation[TARGET] = torch.cat(self.targets.along(frames, actions))

    def frames(self, episode: Mapping[str, np.ndarray]) -> Tensor:
        """Of an episode, with its targets."""
        found = super().frames(episode)
        actions = torch.as_tensor(episode["action"], dtype=found.dtype, device=found.device)
        found[:, self.size :] = self.targets.along([found[:, : self.size]], [actions])[0]
        return found

    @property
    def unit(self) -> Tensor:
        """One step's deviation."""
        usual = self.step.masked_fill(self.source != PREDICTED, torch.inf)
        return torch.cat([usual, usual.new_full((self.spec.action.size,), torch.inf)])

    def join(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[..., D + Da]`, in the order of the spec; targets that are not told are at rest."""
        states = self._states(observation)
        target = observation.get(TARGET)
        return torch.cat([states, self.targets.start(states) if target is None else target], -1)

    def split(self, frame: Tensor) -> dict[str, Tensor]:
        """By key."""
        parts = frame[..., : self.size].split(self.sizes, -1)
        return {
            key: part.unflatten(-1, shape)
            for (key, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM's loss of one change, how far an imagination of several steps strays, and the success model's.

        The number of steps is drawn for each batch; errors of later ones count less, and reach back through
        all steps before them. Trained on its own predictions without that, a model learns to distrust what it
        is given, and its first step gets worse.
        """
        config, horizon, members = self.config, self.config.history, self.config.members
        usable = len(batch.action) // members * members
        assert batch.mask is not None
        mask = batch.mask[:usable]
        frames = self.join(batch.observation)[:usable]
        actions = batch.action[:usable].masked_fill(~mask[..., None], torch.nan)
        labels, task = batch.observation[SUCCESS][:usable], batch.observation[TASK][:usable]
        steps = int(torch.randint(1, config.unroll + 1, (), generator=generator, device=generator.device))
        begin = config.unroll - steps
        history = frames[:, begin : begin + horizon]
        dynamics, strayed, judged = (frames.new_zeros(()) for _ in range(3))
        free = self.source == PREDICTED
        for step in range(steps):
            now = begin + horizon - 1 + step
            acted, target = actions[:, now + 1 - horizon : now + 1], frames[:, now + 1]
            inside = mask[:, now].float()
            condition, _ = self._condition(history, acted, task)
            context = self.network.context(condition.unflatten(0, (members, -1)))
            if step == 0:
                change = (target - history[:, -1])[:, : self.size] / self.step
                error = self._denoising_error(change, context, generator)[:, free].mean(-1)
                dynamics = (error * inside).sum() / inside.sum().clamp_min(1)
            start = torch.randn((usable, self.size), generator=generator, device=frames.device)
            following = self._sample(history, acted[:, -1], start, context, steps=1)[0]
            away = ((following - target)[:, : self.size] / self.step)[:, free].clamp(-LOST, LOST)
            error = away.square().mean(-1) / (step + 1)
            strayed = strayed + (error * inside).sum() / inside.sum().clamp_min(1)
            for frame in (target, following.detach()):
                judged = judged + self._judge_loss(frame, task, labels[:, now + 1], inside)
            following = torch.where(inside[:, None] > 0, following, target)
            history = torch.cat([history[:, 1:], following[:, None]], 1)
        strayed, judged = strayed / steps, judged / (2 * steps)
        logs = {"dynamics": dynamics, "strayed": strayed, "success_model": judged}
        return dynamics + strayed + judged, {name: value.detach() for name, value in logs.items()}

    def imagine(self, history: Tensor, actions: Tensor, task: Tensor, noise: Tensor) -> Imagined:
        """The next state; copies are copied."""
        members, rows = self.config.members, len(history)
        if rows % members:  # a whole number of rows for every member
            wrap = torch.arange(-(-rows // members) * members, device=history.device) % rows
            history, actions, task, noise = (value[wrap] for value in (history, actions, task, noise))
        condition, clipped = self._condition(history, actions, task)
        own = condition.unflatten(0, (-1, members)).transpose(0, 1)
        frame, first = self._sample(
            history,
            actions[:, -1],
            noise,
            self.network.context(own),
            interleaved=True,
            steps=self.config.steps,
        )
        if members == 1:
            return Imagined(frame[:rows], frame.new_zeros(rows), clipped[:rows])
        level = noise_level(self.sigmas[:1].to(noise))
        every = self.network(first.expand(members, -1, -1), level, self.network.context(condition))
        free = self.source == PREDICTED
        out = edm_scales(self.sigmas[:1].to(noise), 1.0)[1]
        doubt = (out * every).std(0)[:, free].square().mean(-1).sqrt()
        return Imagined(frame[:rows], doubt[:rows], clipped[:rows])

    def succeeded(self, frame: Tensor, task: Tensor) -> Tensor:
        """Of the state alone."""
        return self._logit(frame, task).sigmoid()

    def plausible(self, frame: Tensor) -> Tensor:
        """Finite, and within `far` deviations."""
        return (self._normal(frame).abs() < self.config.far).all(-1)

    def _sample(
        self,
        history: Tensor,
        action: Tensor,
        noise: Tensor,
        context: Tensor,
        *,
        steps: int,
        interleaved: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Next frames by Euler's method, and what the network saw first `[B, D]`.

        Rows are shared out among members in turn (interleaved), or in blocks.
        """
        members = self.config.members
        shape = (-1, members) if interleaved else (members, -1)

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            keep, out, scale = edm_scales(sigma[0], 1.0)
            rows = (x * scale).unflatten(0, shape)
            rows = rows.transpose(0, 1) if interleaved else rows
            output = self.network(rows, noise_level(sigma[:1]), context)
            output = output.transpose(0, 1) if interleaved else output
            return keep * x + out * output.flatten(0, 1)

        sigmas = self.sigmas if steps == self.config.steps else self.sigmas[[0, -1]]
        change = denoise(estimate, noise, sigmas)
        first = noise * edm_scales(self.sigmas[:1].to(noise), 1.0)[2]
        return self._moved(history[:, -1], action, change), first

    def _denoising_error(self, change: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """EDM's squared errors of changes `[B, D]` at noise levels of their own, weighted as there."""
        change = change.unflatten(0, (self.config.members, -1))
        sigma = self.draw_levels(change.shape[:2], generator)
        keep, out, scale = edm_scales(sigma[..., None], 1.0)
        noise = torch.randn(change.shape, generator=generator, device=change.device)
        noisy = change + sigma[..., None] * noise
        output = self.network(noisy * scale, noise_level(sigma.flatten()), context)
        error: Tensor = (output - (change - keep * noisy) / out).square().flatten(0, 1)
        return error

    def _moved(self, now: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """The frame after a change `[B, D]` in units of steps; copies are what they copy."""
        states, target = now[:, : self.size], now[:, self.size :]
        predicted = self.source == PREDICTED
        moved = torch.where(predicted, states + change * self.step, states[:, self.source.clamp_min(0)])
        return torch.cat([moved, self.targets.follow(target, action)], -1)

    def _where(self) -> dict[str, int]:
        """With which of the D numbers each observation begins."""
        begins = itertools.accumulate(self.sizes, initial=0)
        return dict(zip(self.shapes, begins, strict=False))

    def _states(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What is observed, `[..., D]`."""
        return torch.cat(
            [
                observation[key].flatten(observation[key].ndim - len(shape)) if shape else observation[key]
                for key, shape in self.shapes.items()
            ],
            -1,
        )

    def _normal(self, frame: Tensor) -> Tensor:
        return (frame[..., : self.size] - self.center) / self.spread

    def _condition(self, history: Tensor, actions: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """Present state, changes before, targets, actions and task, `[B, C]`; and what was clipped."""
        features, clipped = self.encode_actions(actions, history)
        states, target = history[..., : self.size], history[:, -1, self.size :]
        parts = [
            self._normal(history[:, -1]),
            (states.diff(dim=1) / self.step).flatten(1),
            self.targets.distances(states[:, -1], target),
            features.flatten(1),
            F.one_hot(task, len(self.config.tasks)).float(),
        ]
        return torch.cat(parts, -1), clipped[:, -1].any(-1)

    def _logit(self, frame: Tensor, task: Tensor) -> Tensor:
        seen = self._normal(frame).clamp(-CLOSE, CLOSE)
        return self.judge(torch.cat([seen, F.one_hot(task, len(self.config.tasks)).float()], -1))[:, 0]

    def _judge_loss(self, frame: Tensor, task: Tensor, label: Tensor, inside: Tensor) -> Tensor:
        known = inside * (label >= 0)
        each = F.binary_cross_entropy_with_logits(
            self._logit(frame, task), label.clamp_min(0), reduction="none"
        )
        return (each * known).sum() / known.sum().clamp_min(1)


def copies(before: Tensor, after: Tensor) -> Tensor:
    """For each of D numbers after a step `[N, D]`, which number before it always equals; -1 for none.

    A number that stays is itself; otherwise the first one wins.
    """
    size = before.shape[1]
    found = torch.full((size,), PREDICTED, device=before.device)
    for number in range(size):
        order = [number, *(i for i in range(size) if i != number)]
        for other in order:
            if torch.equal(after[:, number], before[:, other]):
                found[number] = other
                break
    return found


def _positive(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation))
