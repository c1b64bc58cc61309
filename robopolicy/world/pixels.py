"""The world model of pictures, after DIAMOND (Alonso et al. 2024) with World4RL's two-hot actions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.codecs import Codec
from robopolicy.diffusion.denoiser import edm_scales
from robopolicy.diffusion.noise import noise_level
from robopolicy.diffusion.samplers import denoise
from robopolicy.errors import ConfigError
from robopolicy.networks.embedding import level_encoder
from robopolicy.networks.unet2d import UNet2D, UNet2DConfig
from robopolicy.registry import register
from robopolicy.spec import Spec
from robopolicy.world.world import SUCCESS, TASK, Imagined, World, WorldConfig

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["DEVIATION", "PixelWorld", "PixelWorldConfig"]

DEVIATION = 0.5
"""Of pictures in [-1, 1] (EDM's sigma_data)."""


@dataclass(frozen=True, kw_only=True)
class PixelWorldConfig(WorldConfig):
    """DIAMOND's Atari setting; past frames are noisy, and it is told how much, as in its CS:GO one."""

    network: UNet2DConfig = field(default_factory=UNet2DConfig)
    offset: float = 0.3
    """Deviation of noise that a whole colour shares."""
    past_noise: float = 0.1
    """Past frames get noise up to this in training."""
    past_noise_used: float = 0.005
    """And this in use."""
    success_channels: tuple[int, ...] = (16, 32, 64, 64)
    """Of the success model; each layer halves the picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.offset, self.past_noise, self.past_noise_used) < 0 or not self.success_channels:
            raise ConfigError(f"world=pixels needs noises >= 0 and success_channels, got {self}.")


@register("world", "pixels")
class PixelWorld(World):
    """One camera; frames `[C, H, W]` in [-1, 1], rounded to 8 bits as recorded ones are."""

    config: PixelWorldConfig

    def __init__(self, config: PixelWorldConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        images = [key for key, o in spec.observations.items() if o.kind == "image"]
        if len(images) != 1 or len(spec.observations) != 1:
            raise ConfigError(
                f"world=pixels predicts one picture alone, not {sorted(spec.observations)}: choose with "
                "observations=[<camera>_image]."
            )
        self.key = images[0]
        height, width, colours = spec.observations[self.key].shape
        self.frame_shape = self.noise_shape = (colours, height, width)
        size = config.network.condition
        self.network = UNet2D(config.network, inputs=(config.history + 1) * colours, outputs=colours)
        if height % self.network.factor or width % self.network.factor:
            raise ConfigError(
                f"world=pixels halves pictures {len(config.network.channels) - 1} times: {height} x {width} "
                f"must be divisible by {self.network.factor}."
            )
        self.level, self.past_level = level_encoder(size), level_encoder(size)
        self.acts = nn.Sequential(
            nn.Linear(config.history * self.code.size + len(config.tasks), size),
            nn.SiLU(),
            nn.Linear(size, size),
        )
        self.mix = nn.Sequential(nn.Linear(size, size), nn.SiLU())
        widths = (colours, *config.success_channels)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(max(1, after // 16), after), nn.SiLU()]
        self.judge = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.verdict = nn.Linear(16 * widths[-1] + len(config.tasks), 1)

    def join(self, observation: Mapping[str, Tensor]) -> Tensor:
        """uint8 `[..., H, W, C]` to `[..., C, H, W]`."""
        return observation[self.key].float().div(127.5).sub(1).movedim(-1, -3)

    def split(self, frame: Tensor) -> dict[str, Tensor]:
        """Back to uint8."""
        return {self.key: frame.movedim(-3, -1).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)}

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM's loss of the next picture, and the success model's on the real and the denoised one."""
        config, horizon = self.config, self.config.history
        assert batch.mask is not None
        frames, task = self.join(batch.observation), batch.observation[TASK]
        actions = batch.action.masked_fill(~batch.mask[..., None], torch.nan)[:, :horizon]
        inside = batch.mask[:, horizon - 1].float()
        label = batch.observation[SUCCESS][:, horizon]
        count, device = len(frames), frames.device
        past = config.past_noise * torch.rand(count, generator=generator, device=device)
        sigma = self.draw_levels((count,), generator)
        clean = frames[:, horizon]
        noise = torch.randn(clean.shape, generator=generator, device=device) * _wide(sigma)
        shared = torch.randn((*clean.shape[:2], 1, 1), generator=generator, device=device)
        noisy = clean + noise + config.offset * shared
        history = frames[:, :horizon]
        history = (
            history + torch.randn(history.shape, generator=generator, device=device) * _wide(past)[:, None]
        )
        keep, out, scale = (_wide(part) for part in edm_scales(self._total(sigma), DEVIATION))
        context = self._context(self.encode_actions(actions, history)[0], task, past)
        output = self._output(noisy * scale, history, context, sigma)
        error = (output - (clean - keep * noisy) / out).square().flatten(1).mean(1)
        dynamics = (error * inside).sum() / inside.sum().clamp_min(1)
        guess = (keep * noisy + out * output).detach()
        known = inside * (label >= 0)
        judged = frames.new_zeros(())
        for frame in (clean, _rounded(guess)):
            each = F.binary_cross_entropy_with_logits(
                self._logit(frame, task), label.clamp_min(0), reduction="none"
            )
            judged = judged + (each * known).sum() / (2 * known.sum().clamp_min(1))
        return dynamics + judged, {"dynamics": dynamics.detach(), "success_model": judged.detach()}

    def imagine(self, history: Tensor, actions: Tensor, task: Tensor, noise: Tensor) -> Imagined:
        """The next picture; sampling starts from unit noise, as DIAMOND's does."""
        past = history.new_full((len(history),), self.config.past_noise_used)
        features, clipped = self.encode_actions(actions, history)
        context = self._context(features, task, past)

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            keep, out, scale = (_wide(part) for part in edm_scales(self._total(sigma), DEVIATION))
            return keep * x + out * self._output(x * scale, history, context, sigma)

        picture = _rounded(denoise(estimate, noise, self.sigmas))
        return Imagined(picture, picture.new_zeros(len(picture)), clipped[:, -1].any(-1))

    def succeeded(self, frame: Tensor, task: Tensor) -> Tensor:
        """Of the picture alone."""
        return self._logit(frame, task).sigmoid()

    def plausible(self, frame: Tensor) -> Tensor:
        """Finite: pictures cannot leave their range."""
        return frame.isfinite().flatten(1).all(1)

    def _total(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.config.offset**2).sqrt()

    def _context(self, actions: Tensor, task: Tensor, past: Tensor) -> Tensor:
        known = F.one_hot(task, len(self.config.tasks)).float()
        found: Tensor = self.acts(torch.cat([actions.flatten(1), known], -1))
        return found + self.past_level(noise_level(past))

    def _output(self, scaled: Tensor, history: Tensor, context: Tensor, sigma: Tensor) -> Tensor:
        seen = torch.cat([scaled, (history / DEVIATION).flatten(1, 2)], 1)
        result: Tensor = self.network(seen, self.mix(context + self.level(noise_level(sigma))))
        return result

    def _logit(self, frame: Tensor, task: Tensor) -> Tensor:
        known = F.one_hot(task, len(self.config.tasks)).float()
        verdict: Tensor = self.verdict(torch.cat([self.judge(frame), known], -1))
        return verdict[:, 0]


def _wide(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _rounded(picture: Tensor) -> Tensor:
    """Within [-1, 1], and rounded to 8 bits."""
    return picture.clamp(-1, 1).add(1).mul(127.5).round().div(127.5).sub(1)
