"""What the trainer trains and a checkpoint keeps, whatever it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from robopolicy.codecs import Codec
from robopolicy.errors import MissingCapability
from robopolicy.spec import Spec
from robopolicy.task import Task

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["Model", "Provenance"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from; stored in its checkpoint."""

    task: Task | None = None
    used_seeds: tuple[int, ...] = ()
    """Episode seeds its data was collected with, and those it practised or was selected on."""
    fingerprint: str = ""
    """Of the dataset."""
    step: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    """The whole run's configuration."""


class Model(nn.Module):
    """A network with a spec, a codec and a history: a policy, or a model of the world."""

    kind: ClassVar[str]
    """Of registration; also what the files of its checkpoints are called."""
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: Spec, codec: Codec) -> None:
        super().__init__()
        self.spec, self.codec = spec, codec
        self.provenance = Provenance()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def require(self, *capabilities: str) -> None:
        """Raise unless the model declares these capabilities.

        Raises:
            MissingCapability: names what is missing and what there is.
        """
        missing = sorted(set(capabilities) - self.capabilities)
        if missing:
            raise MissingCapability(
                f"{type(self).__name__} lacks {', '.join(missing)}; it has: "
                f"{', '.join(sorted(self.capabilities)) or 'none'}."
            )

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss (a scalar) and what to log, for a batch in the robot's units."""
        raise MissingCapability(f"{type(self).__name__} is not trainable.")

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss."""
        return self.loss(batch, generator)
