"""Real-time chunking (Black et al. 2025): the next chunk agrees with what is executed while it is computed.

Here is what the executor needs to know; the denoiser wrappers are in `robopolicy.diffusion.inpaint`. Action i
of the new chunk is for the same time as action i of the remainder: d of them will be over when it arrives.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from robopolicy.errors import ConfigError, unknown

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


def pad_remainder(remainder: np.ndarray, horizon: int) -> np.ndarray:
    """What is left of the old chunk `[T, Da]` as `[horizon, Da]`: cut, or its last action held.

    Zeros would be the mean of the data and pull the arm there.

    Raises:
        ConfigError: there is nothing left: start a free chunk instead.
    """
    if not len(remainder):
        raise ConfigError("There is no remainder to continue: sample the next chunk without one.")
    missing = max(0, horizon - len(remainder))
    return np.concatenate([remainder[:horizon], np.repeat(remainder[-1:], missing, axis=0)])


def guidance_scale(sigma: float, largest: float = 5.0) -> float:
    """Weight of the pull on the clean estimate at noise level sigma of ``x = clean + sigma * noise``.

    The paper's min(beta, (1 - t) / (t r^2)), r^2 = (1 - t)^2 / (t^2 + (1 - t)^2) and t = 1 / (1 + sigma), is
    for velocities and the sample scaled by t; on clean estimates it becomes min(beta sigma, 1 + sigma^2).
    """
    return min(largest * sigma, 1.0 + sigma * sigma)
