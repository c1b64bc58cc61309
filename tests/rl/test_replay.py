from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import CheckpointError, ConfigError, DataError
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.replay import Replay, demonstration_rows, mixed
from tests.toy_env import toy_spec, toy_task


def rows(start: int, count: int) -> dict[str, Tensor]:
    number = torch.arange(start, start + count, dtype=torch.float32)
    return {"reward": number, "state": torch.stack([number, -number], -1)}


def held(replay: Replay) -> set[float]:
    drawn = replay.sample(2000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn["state"], torch.stack([drawn["reward"], -drawn["reward"]], -1))
    return set(drawn["reward"].tolist())


def test_the_oldest_rows_make_room() -> None:
    replay = Replay(5)
    for start in (0, 3, 6):
        replay.add(rows(start, 3))
    assert len(replay) == 5
    assert held(replay) == {4, 5, 6, 7, 8}
    replay.add(rows(100, 12))  # more than there is room for
    assert held(replay) == {107, 108, 109, 110, 111}


@pytest.mark.parametrize("count", [0, 3, 5, 8])
def test_a_restored_replay_draws_and_forgets_the_same(count: int) -> None:
    replay, other = Replay(5), Replay(5)
    for start in range(count):
        replay.add(rows(start, 1))
    other.load_tensors({k: v.clone() for k, v in replay.tensors("replay").items()}, "replay")
    for start in (50, 60):
        for one in (replay, other):
            one.add(rows(start, 2))
        drawn = [one.sample(40, torch.Generator().manual_seed(1)) for one in (replay, other)]
        assert torch.equal(drawn[0]["reward"], drawn[1]["reward"])


def test_another_capacity_is_refused() -> None:
    replay = Replay(5)
    replay.add(rows(0, 8))
    with pytest.raises(CheckpointError, match="capacity"):
        Replay(6).load_tensors(replay.tensors("replay"), "replay")


def test_rows_of_another_kind_are_refused() -> None:
    replay = Replay(5)
    replay.add(rows(0, 1))
    with pytest.raises(ConfigError, match="state"):
        replay.add({"reward": torch.zeros(1)})
    with pytest.raises(DataError, match="empty"):
        Replay(5).sample(1, torch.Generator())


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("capacity", [1000, 61])
def test_several_steps_count_as_one_as_in_a_loop(n_step: int, capacity: int) -> None:
    """Lanes whose episodes end at different moments, terminated (discount 0) or not, in a ring that wraps."""
    rng, replay, lanes = np.random.default_rng(0), Replay(capacity), 3
    episodes: list[list[tuple[float, float, int]]] = []  # reward, discount and number of what comes next
    place: dict[int, tuple[int, int]] = {}  # by a row's number: its episode, its position there
    under_way: list[list[tuple[float, float, int]]] = [[] for _ in range(lanes)]
    newest = torch.full((lanes,), -1)
    for moment in range(60):
        present = np.flatnonzero(rng.random(lanes) < 0.9)  # one that is not lost its worker
        ended = rng.random(lanes) < 0.2
        reward, discount = rng.normal(size=lanes), np.where(ended & (rng.random(lanes) < 0.5), 0.0, 0.9)
        for lane in range(lanes):
            if lane in present:
                number = moment * lanes + lane
                if not under_way[lane]:
                    episodes.append(under_way[lane])
                place[number] = (
                    next(i for i, e in enumerate(episodes) if e is under_way[lane]), len(under_way[lane])
                )  # fmt: skip
                under_way[lane].append((reward[lane], discount[lane], number + 1000))
            if ended[lane] or lane not in present:
                under_way[lane] = []
        if len(present):
            numbers = torch.from_numpy(moment * lanes + present).float()
            where = replay.add(
                {
                    "number": numbers,
                    "next_number": numbers + 1000,
                    "reward": torch.from_numpy(reward[present]),
                    "discount": torch.from_numpy(discount[present]),
                }
            )
            before = newest[present]
            replay.link(before[before >= 0], where[before >= 0])
            newest[present] = where
        newest[torch.from_numpy(ended | ~np.isin(np.arange(lanes), present))] = -1
    drawn = replay.sample(500, torch.Generator().manual_seed(0), n_step)
    assert "following" not in drawn
    for i, number in enumerate(drawn["number"].int().tolist()):
        episode, at = place[number]
        total, left = 0.0, 1.0
        counted = episodes[episode][at : at + n_step]
        for reward_then, discount_then, _ in counted:
            total, left = total + left * reward_then, left * discount_then
        assert drawn["next_number"][i] == counted[-1][2]
        assert float(drawn["reward"][i]) == pytest.approx(total)
        assert float(drawn["discount"][i]) == pytest.approx(left)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 16), (0.25, 8), (0.0, 0), (1.0, 32)])
def test_the_mixture_is_exact(share: float, expected: int) -> None:
    online, offline = Replay(10), Replay(10)
    online.add(rows(0, 10))
    offline.add(rows(1000, 10))
    drawn = mixed(online, offline, 32, torch.Generator().manual_seed(0), share)["reward"]
    assert len(drawn) == 32
    assert int((drawn >= 1000).sum()) == expected
    alone = mixed(online, None, 32, torch.Generator().manual_seed(0), share)["reward"]
    assert len(alone) == 32
    assert int((alone >= 1000).sum()) == 0


def demonstrations(path: Path, *, success: bool | None = True) -> str:
    """Two episodes whose numbers tell episode and time; the first succeeded in its last two steps."""
    store = EpisodeStore.create(
        path, toy_spec(), task=toy_task(success_hold=1).to_dict(), extra={"reward": ()}
    )
    for episode, (length, succeeded) in enumerate(((5, success), (3, False))):
        time = np.arange(length, dtype=np.float32)
        store.append(
            {
                "position": np.stack([100 * episode + time, time], -1).astype(np.float32),
                "goal": np.zeros((length, 2), np.float32),
                "action": np.stack([time, np.full(length, episode)], -1).astype(np.float32) / 10,
                "reward": 10 * time,
            },
            success=succeeded,
        )
    return str(path)


def loaded(path: str, episodes: int | None = None, **convention: object) -> dict[str, Tensor]:
    return demonstration_rows(
        path,
        toy_spec(),
        ConventionConfig(**convention),  # type: ignore[arg-type]
        obs_horizon=2,
        action_horizon=2,
        gamma=0.5,
        episodes=episodes,
    )


def test_demonstrations_that_end_at_success(tmp_path: Path) -> None:
    found = loaded(demonstrations(tmp_path / "a.zarr"), terminate=True)
    # Success at time 3 ends the first episode there; the second runs out of time.
    start = found["observation.position"][:, -1, 0].tolist()
    assert start == [0, 1, 2, 3, 100, 101, 102]
    assert found["reward"].tolist() == [0, 0, 0.5, 1, 0, 0, 0]
    assert found["discount"].tolist() == [0.25, 0.25, 0, 0, 0.25, 0.25, 0.5]
    after = found["next_observation.position"][:, -1, 0].tolist()
    assert after[:2] == [2, 3]
    assert after[4:] == [102, 102, 102]
    assert found["observation.position"][0, :, 0].tolist() == [0, 0]
    torch.testing.assert_close(found["action"][1, :, 0], torch.tensor([0.1, 0.2]))


def test_the_first_demonstrations_alone(tmp_path: Path) -> None:
    path = demonstrations(tmp_path / "a.zarr")
    every, first = loaded(path, terminate=True), loaded(path, episodes=1, terminate=True)
    assert first["observation.position"][:, -1, 0].tolist() == [0, 1, 2, 3]
    assert all(torch.equal(value, every[key][:4]) for key, value in first.items())
    with pytest.raises(ConfigError, match=r"has 2 episodes; demonstrations=3 is not among 1\.\.2"):
        loaded(path, episodes=3)


def test_demonstrations_that_go_on_after_success(tmp_path: Path) -> None:
    found = loaded(demonstrations(tmp_path / "a.zarr"), reward="cost")
    assert found["reward"].tolist() == [-1.5, -1.5, -1, 0, 0, -1.5, -1.5, -1]
    assert found["discount"].tolist() == [0.25, 0.25, 0.25, 0.25, 0.5, 0.25, 0.25, 0.5]


def test_rewards_that_were_recorded(tmp_path: Path) -> None:
    found = loaded(demonstrations(tmp_path / "a.zarr"), reward="env", scale=2.0)
    assert found["reward"].tolist() == [10, 40, 70, 100, 80, 10, 40, 40]


def test_demonstrations_of_unknown_success_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 episodes succeeded"):
        loaded(demonstrations(tmp_path / "a.zarr", success=None))
