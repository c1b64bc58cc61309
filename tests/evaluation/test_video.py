from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import imageio
import numpy as np
import pytest
from PIL import Image, ImageSequence

from robopolicy.evaluation.evaluate import evaluate
from robopolicy.evaluation.video import read_mp4, record_episodes, tile, untile, write_gif, write_mp4
from robopolicy.registry import register
from robopolicy.rollout import ExpertActor, LaneView
from tests.toy_env import ToyConfig, ToyEnv, toy_task


@register("env", "toy_blind")
class BlindEnv(ToyEnv):
    """Cannot render."""

    def __init__(self, config: ToyConfig, *, task: Any) -> None:
        super().__init__(config, task=task)

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        raise RuntimeError("no GL context")


def _frames(path: Path) -> tuple[list[np.ndarray], dict[str, Any]]:
    reader: Any = imageio.get_reader(path, format="FFMPEG")
    with reader:
        return list(itertools.islice(reader, 1000)), reader.get_meta_data()


def test_the_film_shows_the_measured_episodes(tmp_path: Path) -> None:
    task = toy_task(noise=0.3, lazy=0.4)
    measured = evaluate(ExpertActor(8), task, episodes=10, lanes=6, workers=0, progress=False)
    seeds = [row.seed for row in measured.rows[:3]]
    rows = record_episodes(ExpertActor(8), task, seeds, tmp_path / "v.mp4", lanes=6, size=64)
    assert rows is not None
    for seen, row in zip(rows, measured.rows, strict=False):
        assert (seen.seed, seen.steps, seen.success, seen.first_success) == (
            row.seed, row.steps, row.success, row.first_success,
        )  # fmt: skip
    frames, meta = _frames(tmp_path / "v.mp4")
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 10
    longest = max(row.steps for row in rows)
    assert len(frames) == longest + 2 + 10  # every step, the reset, the verdict, a second's rest
    assert frames[0].shape == (132, 132, 3)  # three episodes in a 2 x 2 grid, a pixel around each
    assert np.abs(frames[0].astype(int) - frames[longest]).max() > 50


def test_frames_are_thinned_to_the_rate(tmp_path: Path) -> None:
    rows = record_episodes(ExpertActor(8), toy_task(), [1], tmp_path / "v.mp4", size=64, fps=5)
    assert rows is not None
    frames, meta = _frames(tmp_path / "v.mp4")
    assert meta["fps"] == 5
    assert len(frames) == rows[0].steps // 2 + 1 + 1 + 5


def test_more_episodes_than_lanes_are_filmed_in_turn(tmp_path: Path) -> None:
    rows = record_episodes(ExpertActor(8), toy_task(), range(5), tmp_path / "v.mp4", lanes=2, size=32)
    assert rows is not None
    assert [row.seed for row in rows] == [0, 1, 2, 3, 4]


def test_the_actor_sees_the_batch_of_the_evaluation(tmp_path: Path) -> None:
    class Counting(ExpertActor):
        def act(self, view: LaneView) -> None:
            assert view.executed is not None
            sizes.update(len(v) for v in (view.seeds, view.executed, *view.observation.values()))

    sizes: set[int] = set()
    actor = Counting(8)
    record_episodes(actor, toy_task(), [1, 2], tmp_path / "v.mp4", lanes=7, size=32)
    assert sizes == {7}


def test_without_rendering_there_is_a_warning_and_no_video(tmp_path: Path) -> None:
    task = toy_task(env={"name": "toy_blind"})
    with pytest.warns(UserWarning, match=r"No video: RuntimeError: no GL context.*doctor"):
        assert record_episodes(ExpertActor(8), task, [1], tmp_path / "v.mp4") is None
    assert not (tmp_path / "v.mp4").exists()


def test_gif(tmp_path: Path) -> None:
    record_episodes(ExpertActor(8), toy_task(), [1, 2], tmp_path / "v.mp4", size=64)
    write_gif(tmp_path / "v.mp4", tmp_path / "v.gif", width=100, seconds=1.0)
    with Image.open(tmp_path / "v.gif") as image:
        assert image.size[0] == 100
        assert len(list(ImageSequence.Iterator(image))) == 10


def test_a_grid_keeps_the_last_frame_of_short_films() -> None:
    films = [[np.full((4, 4, 3), value, np.uint8)] * (value + 1) for value in (1, 2)]
    grid = list(tile(films, hold=2))
    assert len(grid) == 5
    assert grid[-1].shape == (6, 12, 3)
    assert grid[-1][3, 3, 0] == 1
    assert grid[-1][3, 9, 0] == 2


def test_what_is_put_into_a_grid_can_be_taken_out_of_the_film(tmp_path: Path) -> None:
    films = [[np.full((16, 16, 3), 60 * value, np.uint8)] * 3 for value in (1, 2, 3)]
    write_mp4(tmp_path / "v.mp4", tile(films), 5)
    frames, rate = read_mp4(tmp_path / "v.mp4")
    assert (len(frames), rate) == (3, 5)
    shown = untile(frames[0], size=16)
    assert [picture.shape for picture in shown] == [(16, 16, 3)] * 4
    np.testing.assert_allclose([np.median(picture) for picture in shown], [60, 120, 180, 0], atol=3)
    (row,) = tile(films, columns=3, hold=-2)
    assert len(untile(row, size=16)) == 3
    np.testing.assert_array_equal(untile(row, size=16)[2], films[2][0])
