"""What goes wrong between a robot and its policy: failing sensors, slow or pushed actuators, changed looks.

A perturbation belongs to a task (``Task.perturb``) and has a level; at level 0 the environment is the plain
one, bit for bit. What it draws depends on the episode's seed alone. The policy sees the perturbed
observations; success, videos and the scripted expert's knowledge are those of the environment itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from robopolicy.env import Grasp, Observation, RobotEnv, WrappedEnv
from robopolicy.errors import ConfigError, MissingCapability, unknown
from robopolicy.seeding import rng
from robopolicy.spec import ActionSpec, Spec

__all__ = [
    "NAMES",
    "PUSH_CHANCE",
    "PUSH_STEPS",
    "Function",
    "Moment",
    "Perturbation",
    "PerturbedEnv",
    "Target",
    "action_delay",
    "delay",
    "distractors",
    "dropout",
    "freeze",
    "noise",
    "object_range",
    "occlusion",
    "perturbed",
    "push",
    "recolour",
]

Target = Literal["reading", "image", "action", "reset"]
PUSH_CHANCE, PUSH_STEPS = 0.05, 5


@dataclass
class Moment:
    """What a perturbation may use at one step of one episode."""

    level: float
    rng: np.random.Generator
    """Of this perturbation in this episode."""
    past: list[Any] = field(default_factory=list)
    """What it was given so far, this step included."""
    shown: Any = None
    """What it returned one step ago."""
    memory: dict[str, Any] = field(default_factory=dict)
    """Its own, empty when an episode begins."""

    def once(self, name: str, draw: Callable[[np.random.Generator], Any]) -> Any:
        """What was drawn under this name at the episode's first call."""
        if name not in self.memory:
            self.memory[name] = draw(self.rng)
        return self.memory[name]


Function = Callable[[Any, Moment], Any]


@dataclass(frozen=True)
class _Kind:
    function: Callable[..., Any]
    target: Target
    highest: float
    whole: bool


_KINDS: dict[str, _Kind] = {}


def _perturbation(
    target: Target, *, highest: float = np.inf, whole: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under its name.

    Args:
        highest: largest level that makes sense.
        whole: whether levels are whole numbers.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        _KINDS[function.__name__] = _Kind(function, target, highest, whole)
        return function

    return decorate


@_perturbation("reading", highest=1.0)
def dropout(seen: Observation, now: Moment) -> Observation:
    """Each step all keys of the group are zero with probability `level`."""
    lost = now.rng.random() < now.level
    return {key: np.zeros_like(value) for key, value in seen.items()} if lost else seen


@_perturbation("reading", highest=1.0)
def freeze(seen: Observation, now: Moment) -> Observation:
    """Each step the group's last reading is repeated with probability `level`; at 1, the first for ever."""
    stuck = now.rng.random() < now.level
    return now.shown if stuck and now.shown is not None else seen


@_perturbation("reading")
def noise(seen: Observation, now: Moment) -> Observation:
    """Adds Gaussian noise of standard deviation `level`, in the units of each key."""
    found = {}
    for key in sorted(seen):
        value = seen[key]
        noisy = value + now.level * now.rng.standard_normal(value.shape)
        found[key] = (np.rint(noisy.clip(0, 255)) if value.dtype == np.uint8 else noisy).astype(value.dtype)
    return found


@_perturbation("reading", whole=True)
def delay(seen: Observation, now: Moment) -> Observation:
    """Readings are `level` steps old."""
    del seen
    return now.past[max(0, len(now.past) - 1 - int(now.level))]


@_perturbation("image", highest=1.0)
def occlusion(picture: np.ndarray, now: Moment) -> np.ndarray:
    """Covers a grey square, `level` times as wide as the picture, at a place drawn for the episode."""
    height, width = picture.shape[:2]
    corner = now.once("corner", lambda draw: draw.random(2))
    tall, wide = round(now.level * height), round(now.level * width)
    top, left = int(corner[0] * (height - tall + 1)), int(corner[1] * (width - wide + 1))
    covered = picture.copy()
    covered[top : top + tall, left : left + wide] = 96
    return covered


@_perturbation("image", whole=True)
def distractors(picture: np.ndarray, now: Moment) -> np.ndarray:
    """Paints `level` discs, a twentieth of the picture in radius, with the episode's colours and places."""
    count, size = int(now.level), min(picture.shape[:2])
    places = now.once("places", lambda draw: draw.random((count, 2)) * picture.shape[:2])
    colours = now.once("colours", lambda draw: draw.integers(0, 256, (count, 3), dtype=np.uint8))
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    painted = picture.copy()
    for (row, column), colour in zip(places, colours, strict=True):
        painted[(rows - row) ** 2 + (columns - column) ** 2 < (size / 20) ** 2] = colour
    return painted


@_perturbation("image", highest=1.0)
def recolour(picture: np.ndarray, now: Moment) -> np.ndarray:
    """Mixes in, to the share `level`, colours turned about the grey axis by the angle of the episode."""
    angle = now.once("angle", lambda draw: draw.uniform(np.pi / 3, 5 * np.pi / 3))
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.cross(np.eye(3), axis)
    turned = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    matrix = (1 - now.level) * np.eye(3) + now.level * turned
    return np.rint((picture @ matrix.T).clip(0, 255)).astype(np.uint8)


@_perturbation("action", whole=True)
def action_delay(action: np.ndarray, now: Moment, spec: ActionSpec) -> np.ndarray:
    """Actions take effect `level` steps late; before the first, nothing moves (or the first target holds)."""
    del action
    index = len(now.past) - 1 - int(now.level)
    if index >= 0 or spec.holds_position:
        return now.past[max(0, index)]
    still = np.zeros_like(now.past[0])
    for part, where in spec.slices():
        if part.kind == "gripper":
            still[where] = now.past[0][where]
    return still


@_perturbation("action")
def push(action: np.ndarray, now: Moment, spec: ActionSpec) -> np.ndarray:
    """Now and then adds a random direction to all but the gripper for five steps, `level` times the range.

    A push begins with probability 0.05 a step; the sum stays within the action's bounds.
    """
    if now.memory.get("left", 0) == 0 and now.rng.random() < PUSH_CHANCE:
        free = np.concatenate([np.full(part.size, part.kind != "gripper") for part in spec.parts])
        direction = now.rng.standard_normal(spec.size) * free
        now.memory.update(left=PUSH_STEPS, direction=direction / np.linalg.norm(direction))
    if now.memory.get("left", 0) == 0 or now.level == 0:
        return action
    now.memory["left"] -= 1
    low, high = np.array(spec.low), np.array(spec.high)
    span = np.where(np.isfinite(high - low), (high - low) / 2, 1.0)
    return np.clip(action + now.level * span * now.memory["direction"], low, high).astype(action.dtype)


@_perturbation("reset")
def object_range(options: Mapping[str, Any], now: Moment) -> dict[str, Any]:
    """Widens the range that objects are placed in by the fraction `level`, where the environment can."""
    return {**options, "object_range": now.level}


NAMES = tuple(sorted(_KINDS))


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One entry of ``task.perturb``."""

    name: str
    level: float
    group: str = ""
    """Modality group whose readings suffer (dropout, freeze, noise, delay); all when empty."""

    def __post_init__(self) -> None:
        if self.name not in _KINDS:
            raise ConfigError(unknown("perturbation", self.name, NAMES))
        kind = _KINDS[self.name]
        whole = not kind.whole or float(self.level).is_integer()
        if not 0 <= self.level <= kind.highest or not whole:
            number = "a whole number" if kind.whole else "a number"
            limit = "" if np.isinf(kind.highest) else f" up to {kind.highest:g}"
            raise ConfigError(f"Perturbation {self.name} needs a level, {number} >= 0{limit}: {self.level}.")
        if self.group and kind.target != "reading":
            raise ConfigError(f"Perturbation {self.name} has no group: it does not act on readings.")


class PerturbedEnv(WrappedEnv):
    """An environment behind perturbations, applied in their order.

    Raises:
        ConfigError: no key is in a perturbation's group, or there is no image.
        MissingCapability: the environment cannot reset as a perturbation asks.
    """

    def __init__(self, env: RobotEnv, perturbations: Sequence[Perturbation]) -> None:
        super().__init__(env)
        self._perturbations = tuple(perturbations)
        self._keys = [_keys(p, env.robot_spec) for p in self._perturbations]
        for perturbation in self._perturbations:
            if _KINDS[perturbation.name].target == "reset" and perturbation.name not in env.reset_options:
                raise MissingCapability(f"{type(env).__name__} cannot reset with {perturbation.name}.")
        self._moments: list[dict[str, Moment]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; without a seed the perturbations draw from this environment's own stream."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(2**62)) if seed is None else seed
        self._moments = [
            {
                key: Moment(p.level, rng(episode, f"{number} {p.name} {key}"))
                for key in (keys if _KINDS[p.name].target == "image" else ("",))
            }
            for number, (p, keys) in enumerate(zip(self._perturbations, self._keys, strict=True))
        ]
        changed = dict(options or {})
        for perturbation, moments in zip(self._perturbations, self._moments, strict=True):
            if _KINDS[perturbation.name].target == "reset":
                changed = _KINDS[perturbation.name].function(changed, moments[""])
        observation, info = self.env.reset(seed=seed, options=changed or None)
        return self._observe(observation), info

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step with the perturbed action."""
        for perturbation, moments in zip(self._perturbations, self._moments, strict=True):
            if _KINDS[perturbation.name].target == "action":
                now = moments[""]
                now.past.append(action)
                action = _KINDS[perturbation.name].function(action, now, self.robot_spec.action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(observation), float(reward), terminated, truncated, info

    def grasp(self, episode: Mapping[str, np.ndarray]) -> Grasp:
        """As the environment tells it.

        Raises:
            MissingCapability: from readings that are perturbed.
        """
        if names := [p.name for p in self._perturbations if _KINDS[p.name].target == "reading"]:
            raise MissingCapability(f"Readings under {', '.join(names)} do not tell where an object is.")
        return self.env.grasp(episode)

    def _observe(self, observation: Observation) -> Observation:
        for perturbation, keys, moments in zip(self._perturbations, self._keys, self._moments, strict=True):
            kind = _KINDS[perturbation.name]
            if kind.target == "image":
                pictures = {key: kind.function(observation[key], moments[key]) for key in keys}
                observation = {**observation, **pictures}
            elif kind.target == "reading":
                now = moments[""]
                seen = {key: observation[key] for key in keys}
                now.past.append(seen)
                now.shown = kind.function(seen, now)
                observation = {**observation, **now.shown}
        return observation


def perturbed(env: RobotEnv, perturbations: Sequence[Perturbation]) -> RobotEnv:
    """The environment behind its task's perturbations, itself if there are none."""
    return PerturbedEnv(env, perturbations) if perturbations else env


def _keys(perturbation: Perturbation, spec: Spec) -> tuple[str, ...]:
    """The observations a perturbation acts on."""
    target = _KINDS[perturbation.name].target
    if target not in ("reading", "image"):
        return ()
    kinds = ("image",) if target == "image" else ("state", "image")
    keys = tuple(key for key, o in spec.observations.items() if o.kind in kinds)
    if target == "image" and not keys:
        raise ConfigError(f"Perturbation {perturbation.name} needs images: give the task cameras.")
    if perturbation.group:
        groups = {o.group for o in spec.observations.values() if o.group}
        if perturbation.group not in groups:
            raise ConfigError(unknown("modality group", perturbation.group, groups))
        keys = tuple(key for key in keys if spec.observations[key].group == perturbation.group)
    return keys
