"""Videos of episodes as they were measured: same seeds, same policy batch, a label in every frame."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robopolicy.env import RobotEnv
from robopolicy.evaluation.evaluate import EpisodeRow
from robopolicy.rollout import Actor, LaneView, run_episodes
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = [
    "FPS",
    "GAP",
    "GREEN",
    "HOLD_SECONDS",
    "RED",
    "SIZE",
    "WHITE",
    "labelled",
    "read_mp4",
    "record_episodes",
    "tile",
    "untile",
    "write_gif",
    "write_mp4",
]

FPS = 10.0
SIZE = 256
"""Pixels of an episode's picture, each way."""
HOLD_SECONDS = 1.0
GAP = ((1, 1), (1, 1), (0, 0))
"""Pixels between the episodes of a grid."""
GREEN, RED, WHITE = (70, 200, 110), (235, 90, 80), (255, 255, 255)


class _RenderError(Exception):
    """The first picture failed."""


class _Camera:
    """Keeps every k-th frame of the lanes being filmed."""

    def __init__(self, lanes: int, every: int, camera: str, size: int) -> None:
        self.frames: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(lanes)]
        self.time = [-1] * lanes
        self.every, self.camera, self.size = every, camera, size

    def __call__(self, lane: int, env: RobotEnv) -> None:
        if lane >= len(self.frames):
            return
        self.time[lane] += 1
        if self.time[lane] % self.every == 0:
            try:
                picture = env.render_frame(self.camera, self.size)
            except Exception as error:
                raise _RenderError(f"{type(error).__name__}: {error}") from error
            self.frames[lane].append((self.time[lane], picture))


class _Padded:
    """Shows an actor B lanes of which only the first few exist, so that its batch stays as measured."""

    def __init__(self, actor: Actor, lanes: int) -> None:
        self.actor, self.lanes, self.spec = actor, lanes, actor.spec
        self.obs_horizon, self.action_horizon = actor.obs_horizon, actor.action_horizon

    def act(self, view: LaneView) -> np.ndarray | None:
        count = len(view.seeds)
        rows = np.minimum(np.arange(self.lanes), count - 1)
        observation = {key: value[rows] for key, value in view.observation.items()}
        executed = None if view.executed is None else view.executed[rows]
        padded = LaneView(observation, view.seeds[rows], view.time[rows], view.instruction, executed)
        actions = self.actor.act(padded)
        return None if actions is None else actions[:count]


def record_episodes(
    actor: Actor,
    task: Task,
    seeds: Sequence[int],
    path: str | Path,
    *,
    lanes: int = 10,
    size: int = SIZE,
    fps: float = FPS,
) -> list[EpisodeRow] | None:
    """Run the episodes of `seeds` and write them side by side into an H.264 mp4, in real time.

    Args:
        lanes: the evaluation's, so that the policy sees the batch it was measured with.
        fps: frames a second at most; only those steps are rendered.

    Returns:
        The table of the filmed episodes, which should equal the evaluation's; None, with a warning, where
        nothing can be rendered.
    """
    filmed = min(lanes, len(seeds))
    envs = LaneVectorEnv(task, filmed, workers=0, chunk=actor.action_horizon)
    every = max(1, round(envs.robot_spec.control_hz / fps))
    rows: list[EpisodeRow] = []
    films: list[list[np.ndarray]] = []
    try:
        for start in range(0, len(seeds), filmed):
            group = list(seeds[start : start + filmed])
            camera = _Camera(len(group), every, task.video_camera, size)
            envs.on_frame(camera)
            # With no more episodes than lanes, lane i plays episode i.
            finished = sorted(run_episodes(envs, _Padded(actor, lanes), group), key=lambda e: e.index)
            for episode, frames in zip(finished, camera.frames, strict=True):
                rows.append(EpisodeRow.of(episode))
                films.append(labelled(frames, rows[-1]))
    except _RenderError as error:
        warnings.warn(
            f"No video: {error}. scripts/doctor.py says which rendering backend works.", stacklevel=2
        )
        return None
    finally:
        envs.close()
    rate = envs.robot_spec.control_hz / every
    write_mp4(path, tile(films, hold=round(HOLD_SECONDS * rate)), rate)
    return rows


def labelled(frames: Sequence[tuple[int, np.ndarray]], row: EpisodeRow) -> list[np.ndarray]:
    """An episode's pictures with seed, step and, once it is known, verdict; the last one again at its end."""
    return [_label(picture, row, step) for step, picture in [*frames, (row.steps, frames[-1][1])]]


def tile(
    films: Sequence[Sequence[np.ndarray]], hold: int = 0, columns: int | None = None
) -> Iterator[np.ndarray]:
    """Frames `[H, W, 3]` of several films in a grid; ended ones stay, all together for `hold` frames.

    Args:
        columns: of the grid; as many as rows by default.
    """
    columns = columns or math.ceil(math.sqrt(len(films)))
    blank = np.pad(np.zeros_like(films[0][0]), GAP)
    for index in range(max(map(len, films)) + hold):
        cells = [np.pad(film[min(index, len(film) - 1)], GAP) for film in films]
        cells += [blank] * (-len(cells) % columns)
        grid = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
        yield np.concatenate(grid, axis=0)


def untile(frame: np.ndarray, size: int = SIZE) -> list[np.ndarray]:
    """The pictures `[size, size, 3]` that `tile` has put into a frame, row by row; blank ones too."""
    (above, below), (left, right), _ = GAP
    height, width = size + above + below, size + left + right
    rows, columns = round(frame.shape[0] / height), round(frame.shape[1] / width)
    corners = [(r * height + above, c * width + left) for r in range(rows) for c in range(columns)]
    return [frame[top : top + size, side : side + size] for top, side in corners]


def write_mp4(path: str | Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """Write uint8 frames `[H, W, 3]` as an mp4 that browsers play (H.264, yuv420p, index in front)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer: Any = imageio.get_writer(
        path, format="FFMPEG", fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=1,
        output_params=["-movflags", "+faststart", "-crf", "23", "-preset", "medium"],
    )  # fmt: skip
    with writer:
        for frame in frames:
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2  # yuv420p needs even sides
            writer.append_data(frame[:height, :width])


def read_mp4(path: str | Path) -> tuple[list[np.ndarray], float]:
    """All frames `[H, W, 3]` of a film, and how many of them make a second."""
    reader: Any = imageio.get_reader(path, format="FFMPEG")  # its stubs lack what it can do
    with reader:
        return list(reader.iter_data()), float(reader.get_meta_data()["fps"])


def write_gif(video: str | Path, path: str | Path, *, width: int = 480, seconds: float = 12.0) -> None:
    """The first `seconds` of an mp4 as a looping GIF, for pages that show no video."""
    reader: Any = imageio.get_reader(video, format="FFMPEG")  # its stubs lack what it can do
    with reader:
        rate = float(reader.get_meta_data()["fps"])
        frames = [Image.fromarray(frame) for frame in itertools.islice(reader, int(seconds * rate))]
    height = round(width * frames[0].height / frames[0].width)
    small = [frame.resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    # One palette for all frames: cheaper, and it does not flicker.
    palette = small[len(small) // 2].quantize(128)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    indexed[0].save(
        path, save_all=True, append_images=indexed[1:], duration=round(1000 / rate), loop=0, optimize=True
    )


def _label(picture: np.ndarray, row: EpisodeRow, step: int) -> np.ndarray:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image, "RGBA")
    size = max(10, picture.shape[1] // 18)
    font = ImageFont.load_default(size)
    draw.rectangle((0, 0, picture.shape[1], round(1.5 * size)), fill=(0, 0, 0, 150))
    draw.text((size / 3, size / 5), f"seed {row.seed}   step {step}", fill=WHITE, font=font)
    verdict, colour = "", WHITE
    if row.success and step >= row.first_success:
        verdict, colour = "SUCCESS", GREEN
    elif not row.success and step == row.steps:
        verdict, colour = "FAILURE", RED
    if verdict:
        draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=colour, width=max(2, size // 4))
        draw.text((image.width - size / 3, size / 5), verdict, fill=colour, font=font, anchor="ra")
    return np.asarray(image)
