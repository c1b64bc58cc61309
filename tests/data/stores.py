"""Episodes that follow from their seed, and stores of them."""

from __future__ import annotations

import numpy as np

from robopolicy.data.store import EpisodeStore
from robopolicy.spec import ActionSpec, ObservationSpec, Spec


def make_spec(image: bool = True) -> Spec:
    observations = {"pos": ObservationSpec(shape=(3,)), "width": ObservationSpec(shape=())}
    if image:
        observations["cam"] = ObservationSpec(shape=(8, 6, 3), dtype="uint8", kind="image")
    action = ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, float("inf")))
    return Spec(observations=observations, action=action, control_hz=20.0)


def make_episode(seed: int, length: int | None = None, image: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    length = int(rng.integers(3, 20)) if length is None else length
    episode = {
        "pos": rng.normal(size=(length, 3)).astype(np.float32),
        "width": rng.normal(size=length).astype(np.float32),
        "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "state": rng.normal(size=(length, 5)),
    }
    if image:
        episode["cam"] = rng.integers(0, 255, (length, 8, 6, 3), dtype=np.uint8)
    return episode


def fill(location: object, count: int, **settings: object) -> EpisodeStore:
    store = EpisodeStore.create(location, make_spec(), extra={"state": (5,)}, **settings)
    for i in range(count):
        store.append(make_episode(i), seed=i, success=i % 2 == 0, instruction=f"lift {i % 3}")
    return store


def assert_holds(store: EpisodeStore, seeds: list[int]) -> None:
    assert list(store.seeds) == seeds
    episodes = [make_episode(seed) for seed in seeds]
    assert list(store.lengths) == [len(episode["action"]) for episode in episodes]
    assert sorted(store.keys) == sorted(episodes[0])
    for key in store.keys:
        found, expected = store.read(key), np.concatenate([episode[key] for episode in episodes])
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
