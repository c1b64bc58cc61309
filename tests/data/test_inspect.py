"""Each suspicion on data that deserves it, and none on data that does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

from robopolicy.data.inspect import contact_sheet, format_report, inspect
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.seeding import episode_seeds
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec

SPEC = Spec(
    observations={
        "pos": ObservationSpec(shape=(3,)),
        "quat": ObservationSpec(shape=(4,), rotation="quat_xyzw"),
        "cam": ObservationSpec(shape=(6, 8, 3), dtype="uint8", kind="image"),
    },
    action=ActionSpec(
        names=("x", "y", "grip"),
        low=(-1.0,) * 3,
        high=(1.0,) * 3,
        parts=(ActionPart(kind="position", size=2), ActionPart(kind="gripper", size=1)),
    ),
    control_hz=20.0,
)


def make_episodes(count: int = 12, length: int = 40) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(count):
        quat = np.array([0.0, 0.0, 0.0, 1.0]) + 0.1 * rng.normal(size=(length, 4))
        episodes.append({
            "pos": rng.normal(size=(length, 3)).astype(np.float32),
            "quat": (quat / np.linalg.norm(quat, axis=1, keepdims=True)).astype(np.float32),
            "cam": rng.integers(0, 255, (length, 6, 8, 3), dtype=np.uint8),
            "action": np.concatenate(
                [rng.uniform(-0.9, 0.9, (length, 2)), np.sign(rng.normal(size=(length, 1)))], axis=1
            ).astype(np.float32),
        })  # fmt: skip
    return episodes


def make_store(episodes: list[dict[str, np.ndarray]]) -> EpisodeStore:
    store = EpisodeStore.create(MemoryStore(), SPEC)
    for seed, episode in zip(episode_seeds("collect", len(episodes)), episodes, strict=True):
        store.append(episode, seed=seed, success=seed % 4 != 0, instruction="lift")
    return store


def test_a_clean_store_is_not_suspicious() -> None:
    report = inspect(make_store(make_episodes()))
    assert report.suspicions == ()
    assert report.episodes == 12
    assert report.steps == 480
    assert report.seconds == 24.0
    assert report.success_share == pytest.approx(0.75)
    assert report.seed_blocks == {"collect": 12}
    assert report.instructions == {"lift": 12}
    assert report.lengths["median"] == 40
    assert report.keys["cam"].stats is None
    text = format_report(report)
    assert "nothing suspicious" in text
    for word in ("pos", "quat", "cam", "6x8x3", "uint8", "20 Hz", "75.0%", "'lift' x12"):
        assert word in text


def spoil(episodes: list[dict[str, Any]], change: str) -> None:
    first = episodes[0]
    match change:
        case "constant":
            for episode in episodes:
                episode["pos"][:, 1] = 0.25
        case "saturated":
            for episode in episodes:
                episode["action"][: len(episode["action"]) // 2, 0] = 1.0
        case "duplicate":
            episodes[7] = {key: value.copy() for key, value in first.items()}
        case "outlier":
            episodes[3]["pos"][5, 2] = 500.0
        case "sign":
            first["quat"][20:] *= -1
        case "short":
            episodes[2] = {key: value[:3] for key, value in episodes[2].items()}
        case "long":
            episodes[2] = {key: np.concatenate([value] * 5) for key, value in episodes[2].items()}
        case "slow observation":
            for episode in episodes:
                episode["pos"] = np.repeat(episode["pos"][::4], 4, axis=0)
        case "frozen camera":
            first["cam"][:] = first["cam"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("constant", "constant dimensions: pos[1]"),
        ("saturated", "action 'x' is at or beyond its bounds in 50%"),
        ("duplicate", "identical actions: 7 = 0"),
        ("outlier", "outliers in pos[2]: 1 rows more than 20 std away, first row 125 of pos with 500"),
        ("sign", "sign of quaternion quat jumps 1 times, first after row 19"),
        ("short", "very short episodes (the median is 40 steps): 2 (3 steps)"),
        ("long", "very long episodes (the median is 40 steps): 2 (200 steps)"),
        ("slow observation", "it changes at about 4.6 Hz, the actions come at 20 Hz"),
        ("frozen camera", "cam does not change in episodes 0"),
    ],
)
def test_suspicions(change: str, message: str) -> None:
    episodes = make_episodes()
    spoil(episodes, change)
    report = inspect(make_store(episodes))
    assert len(report.suspicions) == 1
    assert message in report.suspicions[0]
    assert report.suspicions[0] in format_report(report)


def test_repeated_seeds_are_told() -> None:
    store = EpisodeStore.create(MemoryStore(), SPEC)
    for episode in make_episodes(3):
        store.append(episode, seed=5)
    assert inspect(store).suspicions == ("seeds used more than once: 5",)


def test_empty_store() -> None:
    with pytest.raises(DataError, match="no episodes"):
        inspect(EpisodeStore.create(MemoryStore(), SPEC))


def test_contact_sheet() -> None:
    episodes = make_episodes(3)
    sheet = contact_sheet(make_store(episodes), "cam")
    assert sheet.shape == (3 * 6, 8 * 8, 3)
    assert sheet.dtype == np.uint8
    np.testing.assert_array_equal(sheet[6:12, :8], episodes[1]["cam"][0])
    np.testing.assert_array_equal(sheet[6:12, -8:], episodes[1]["cam"][-1])
    with pytest.raises(DataError, match=r"Unknown image 'pos'.*cam"):
        contact_sheet(make_store(episodes), "pos")


def test_plain_spec_without_bounds() -> None:
    spec = dataclasses.replace(SPEC, action=ActionSpec(names=("a",), low=(-np.inf,), high=(np.inf,)))
    store = EpisodeStore.create(MemoryStore(), spec)
    for episode in make_episodes(2):
        store.append({**episode, "action": episode["action"][:, :1]})
    report = inspect(store)
    assert report.suspicions == ()
    assert report.success_share is None
    assert report.seed_blocks == {"unknown": 2}
