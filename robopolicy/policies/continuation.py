"""Real-time chunking (Black et al. 2025): chunks that continue the one that is executed meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from robopolicy.diffusion.inpaint import GuidedContinuation, Inpaint
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.denoising import DenoisingPolicy, run_sampler
from robopolicy.policies.policy import Policy, Request, evaluating
from robopolicy.rollout import LaneView, PolicyActor

__all__ = ["ContinuingActor", "Weigh"]

Weigh = Callable[[int], np.ndarray]
"""From the number of rows that the old chunk still covers to how strongly each row is held `[Tp]`."""


class ContinuingActor(PolicyActor):
    """A diffusion policy in one lane, whose chunks agree where they are about the same time.

    Args:
        guided: pull through the whole Jacobian, as in the paper; otherwise replace the clean estimate.

    Raises:
        MissingCapability: the policy does not denoise.
    """

    def __init__(self, policy: Policy, action_horizon: int | None = None, *, guided: bool = True) -> None:
        if not isinstance(policy, DenoisingPolicy):
            raise MissingCapability(f"Continuing chunks takes denoising, not {type(policy).__name__}.")
        super().__init__(policy, action_horizon)
        self._denoising, self._wrap = policy, GuidedContinuation if guided else Inpaint

    def continue_from(self, view: LaneView, last: np.ndarray, elapsed: float, weigh: Weigh) -> np.ndarray:
        """The rows to execute from now on, `[1, Ta, Da]`.

        Args:
            last: what the last call returned, without its batch: `[Ta, Da]`.
            elapsed: by how many rows the new observation is later than that of `last`.

        Raises:
            ConfigError: more than one lane, or time went backwards.
        """
        if len(view.seeds) != 1 or elapsed < 0:
            raise ConfigError(f"One lane and elapsed >= 0 are needed, got {len(view.seeds)}, {elapsed}.")
        policy, texts = self._denoising, self._texts
        raw = {
            key: policy.tokens([view.instruction]) if key in texts else torch.as_tensor(view.observation[key])
            for key in policy.spec.observations
        }
        raw = {key: value.to(policy.device) for key, value in raw.items()}
        past = self.obs_horizon - 1
        with torch.no_grad(), evaluating(policy):
            codes = policy.codec.encode_action(torch.as_tensor(last, device=policy.device)[None], raw)
            place = torch.arange(policy.pred_horizon, device=policy.device) - past + elapsed
            known = _between(codes[0], place)[None]
            covered = int((place <= len(last) - 1).sum())
            weights = torch.as_tensor(weigh(covered), dtype=known.dtype, device=policy.device)
            noise = torch.randn(
                (1, 1, *policy.noise_shape), generator=self._generators[0], device=policy.device
            )
            held = self._wrap(policy.field(raw), known, weights)
            clip = policy.codec.action_bounds() if policy.clip else None
            made = run_sampler(policy.sampler, held, Request(noise, self._generators[0]), clip=clip)
            actions = policy.codec.decode_action(made.code, raw)
        rows = actions[:, past : past + self.action_horizon]
        return np.asarray(rows.cpu().numpy(), np.float32)


def _between(rows: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Rows `[T, D]` linearly interpolated at places `[P]` -> `[P, D]`; the ends are held."""
    inside = place.clamp(0, len(rows) - 1)
    first = inside.floor().long()
    share = (inside - first).to(rows)[:, None]
    following = (first + 1).clamp(max=len(rows) - 1)
    return (1 - share) * rows[first] + share * rows[following]
