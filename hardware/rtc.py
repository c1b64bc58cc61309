"""Real-time chunking (Black et al. 2025): the next chunk agrees with what is executed while it is computed.

Here is what the executor needs to know; the denoiser wrappers are in `robopolicy.diffusion.inpaint`. Action i
of the new chunk is for the same time as action i of the remainder: d of them will be over when it arrives.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from robopolicy.errors import ConfigError, unknown

__all__ = ["Schedule", "prefix_weights"]

Schedule = Literal["exponential", "linear", "ones", "zeros"]
_SCHEDULES = ("exponential", "linear", "ones", "zeros")


def prefix_weights(horizon: int, delay: int, overlap: int, schedule: Schedule = "exponential") -> np.ndarray:
    """How strongly each action of the new chunk is held to the old one `[horizon]`, float64.

    1 for the `delay` actions that are executed meanwhile, falling to 0 at `overlap`, where the old chunk ends
    or is let go, and 0 after it.

    Raises:
        ConfigError: unless 0 <= delay <= overlap <= horizon, or an unknown schedule.
    """
    if not 0 <= delay <= overlap <= horizon:
        raise ConfigError(
            f"0 <= delay <= overlap <= horizon is needed, got delay={delay}, overlap={overlap}, "
            f"horizon={horizon}: the policy is too slow for its chunks, or they are too short."
        )
    if schedule not in _SCHEDULES:
        raise ConfigError(unknown("schedule", schedule, _SCHEDULES))
    index = np.arange(horizon)
    fall = np.clip((overlap - index) / (overlap - delay + 1), 0.0, 1.0)
    if schedule == "exponential":
        fall = fall * np.expm1(fall) / np.expm1(1.0)
    elif schedule in ("ones", "zeros"):
        fall = np.full(horizon, float(schedule == "ones"))
    return np.where(index < delay, 1.0, np.where(index < overlap, fall, 0.0))
