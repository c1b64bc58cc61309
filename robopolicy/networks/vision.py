"""Images as features: a convolutional network for every camera, with spatial softmax (Finn et al. 2016).

As in Diffusion Policy (Chi et al. 2023): ResNet-18 with GroupNorm instead of BatchNorm (which averaged
weights would break), random crops in training and the centre crop otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.device import reduced
from robopolicy.errors import ConfigError
from robopolicy.networks.observation import EncoderConfig, ObservationEncoder
from robopolicy.registry import register
from robopolicy.spec import Spec

__all__ = ["ResNet18", "VisionConfig", "VisionEncoder", "centre_crop", "random_crop", "spatial_softmax"]


@dataclass(frozen=True, kw_only=True)
class VisionConfig(EncoderConfig):
    """The defaults are the published sizes (11.2 M parameters a camera)."""

    backbone: Literal["resnet18", "small"] = "resnet18"
    channels: tuple[int, ...] = (16, 32, 64)
    """Of the small backbone; each layer halves the picture."""
    crop: float = 0.9
    """Side of the crop as a fraction of the picture's; 1 for none. Random crops hide where things are in the
    picture, by a tenth of its side, unless something that stands still is seen beside them."""
    keypoints: int = 32
    features: int = 64
    """Of every camera."""
    frozen: bool = False
    """Keep the network as it is; training then computes the features of its frames only once."""
    weights: str = ""
    """Checkpoint or run whose vision networks training starts from."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions alone."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1 or self.keypoints < 1 or self.features < 1:
            raise ConfigError(f"vision: 0 < crop <= 1, keypoints >= 1, features >= 1; got {self}.")
        if not self.channels or any(width % 16 for width in self.channels):
            raise ConfigError(f"vision: channels must be multiples of 16, got {list(self.channels)}.")
        if self.frozen and not self.weights:
            raise ConfigError("vision: a frozen encoder needs weights=<checkpoint>.")

    def cropped(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width that are left of a picture's."""
        return max(1, round(self.crop * size[0])), max(1, round(self.crop * size[1]))


@register("encoder", "vision")
class VisionEncoder(ObservationEncoder):
    """Features of every camera, then the states, then the instruction."""

    reads = ("state", "image")

    def __init__(self, config: VisionConfig, *, spec: Spec) -> None:
        super().__init__(config, spec=spec)
        if not self.images:
            raise ConfigError(
                f"The vision encoder needs an image; there is none among {sorted(spec.observations)}. Give "
                "the task cameras, or choose encoder=state."
            )
        self.vision = config
        published = config.backbone == "resnet18"
        halvings, remedy = (5, "backbone=small") if published else (len(config.channels), "fewer channels")
        for key in self.images:
            side = max(config.cropped(spec.observations[key].shape[:2]))
            if math.ceil(side / 2**halvings) < 2:  # keypoints are all there
                raise ConfigError(
                    f"{key}: of {side} pixels after the crop one place is left after {halvings} halvings, "
                    f"which tells nothing of the picture. Take more than {2**halvings} pixels, or "
                    f"encoder: {remedy}."
                )
        self.cameras = nn.ModuleList(_Camera(config, spec.observations[key].shape[2]) for key in self.images)
        self.size += len(self.images) * config.features
        if config.frozen:
            self.cameras.requires_grad_(False)

    def pictures(self, observation: Mapping[str, Tensor]) -> list[Tensor]:
        """Features `[B, To, F]` of every image `[B, To, H, W, C]`; `[B, To, F]` are features already."""
        return [
            observation[key] if observation[key].dim() == 3 else self.embed(key, observation[key])
            for key in self.images
        ]

    def embed(self, key: str, picture: Tensor) -> Tensor:
        """Features `[B, To, F]` of one camera's pictures `[B, To, H, W, C]`, encoded to [-1, 1]."""
        batch, steps = picture.shape[:2]
        size = self.vision.cropped(picture.shape[2:4])
        augment = self.training and not self.vision.frozen
        cropped = random_crop(picture, size) if augment else centre_crop(picture, size)
        frames = cropped.flatten(0, 1).permute(0, 3, 1, 2)
        camera = self.cameras[self.images.index(key)]
        with reduced(self.vision.precision, frames.device):
            features = camera(frames)
        return features.float().view(batch, steps, -1)


def centre_crop(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle `[..., h, w, C]` of pictures `[..., H, W, C]`."""
    top, left = (picture.shape[-3] - size[0]) // 2, (picture.shape[-2] - size[1]) // 2
    return picture[..., top : top + size[0], left : left + size[1], :]


def random_crop(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A crop `[B, To, h, w, C]` of `[B, To, H, W, C]`, drawn for every row and equal at all its steps."""
    batch, device = len(picture), picture.device
    rows, columns = (
        torch.randint(full - kept + 1, (batch, 1), device=device) + torch.arange(kept, device=device)
        for full, kept in zip(picture.shape[2:4], size, strict=True)
    )
    lanes = torch.arange(batch, device=device)[:, None, None]
    chosen = picture.permute(0, 2, 3, 1, 4)[lanes, rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2, 4)


class _Camera(nn.Module):
    """One camera's network: `[N, C, H, W]` to `[N, features]`."""

    def __init__(self, config: VisionConfig, colours: int) -> None:
        super().__init__()
        if config.backbone == "resnet18":
            self.backbone: nn.Module = ResNet18(colours)
            width = 512
        else:
            widths = (colours, *config.channels)
            layers = [
                nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), _norm(outputs), nn.ReLU())
                for inputs, outputs in itertools.pairwise(widths)
            ]
            self.backbone, width = nn.Sequential(*layers), widths[-1]
        self.keypoints = nn.Conv2d(width, config.keypoints, 1)
        self.outlet = nn.Linear(2 * config.keypoints, config.features)

    def forward(self, frames: Tensor) -> Tensor:
        maps = self.keypoints(self.backbone(frames))
        # Positions differ from one another by less than bfloat16 can tell.
        with torch.autocast(frames.device.type, enabled=False):
            features: Tensor = self.outlet(spatial_softmax(maps))
        return features


def spatial_softmax(maps: Tensor) -> Tensor:
    """The mean position under the softmax of every map `[N, K, H, W]`: x then y in [-1, 1], `[N, 2 K]`."""
    height, width = maps.shape[2:]
    weight = maps.float().flatten(2).softmax(-1).view_as(maps)
    x = weight.sum(2) @ torch.linspace(-1, 1, width, device=maps.device)
    y = weight.sum(3) @ torch.linspace(-1, 1, height, device=maps.device)
    return torch.cat([x, y], 1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // 16, width)


class _Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = _norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = _norm(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(hidden)) + self.skip(x))


class ResNet18(nn.Sequential):
    """He et al. 2016 up to the last feature map, `[N, C, H, W]` to `[N, 512, H / 32, W / 32]`, GroupNorm."""

    def __init__(self, colours: int = 3) -> None:
        widths = (64, 64, 128, 256, 512)
        stages = [
            nn.Sequential(_Block(inputs, outputs, 1 if index == 0 else 2), _Block(outputs, outputs, 1))
            for index, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        ]
        stem = (nn.Conv2d(colours, 64, 7, 2, 3, bias=False), _norm(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        super().__init__(*stem, *stages)
