"""What was experienced, kept as tensors where learning happens: rows go in, a batch is one gather."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows
from robopolicy.errors import CheckpointError, ConfigError, DataError
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.labels import label_steps
from robopolicy.rl.practice import Experience
from robopolicy.rl.targets import chunk_reward
from robopolicy.spec import Spec

__all__ = ["Replay", "Rows", "demonstration_rows", "mixed", "observations", "transition_rows"]

Rows = dict[str, Tensor]
"""Named columns `[N, ...]`. Chunk transitions have: observation.<key>, next_observation.<key> `[N, To, ...]`,
action `[N, Ta, Da]`, reward `[N]` (discounted inside the chunk) and discount `[N]`, which is
gamma^steps (1 - terminated)."""


_FOLLOWING = "following"
"""How many rows further on an episode goes on; 0 where it does not, or nobody has said."""


class Replay:
    """A ring of rows; memory is taken once, when the first rows tell their shapes."""

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ConfigError(f"A replay needs room for at least one row, got {capacity}.")
        self.capacity, self.device = capacity, torch.device(device)
        self._columns: Rows = {}
        self._next = 0
        self._size = 0

    def __len__(self) -> int:
        """Rows held."""
        return self._size

    def add(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Append rows, the oldest make room; returns where they are, int64 `[N]`, for `link`."""
        rows = {_FOLLOWING: torch.zeros(len(next(iter(rows.values()))), dtype=torch.int32), **rows}
        if not self._columns:
            self._columns = {
                key: torch.empty((self.capacity, *value.shape[1:]), dtype=value.dtype, device=self.device)
                for key, value in rows.items()
            }
        if rows.keys() != self._columns.keys():
            had, given = (sorted({*keys} - {_FOLLOWING}) for keys in (self._columns, rows))
            raise ConfigError(f"Rows have {given}; the replay holds {had}.")
        count = len(next(iter(rows.values())))
        where = (self._next + torch.arange(count, device=self.device)) % self.capacity
        for key, value in rows.items():
            self._columns[key][where[-self.capacity :]] = value[-self.capacity :].to(self.device)
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)
        return where

    def link(self, before: Tensor, after: Tensor) -> None:
        """Episodes go on from rows `before` to rows `after`, int64 `[N]` each, as `add` gave them."""
        self._columns[_FOLLOWING][before] = ((after - before) % self.capacity).to(torch.int32)

    def sample(self, count: int, generator: torch.Generator, n_step: int = 1) -> Rows:
        """`count` rows, drawn uniformly with repetition.

        Args:
            n_step: rewards of so many rows of an episode (fewer at its end) count as one, and what is next is
                what comes after them (Sutton 1988). Where later rows were another policy's, that is biased.
        """
        if not self._size:
            raise DataError("The replay is empty.")
        index = torch.randint(self._size, (count,), generator=generator, device=self.device)
        found = {key: value[index] for key, value in self._columns.items() if key != _FOLLOWING}
        if n_step == 1:
            return found
        reward, discount, last = found["reward"], found["discount"], index
        for _ in range(n_step - 1):
            ahead = self._columns[_FOLLOWING][last]
            last = (last + ahead) % self.capacity
            goes_on = ahead > 0
            reward = reward + torch.where(goes_on, discount * self._columns["reward"][last], 0.0)
            discount = torch.where(goes_on, discount * self._columns["discount"][last], discount)
        following = {key: value[last] for key, value in self._columns.items() if key.startswith("next_")}
        return {**found, **following, "reward": reward, "discount": discount}

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The rows and where the next one goes."""
        position = torch.tensor([self._next, self._size])
        rows = {f"{prefix}.rows.{key}": value[: self._size] for key, value in self._columns.items()}
        return {f"{prefix}.position": position, **rows}

    def load_tensors(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Read back what `tensors` gave.

        Raises:
            CheckpointError: more rows than this replay has room for.
        """
        following, size = (int(v) for v in tensors[f"{prefix}.position"])
        if size > self.capacity or (size < self.capacity and following != size):
            raise CheckpointError(f"{prefix} was saved with another capacity than {self.capacity}.")
        start = f"{prefix}.rows."
        rows = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        self._columns, self._next, self._size = {}, 0, 0
        if rows:
            self.add(rows)
        self._next, self._size = following, size


def mixed(
    online: Replay,
    offline: Replay | None,
    count: int,
    generator: torch.Generator,
    share: float = 0.5,
    n_step: int = 1,
) -> Rows:
    """`count` rows, exactly `round(share * count)` of them from `offline` (RLPD's symmetric sampling).

    Args:
        n_step: of the rows of `online`.
    """
    if offline is None or not len(offline):
        return online.sample(count, generator, n_step)
    demonstrated = round(share * count) if len(online) else count
    if not demonstrated:
        return online.sample(count, generator, n_step)
    rows = offline.sample(demonstrated, generator)
    if demonstrated == count:
        return rows
    fresh = online.sample(count - demonstrated, generator, n_step)
    return {key: torch.cat([fresh[key], value]) for key, value in rows.items()}


def transition_rows(experience: Experience, chunk: Tensor, spec: Spec, gamma: float, **extra: Tensor) -> Rows:
    """Rows, where `chunk` is, of one practised chunk `[B, Ta, Da]` and of further columns `[B, ...]`.

    The chunk is kept whole, executed or not. Lanes lost with their worker process leave no row.
    """
    transition = experience.transition
    reward, discount = chunk_reward(experience.rewards, experience.steps, gamma)
    columns = {"reward": reward, "discount": discount * ~transition.step.terminated}
    rows = {key: torch.as_tensor(value, dtype=torch.float32) for key, value in columns.items()}
    for key in spec.observations:
        rows[f"observation.{key}"] = torch.as_tensor(transition.observation[key])
        rows[f"next_observation.{key}"] = torch.as_tensor(transition.next_observation[key])
    rows = {key: value.to(chunk.device) for key, value in rows.items()} | {"action": chunk} | extra
    if experience.lost.any():
        kept = torch.as_tensor(~experience.lost, device=chunk.device)
        rows = {key: value[kept] for key, value in rows.items()}
    return rows


def observations(rows: Mapping[str, Tensor], which: str = "observation") -> dict[str, Tensor]:
    """The columns ``<which>.<key>`` as an observation."""
    start = f"{which}."
    return {key[len(start) :]: value for key, value in rows.items() if key.startswith(start)}


def demonstration_rows(
    path: str,
    spec: Spec,
    convention: ConventionConfig,
    *,
    obs_horizon: int,
    action_horizon: int,
    gamma: float,
    episodes: int | None = None,
) -> Rows:
    """Every chunk of a store's episodes as the practice would have recorded it (see `label_steps`).

    Its last observation stands in for the one after its last step, which no store has.

    Args:
        episodes: so many, the first ones; all by default.

    Raises:
        ConfigError: fewer episodes than wanted.
        DataError: nothing is known of an episode's success, or its reward is wanted and not stored.
    """
    store = EpisodeStore.open(path)
    spec.require(store.spec)
    labels = label_steps(store, convention)
    paid = labels.rewards
    count = len(store.lengths)
    if episodes is not None and not 1 <= episodes <= count:
        raise ConfigError(f"{path} has {count} episodes; demonstrations={episodes} is not among 1..{count}.")
    starts = labels.starts
    starts = starts[starts < store.lengths[: episodes or count].sum()]
    last = labels.last[starts]
    steps = np.minimum(action_horizon, last + 1 - starts)
    executed = np.arange(action_horizon) < steps[:, None]
    rewards = np.where(
        executed, paid[np.minimum(starts[:, None] + np.arange(action_horizon), len(paid) - 1)], 0.0
    )
    reward, discount = chunk_reward(rewards, steps, gamma)
    ends = convention.terminate & (starts + steps == last + 1) & labels.succeeded[last]

    windows = Windows(
        store,
        obs_keys=list(spec.observations),
        obs_horizon=obs_horizon,
        pred_horizon=obs_horizon - 1 + action_horizon,
        action_horizon=action_horizon,
        cache="device",
    )
    before = windows.gather(torch.as_tensor(starts))
    after = windows.gather(torch.as_tensor(np.minimum(starts + steps, labels.final[starts])))
    rows = {
        "action": before.action[:, obs_horizon - 1 :],
        "reward": torch.as_tensor(reward, dtype=torch.float32),
        "discount": torch.as_tensor(discount * ~ends, dtype=torch.float32),
    }
    rows |= {f"observation.{key}": value for key, value in before.observation.items()}
    return rows | {f"next_observation.{key}": value for key, value in after.observation.items()}
