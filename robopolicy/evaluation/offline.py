"""Offline error: how far predicted actions are from recorded ones. No simulator needed; it is not success."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows, split_episodes
from robopolicy.errors import DataError
from robopolicy.policies.policy import Policy
from robopolicy.progress import progress_bar
from robopolicy.seeding import derive

__all__ = ["BATCH", "format_error", "held_out", "offline_error", "write_error"]

BATCH = 512


def offline_error(
    policy: Policy,
    store: EpisodeStore,
    episodes: Sequence[int],
    *,
    limit: int = 4096,
    progress: bool = True,
) -> dict[str, Any]:
    """Error of one sample against the recorded actions, over windows of the given episodes.

    Args:
        limit: at most this many windows, evenly spaced.

    Returns:
        ``names``, ``unit``; ``rmse`` and ``mae`` [Da] in the action's units; ``relative`` [Da], the rmse over
        the standard deviation of the recorded actions (1 is as good as always predicting their mean);
        ``rmse_by_step`` and ``relative_by_step`` over ``steps`` of the prediction (0 is now).

    Raises:
        DataError: no episodes.
        SpecMismatch: the store lacks what the policy needs.
    """
    if not episodes:
        raise DataError(f"{store.where}: there is no episode to measure offline error on.")
    policy.spec.require(store.spec, f"store {store.where}")
    windows = Windows(
        store,
        obs_keys=list(policy.spec.observations),
        episodes=list(episodes),
        device=policy.device,
        obs_horizon=policy.obs_horizon,
        pred_horizon=policy.pred_horizon,
        action_horizon=policy.action_horizon,
    )
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(limit, len(windows))).round().astype(np.int64))
    inside = _inside(store.lengths[list(episodes)], chosen, policy.obs_horizon, policy.pred_horizon)
    generator = torch.Generator(policy.device).manual_seed(derive(0, "offline"))
    shape = (policy.pred_horizon, policy.spec.action.size)
    square, absolute = np.zeros(shape), np.zeros(shape)
    total, total_square, count = np.zeros(shape), np.zeros(shape), np.zeros((shape[0], 1))
    for start in progress_bar(range(0, len(chosen), BATCH), desc="offline error", disable=not progress):
        index = torch.as_tensor(chosen[start : start + BATCH], device=policy.device)
        batch = windows.gather(index).to(policy.device)
        texts = dict.fromkeys(policy.codec.texts, batch.instruction)
        sample = policy.sample({**batch.observation, **texts}, generator=generator)
        predicted = sample.actions[:, 0].double()
        actual = batch.action.double()
        valid = torch.as_tensor(inside[start : start + BATCH], device=policy.device).double()[..., None]
        gap = (predicted - actual) * valid
        for sums, value in (
            (square, gap**2),
            (absolute, gap.abs()),
            (total, actual * valid),
            (total_square, actual**2 * valid),
            (count, valid),
        ):
            sums += value.sum(dim=0).cpu().numpy()
    everywhere = count.sum()
    mean = total.sum(0) / everywhere
    deviation = np.sqrt(np.maximum(total_square.sum(0) / everywhere - mean**2, 0.0))
    varies = deviation > 1e-6
    seen = count[:, 0] > 0
    by_step = np.sqrt(square[seen] / count[seen])
    rmse = np.sqrt(square.sum(0) / everywhere)
    scale = np.where(varies, deviation, 1.0)
    return {
        "names": list(policy.spec.action.names),
        "unit": policy.spec.action.unit,
        "episodes": len(episodes),
        "windows": len(chosen),
        "rmse": rmse.tolist(),
        "mae": (absolute.sum(0) / everywhere).tolist(),
        "deviation": deviation.tolist(),
        "relative": [float(v) if ok else None for v, ok in zip(rmse / scale, varies, strict=True)],
        "steps": (np.flatnonzero(seen) - (policy.obs_horizon - 1)).tolist(),
        "rmse_by_step": np.sqrt((by_step**2).mean(1)).tolist(),
        "relative_by_step": np.sqrt(((by_step / scale)[:, varies] ** 2).mean(1)).tolist(),
    }


def _inside(lengths: np.ndarray, index: np.ndarray, obs_horizon: int, pred_horizon: int) -> np.ndarray:
    """Which rows of the windows `index` lie inside their episodes, `[B, Tp]`: padding was not recorded."""
    stops = np.cumsum(lengths)
    first, stop = (np.repeat(values, lengths)[index, None] for values in (stops - lengths, stops))
    rows = index[:, None] + np.arange(pred_horizon) - (obs_horizon - 1)
    return (first <= rows) & (rows < stop)


def held_out(policy: Policy, store: EpisodeStore) -> tuple[list[int], str]:
    """Episodes the policy was not trained on, and what they are, in words.

    In the store it was trained on those are the ones its run held out, in another store all of them.
    """
    provenance = policy.provenance
    if provenance.fingerprint != store.fingerprint():
        return list(range(len(store))), "another store than the training data"
    config = provenance.config
    _, rest = split_episodes(store, config["validation"], config["seed"], limit=config["demonstrations"])
    if rest:
        return list(rest), "held out from training"
    return list(range(len(store))), "TRAINING episodes, none was held out"


def format_error(error: dict[str, Any], what: str = "held out from training") -> str:
    """The result of `offline_error` as a text table."""
    unit = f" ({error['unit']})" if error["unit"] else ""
    lines = [
        f"Offline error over {error['windows']} windows of {error['episodes']} episodes: {what}.",
        f"{'action':<16}{'rmse':>12}{'mae':>12}{'data std':>12}{'rmse/std':>10}{unit}",
    ]
    columns = (error["names"], error["rmse"], error["mae"], error["deviation"], error["relative"])
    for name, rmse, mae, deviation, relative in zip(*columns, strict=True):
        shown = "constant" if relative is None else f"{relative:.3f}"
        lines.append(f"{name:<16}{rmse:>12.5f}{mae:>12.5f}{deviation:>12.5f}{shown:>10}")
    if error["relative_by_step"]:
        pairs = zip(error["steps"], error["relative_by_step"], strict=True)
        lines.append("rmse/std by step ahead: " + "  ".join(f"{s:+d}: {v:.3f}" for s, v in pairs))
    lines.append("(rmse/std 1 is as good as always predicting the mean; it does not tell the success rate.)")
    return "\n".join(lines)


def write_error(error: dict[str, Any], path: str | Path) -> None:
    """As JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(error, indent=1) + "\n")
