"""The same episodes at every stage of a pipeline, side by side."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.evaluation.video import FPS, HOLD_SECONDS, SIZE, read_mp4, tile, untile, write_gif, write_mp4

__all__ = ["GIF_WIDTH", "SHOWN", "Film", "filmed_seeds", "write_stages_film"]

SHOWN = 2
"""Seeds at most: one row of the film each."""
GIF_WIDTH = 760
_HEAD = 28
_DARK, _WHITE, _GREY = (24, 26, 30), (255, 255, 255), (150, 156, 164)

Film = Sequence[np.ndarray]


def write_stages_film(rows: Sequence[Mapping[str, Any]], out: Path) -> list[str]:
    """Write ``stages.mp4`` and ``stages.gif``, unless they are newer than all that they show.

    Args:
        rows: the pipeline's table.
        out: its directory, with one for each stage.

    Returns:
        What is missing, a sentence each.
    """
    target = out / "stages.mp4"
    filmed = {row["stage"]: filmed_seeds(out / row["stage"]) for row in rows}
    counts = Counter(seed for found in filmed.values() for seed in found)
    if not counts:
        return [f"There is no {target}: no stage has left a film."]
    # Those that most stages have filmed, the first ones.
    seeds = sorted(sorted(counts, key=lambda seed: (-counts[seed], seed))[:SHOWN])
    sources = [path for row in rows for path in _sources(out / row["stage"])]
    if not target.is_file() or max(path.stat().st_mtime for path in sources) > target.stat().st_mtime:
        _write(rows, seeds, out, target)
    return [
        f"{target} lacks seed {seed} of {stage}, which was not filmed."
        for stage, found in filmed.items()
        for seed in seeds
        if seed not in found
    ]


def filmed_seeds(directory: Path) -> list[int]:
    """What a stage has filmed: the first episodes of an evaluation, or episodes on a robot."""
    found = []
    for path in _films(directory):
        if path.parent == directory:
            found.append(int(path.stem.partition("_")[2]))
            continue
        reader: Any = imageio.get_reader(path, format="FFMPEG")  # its stubs lack what it can do
        with reader:
            pictures = untile(reader.get_next_data())
        # Labels are white, so a picture without any is a place that was left blank.
        count = sum(picture.max() > 128 for picture in pictures)
        found += [row.seed for row in Evaluation.load(path.parent).rows[:count]]
    return found


def _write(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int], out: Path, target: Path) -> None:
    films = [_stage_films(out / row["stage"], seeds) for row in rows]
    grid = []
    for number, seed in enumerate(seeds):
        for row, found in zip(rows, films, strict=True):
            head = _head(row) if number == 0 else np.zeros((0, SIZE, 3), np.uint8)
            grid.append([np.concatenate([head, picture]) for picture in found.get(seed, [_sign("no film")])])
    partial = target.with_name("stages.partial.mp4")
    write_mp4(partial, tile(grid, round(HOLD_SECONDS * FPS), columns=len(rows)), FPS)
    write_gif(partial, out / "stages.gif", width=GIF_WIDTH)
    os.replace(partial, target)


def _stage_films(directory: Path, seeds: Sequence[int]) -> dict[int, Film]:
    """Those of these seeds that there are, with `FPS` frames a second."""
    found: dict[int, Film] = {}
    filmed = filmed_seeds(directory)
    for path in _films(directory):
        one = path.parent == directory
        held = [filmed.pop(0)] if one else filmed
        if not set(held) & set(seeds):
            continue
        frames, rate = read_mp4(path)
        shown = [frames[int(i * rate / FPS)] for i in range(math.ceil(len(frames) * FPS / rate))]
        for place, seed in enumerate(held):
            if seed in seeds:
                # Copies: a picture that is a part of a grid would keep all of it.
                found[seed] = [_sized(frame) if one else untile(frame)[place].copy() for frame in shown]
    return found


def _films(directory: Path) -> list[Path]:
    if (directory / "wire.json").is_file():
        return sorted(directory.glob("episode_*.mp4"))
    return [path for path in [directory / "report" / "episodes.mp4"] if path.is_file()]


def _sources(directory: Path) -> list[Path]:
    measured = (directory / "wire.json", directory / "report" / "evaluation.json")
    return [*_films(directory), *(path for path in measured if path.is_file())]


def _sized(frame: np.ndarray) -> np.ndarray:
    if frame.shape[:2] == (SIZE, SIZE):
        return frame
    return np.asarray(Image.fromarray(frame).resize((SIZE, SIZE)))


def _head(row: Mapping[str, Any]) -> np.ndarray:
    image = Image.new("RGB", (SIZE, _HEAD), _DARK)
    draw, middle = ImageDraw.Draw(image), _HEAD / 2
    rate = f"{row['success']['value']:.0%} of {row['episodes']}"
    draw.text((6, middle), row["stage"], fill=_WHITE, font=ImageFont.load_default(16), anchor="lm")
    draw.text((SIZE - 6, middle), rate, fill=_GREY, font=ImageFont.load_default(13), anchor="rm")
    return np.asarray(image)


def _sign(text: str) -> np.ndarray:
    image = Image.new("RGB", (SIZE, SIZE), _DARK)
    font = ImageFont.load_default(16)
    ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), text, fill=_GREY, font=font, anchor="mm")
    return np.asarray(image)
