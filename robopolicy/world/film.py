"""Real and imagined side by side under the same actions.

``python -m robopolicy.world.film <run> <file.mp4>``. Of a world model of pictures both are pictures. One of
states has none: beside the simulator's picture stand the numbers that vary most, recorded (grey) and imagined
(blue), and what the success model says (green).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robopolicy.env import make_env
from robopolicy.evaluation.video import FPS, tile, write_mp4
from robopolicy.task import Task
from robopolicy.world.fidelity import held_of
from robopolicy.world.replay import Replay, replay
from robopolicy.world.train import Held
from robopolicy.world.world import World, find_world, load_world

__all__ = ["BLUE", "CURVES", "GREEN", "GREY", "INK", "PAPER", "SIZE", "TITLE", "film", "main"]

SIZE, TITLE = 256, 20
CURVES = 5
PAPER, GREY, BLUE, GREEN, INK = (250, 250, 250), (150, 150, 150), (40, 90, 200), (40, 160, 80), (30, 30, 30)


def film(run: str | Path, path: str | Path, *, episodes: int = 4) -> None:
    """Film held-out episodes, failures and successes in turn, each from its first step, open loop."""
    run, world = find_world(run).parent, load_world(run)
    held, tasks = held_of(run, world)
    failed, solved = np.flatnonzero(~held.succeeded).tolist(), np.flatnonzero(held.succeeded).tolist()
    turns = [index for pair in zip(failed, solved, strict=False) for index in pair][:episodes]
    chosen = turns or [*failed, *solved][:episodes]
    part = Held(
        [held.episodes[i] for i in chosen],
        [held.tasks[i] for i in chosen],
        held.succeeded[chosen],
        [held.seeds[i] for i in chosen],
    )
    imagined = replay(world, part.episodes, part.tasks)
    env = make_env(tasks[part.tasks[0]])
    every = max(1, round(env.robot_spec.control_hz / FPS))
    env.close()
    films = []
    for row, episode in enumerate(part.episodes):
        steps = range(0, len(episode["action"]) - 1, every)
        left = _pictures(world, part, row, tasks[part.tasks[row]], imagined, steps)
        right = _imaginations(world, imagined, row, steps)
        title = f"seed {part.seeds[row]}: {'success' if part.succeeded[row] else 'failure'}, then imagined"
        films.append([_joined(a, b, title, t) for a, b, t in zip(left, right, steps, strict=True)])
    write_mp4(path, tile(films, hold=round(FPS)), FPS)


def _pictures(
    world: World, held: Held, row: int, task: Task, imagined: Replay, steps: range
) -> Iterator[np.ndarray]:
    if len(world.frame_shape) == 3:
        yield from (_picture(world, imagined, row, t, real=True) for t in steps)
        return
    env = make_env(task)
    env.reset(seed=held.seeds[row])
    for t, action in enumerate(held.episodes[row]["action"][: steps.stop]):
        env.step(action)
        if t in steps:
            yield env.render_frame(task.video_camera, SIZE)
    env.close()


def _imaginations(world: World, imagined: Replay, row: int, steps: range) -> Iterator[np.ndarray]:
    if len(world.frame_shape) == 3:
        yield from (_picture(world, imagined, row, t, real=False) for t in steps)
        return
    real, made = imagined.real[row].cpu().numpy(), imagined.imagined[row].cpu().numpy()
    score, last = imagined.success[row].cpu().numpy(), steps.stop
    unit = world.unit.cpu().numpy()
    varies = np.where(np.isfinite(unit), real[:last].std(0) / unit, 0.0)
    numbers = np.sort(np.argsort(-varies)[:CURVES])
    for t in steps:
        image = Image.new("RGB", (SIZE, SIZE), PAPER)
        draw = ImageDraw.Draw(image)
        height = SIZE / (len(numbers) + 1)
        for place, number in enumerate(numbers):
            both = np.concatenate([real[:last, number], made[:last, number]])
            low, high = float(both.min()), float(both.max())
            for values, colour in ((real[:last, number], GREY), (made[: t + 1, number], BLUE)):
                _curve(draw, values, low, high, (place * height, height), last, colour)
        _curve(draw, score[: t + 1], 0.0, 1.0, (len(numbers) * height, height), last, GREEN)
        yield np.asarray(image)


def _curve(
    draw: ImageDraw.ImageDraw,
    values: np.ndarray,
    low: float,
    high: float,
    band: tuple[float, float],
    last: int,
    colour: tuple[int, int, int],
) -> None:
    share = (values - low) / max(high - low, 1e-9)
    y = band[0] + band[1] * (0.9 - 0.8 * share)
    x = np.arange(len(values)) / max(last - 1, 1) * (SIZE - 1)
    points = np.stack([x, y], 1).ravel().tolist()
    if len(values) > 1:
        draw.line(points, fill=colour, width=2)


def _picture(world: World, imagined: Replay, row: int, t: int, *, real: bool) -> np.ndarray:
    frame = (imagined.real if real else imagined.imagined)[row, t]
    picture = next(iter(world.split(frame).values())).cpu().numpy()
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.NEAREST))


def _joined(left: np.ndarray, right: np.ndarray, title: str, step: int) -> np.ndarray:
    image = Image.new("RGB", (2 * SIZE, SIZE + TITLE), PAPER)
    image.paste(Image.fromarray(np.concatenate([left, right], 1)), (0, TITLE))
    draw = ImageDraw.Draw(image)
    draw.text((6, 3), f"{title}   step {step}", fill=INK, font=ImageFont.load_default(13))
    return np.asarray(image)


def main(arguments: list[str]) -> None:
    """Film a run's held-out episodes."""
    if len(arguments) != 2:
        raise SystemExit("usage: python -m robopolicy.world.film <run> <file.mp4>")
    film(*arguments)
    print(f"{arguments[1]}: recorded episodes, and the same actions imagined")


if __name__ == "__main__":
    main(sys.argv[1:])
