"""Windows against a slow reference, splits, statistics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows, split_episodes
from robopolicy.errors import ConfigError, DataError
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec


def make_store(lengths: list[int], representation: str = "ee_delta", text: bool = False) -> EpisodeStore:
    observations = {
        "pos": ObservationSpec(shape=(3,)),
        "cam": ObservationSpec(shape=(4, 5, 3), dtype="uint8", kind="image"),
    }
    if text:
        observations["goal"] = ObservationSpec(shape=(), dtype="str", kind="text")
    parts = (ActionPart(kind="position", size=2), ActionPart(kind="gripper", size=1))
    action = ActionSpec(
        names=("x", "y", "g"), low=(-1.0,) * 3, high=(1.0,) * 3, representation=representation, parts=parts
    )
    store = EpisodeStore.create(
        MemoryStore(), Spec(observations=observations, action=action, control_hz=10.0)
    )
    rng = np.random.default_rng(sum(lengths))
    for index, n in enumerate(lengths):
        episode = {
            "pos": rng.normal(size=(n, 3)).astype(np.float32),
            "cam": rng.integers(0, 255, (n, 4, 5, 3), dtype=np.uint8),
            "action": rng.uniform(0.1, 1, (n, 3)).astype(np.float32),
        }
        store.append(episode, instruction=f"task {index}")
    return store


def slow_window(store: EpisodeStore, episode: int, t: int, to: int, tp: int, padding: str) -> dict[str, Any]:
    data = store.episode(episode)
    length = len(data["action"])
    window: dict[str, Any] = {key: [] for key in ("pos", "cam", "action", "mask")}
    for time in range(t - to + 1, t + 1):
        for key in ("pos", "cam"):
            window[key].append(data[key][max(time, 0)])
    for j in range(tp):
        time = t - (to - 1) + j
        row = data["action"][min(max(time, 0), length - 1)].copy()
        if time >= length and padding == "zero":
            row[:2] = 0.0
        window["action"].append(row)
        window["mask"].append(0 <= time < length)
    return {key: np.stack(value) for key, value in window.items()}


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    to=st.integers(1, 4),
    ta=st.integers(1, 6),
    spare=st.integers(0, 5),
    padding=st.sampled_from(["hold", "zero", "mask"]),
    data=st.data(),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_windows_equal_the_slow_reference(
    lengths: list[int], to: int, ta: int, spare: int, padding: Any, data: st.DataObject
) -> None:
    store = make_store(lengths)
    chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(lengths))), min_size=1)))
    tp = to - 1 + ta + spare
    arguments: dict[str, Any] = {
        "obs_keys": ["pos", "cam"],
        "obs_horizon": to,
        "pred_horizon": tp,
        "action_horizon": ta,
        "episodes": chosen,
        "padding": {"action": padding},
    }
    windows = Windows(store, cache="device", **arguments)
    assert len(windows) == sum(lengths[e] for e in chosen)
    moments = [(e, t) for e in chosen for t in range(lengths[e])]
    order = np.random.default_rng(0).permutation(len(moments))
    mapped = Windows(store, cache="memmap", **arguments)
    for batch in (windows.gather(torch.as_tensor(order)), mapped.gather(torch.as_tensor(order))):
        expected = [slow_window(store, moments[i][0], moments[i][1], to, tp, padding) for i in order]
        for key, found in {**batch.observation, "action": batch.action}.items():
            np.testing.assert_array_equal(found.numpy(), np.stack([window[key] for window in expected]))
        assert batch.observation["cam"].dtype == torch.uint8
        assert batch.action.dtype == torch.float32
        np.testing.assert_array_equal(batch.episode.numpy(), [moments[i][0] for i in order])
        if padding == "mask":
            assert batch.mask is not None
            np.testing.assert_array_equal(batch.mask.numpy(), np.stack([w["mask"] for w in expected]))
        else:
            assert batch.mask is None


@pytest.mark.parametrize("past", [0, 1, 3])
def test_a_chunk_holds_only_the_past_that_is_asked_for(past: int) -> None:
    """The first action that it holds stands in the rows before; everything else is as without."""
    store = make_store([9, 4])
    horizons: dict[str, Any] = {"obs_horizon": 4, "pred_horizon": 7, "action_horizon": 2}
    everything = torch.arange(13)
    whole = Windows(store, obs_keys=["pos"], **horizons).gather(everything)
    found = Windows(store, obs_keys=["pos"], past_actions=past, **horizons).gather(everything)
    first = 3 - past
    assert torch.equal(found.action[:, first:], whole.action[:, first:])
    assert torch.equal(found.action[:, :first], whole.action[:, first : first + 1].expand(-1, first, -1))
    assert torch.equal(found.observation["pos"], whole.observation["pos"])


@pytest.mark.parametrize("past", [-1, 4])
def test_a_past_beyond_the_history_is_refused(past: int) -> None:
    with pytest.raises(ConfigError, match=rf"past_actions={past} must be in \[0, 3\]"):
        Windows(
            make_store([5]), obs_keys=["pos"], obs_horizon=4, pred_horizon=7, action_horizon=2,
            past_actions=past,
        )  # fmt: skip


@pytest.mark.parametrize(("representation", "last"), [("ee_delta", 0.0), ("joint_position", None)])
def test_padding_follows_the_action(representation: str, last: float | None) -> None:
    store = make_store([5], representation)
    windows = Windows(store, obs_keys=["pos"], obs_horizon=1, pred_horizon=4, action_horizon=4)
    final = store.episode(0)["action"][-1]
    padded = windows.gather(torch.tensor([4])).action[0, -1].numpy()
    np.testing.assert_array_equal(padded[:2], final[:2] if last is None else [last, last])
    assert padded[2] == final[2]  # a gripper command holds in either case


def test_text_comes_as_instructions() -> None:
    store = make_store([2, 3], text=True)
    windows = Windows(store, obs_keys=["pos", "goal"], obs_horizon=1, pred_horizon=1, action_horizon=1)
    assert windows.gather(torch.tensor([4, 0])).instruction == ["task 1", "task 0"]


def test_memmap_goes_where_told_and_goes_away(tmp_path: Path) -> None:
    store = make_store([6])
    windows = Windows(
        store,
        obs_keys=["cam"],
        obs_horizon=1,
        pred_horizon=2,
        action_horizon=1,
        cache="memmap",
        directory=tmp_path,
    )
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.raw")) == 6 * 4 * 5 * 3 + 6 * 3 * 4
    windows.gather(torch.tensor([0, 5]))
    del windows
    assert not list(tmp_path.iterdir())


def test_auto_cache_obeys_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store([6])
    arguments: dict[str, Any] = {
        "obs_keys": ["cam"],
        "obs_horizon": 1,
        "pred_horizon": 2,
        "action_horizon": 1,
    }
    assert Windows(store, **arguments).cache == "device"
    monkeypatch.setattr("robopolicy.data.windows._budget", lambda device: 6 * (60 + 12) - 1)
    assert Windows(store, **arguments).cache == "memmap"


def test_windows_refuse() -> None:
    store = make_store([5, 6])
    good: dict[str, Any] = {"obs_keys": ["pos"], "obs_horizon": 2, "pred_horizon": 8, "action_horizon": 4}
    for change, error, message in [
        ({"pred_horizon": 4}, ConfigError, "pred_horizon=4 is too short.*at least 5"),
        ({"obs_horizon": 0}, ConfigError, "at least 1"),
        ({"obs_keys": ["poz"]}, ConfigError, "'poz'. Did you mean 'pos'"),
        ({"padding": {"pos": "hold"}}, ConfigError, "Only the action"),
        ({"padding": {"action": "wrap"}}, ConfigError, "padding 'wrap'"),
        ({"cache": "ram"}, ConfigError, "cache 'ram'"),
        ({"episodes": []}, DataError, "no episodes"),
        ({"episodes": [2]}, DataError, "there is no episode 2"),
        ({"episodes": [1, 1]}, DataError, "episode 1 is chosen twice"),
    ]:
        with pytest.raises(error, match=message):
            Windows(store, **{**good, **change})  # type: ignore[arg-type]


def test_batches_move_whole() -> None:
    padding: Any = {"action": "mask"}
    store = make_store([5])
    windows = Windows(
        store, obs_keys=["pos"], obs_horizon=1, pred_horizon=2, action_horizon=1, padding=padding
    )
    moved = windows.gather(torch.tensor([1])).to("meta")
    for field in dataclasses.fields(moved):
        value = getattr(moved, field.name)
        for tensor in value.values() if isinstance(value, dict) else [value]:
            assert tensor is None or tensor.device.type == "meta"


def test_split_is_disjoint_and_nested() -> None:
    store = make_store([1] * 40)
    train, held_out = split_episodes(store, 0.1, seed=3)
    assert sorted(train + held_out) == list(range(40))
    assert len(held_out) == 4
    previous: set[int] = set()
    for limit in (1, 5, 20, 36):
        some, same = split_episodes(store, 0.1, seed=3, limit=limit)
        assert same == held_out
        assert len(some) == limit
        assert previous <= set(some) <= set(train)
        previous = set(some)
    assert split_episodes(store, 0.1, seed=4) != (train, held_out)
    assert split_episodes(store, 0.0, seed=3) == (list(range(40)), [])
    with pytest.raises(ConfigError, match=r"37 training episodes.*40 episodes, 4"):
        split_episodes(store, 0.1, seed=3, limit=37)
    assert split_episodes(make_store([3]), 0.02, seed=0) == ([0], [])


@pytest.mark.parametrize("cache", ["device", "memmap"])
@pytest.mark.parametrize("keys", [["pos", "goal/pos"], ["goal/pos"], ["cam", "goal/pos", "goal/cam"]])
def test_goals_are_the_last_row_of_the_episode(cache: Any, keys: list[str]) -> None:
    store = make_store([5, 9, 1])
    windows = Windows(
        store, obs_keys=keys, obs_horizon=3, pred_horizon=4, action_horizon=2, cache=cache, episodes=[0, 1]
    )
    batch = windows.gather(torch.arange(len(windows)))
    assert set(batch.observation) == set(keys)
    for row, episode in enumerate([0] * 5 + [1] * 9):
        data = store.episode(episode)
        for key in (key for key in keys if key.startswith("goal/")):
            last = torch.as_tensor(data[key.removeprefix("goal/")][-1])
            assert torch.equal(batch.observation[key][row], last.expand(3, *last.shape))


def test_goals_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="'goal/poss'"):
        Windows(make_store([4]), obs_keys=["goal/poss"], obs_horizon=1, pred_horizon=2, action_horizon=1)
