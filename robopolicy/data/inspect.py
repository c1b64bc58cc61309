"""A look at a store before anything is trained on it: what is there, and what is suspicious."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from robopolicy.data.rows import Stats, statistics
from robopolicy.data.store import EpisodeStore
from robopolicy.data.validation import CHECKED_ROW_BYTES
from robopolicy.errors import DataError, unknown
from robopolicy.seeding import block_of

__all__ = [
    "FROZEN_SHARE",
    "LENGTH_FACTOR",
    "OUTLIER_STD",
    "SATURATED_SHARE",
    "SHEET_COLUMNS",
    "SHEET_ROWS",
    "KeyReport",
    "Report",
    "contact_sheet",
    "format_report",
    "inspect",
]

SATURATED_SHARE = 0.2
OUTLIER_STD = 20.0
LENGTH_FACTOR = 4.0
FROZEN_SHARE = 0.5
SHEET_COLUMNS = 8
SHEET_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class KeyReport:
    """One array of a store."""

    shape: tuple[int, ...]
    """Of one row."""
    dtype: str
    kind: str
    """state, image, action or extra."""
    stats: Stats | None
    """Per dimension; None for images."""
    names: tuple[str, ...] = ()
    """Of the dimensions, where they have any."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `inspect` found."""

    where: str
    episodes: int
    steps: int
    control_hz: float
    keys: dict[str, KeyReport]
    lengths: dict[str, float]
    """min, 25%, median, 75%, max, in steps."""
    seconds: float
    """Of all episodes together."""
    success_share: float | None
    """Among episodes that say; None if none does."""
    seed_blocks: dict[str, int]
    """Episodes by block of `seeding.BLOCKS`; "none" elsewhere, "unknown" without a seed."""
    instructions: dict[str, int]
    dropped: tuple[str, ...]
    suspicions: tuple[str, ...]


def inspect(store: EpisodeStore) -> Report:
    """Read every state, action and extra column once (images too, where few frames tell) and report.

    Raises:
        DataError: an empty store, or data that cannot be read.
    """
    if not len(store):
        raise DataError(f"{store.where} has no episodes.")
    kinds = {key: _kind(store, key) for key in store.keys}
    low_dim = [
        key for key, kind in kinds.items() if kind != "image" and _row_bytes(store, key) <= CHECKED_ROW_BYTES
    ]
    stats = statistics(store, keys=low_dim)
    lengths = store.lengths
    found = _length_suspicions(lengths)
    for key in low_dim:
        rows = store.read(key).reshape(int(lengths.sum()), -1).astype(np.float64)
        found += _range_suspicions(key, rows, stats[key], names=_names(store, key))
        if kinds[key] == "state":
            found += _frozen(key, rows, store)
            found += _sign_jumps(key, rows, store)
    for key, kind in kinds.items():
        if kind == "image":
            found += _frozen_images(key, store)
    found += _saturation(store)
    found += _duplicates(store)
    known = store.successes[store.successes >= 0]
    marks = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1])
    blocks = Counter("unknown" if seed < 0 else block_of(int(seed)) for seed in store.seeds)
    return Report(
        where=store.where,
        episodes=len(store),
        steps=int(lengths.sum()),
        control_hz=store.spec.control_hz,
        keys={
            key: KeyReport(
                shape=store.shape_of(key)[0],
                dtype=str(store.shape_of(key)[1]),
                kind=kind,
                stats=stats.get(key),
                names=store.spec.action.names if key == "action" else (),
            )
            for key, kind in kinds.items()
        },
        lengths=dict(zip(("min", "25%", "median", "75%", "max"), marks.tolist(), strict=True)),
        seconds=float(lengths.sum() / store.spec.control_hz),
        success_share=float(known.mean()) if len(known) else None,
        seed_blocks=dict(blocks),
        instructions=dict(Counter(store.instructions)),
        dropped=tuple(map(str, store.dropped)),
        suspicions=tuple(found),
    )


def format_report(report: Report) -> str:
    """The report as a text table."""
    lines = [
        (
            f"{report.where}: {report.episodes} episodes, {report.steps} steps, "
            f"{report.seconds / 60:.1f} min at {report.control_hz:g} Hz"
        ),
        "length in steps   " + "  ".join(f"{name} {value:g}" for name, value in report.lengths.items()),
        "success           " + ("unknown" if report.success_share is None else f"{report.success_share:.1%}"),
        "seed blocks       " + ", ".join(f"{block} {count}" for block, count in report.seed_blocks.items()),
    ]
    texts = [f"{text!r} x{count}" for text, count in report.instructions.items() if text]
    lines.append(
        "instructions      " + (", ".join(texts[:5]) + (", ..." if len(texts) > 5 else "") or "none")
    )
    width = max(len(key) for key in report.keys)
    dim = max([3, *(len(name) for entry in report.keys.values() for name in entry.names)])
    lines += [
        "",
        f"{'key':<{width}}  kind    dtype    shape          {'dim':>{dim}}"
        + "".join(f"{name:>11}" for name in ("min", "max", "mean", "std")),
    ]
    for key, entry in report.keys.items():
        shape = "x".join(map(str, entry.shape)) or "scalar"
        lead = f"{key:<{width}}  {entry.kind:<6}  {entry.dtype:<7}  {shape:<13}"
        if entry.stats is None:
            lines.append(lead)
            continue
        columns = [np.ravel(getattr(entry.stats, name)) for name in ("min", "max", "mean", "std")]
        for index, values in enumerate(zip(*columns, strict=True)):
            numbers = "  ".join(f"{value:9.4g}" for value in values)
            name = entry.names[index] if entry.names else index
            lines.append(f"{lead if index == 0 else ' ' * len(lead)}  {name:>{dim}}  {numbers}")
    for title, entries in (("dropped", report.dropped), ("suspicious", report.suspicions)):
        if entries:
            lines += ["", f"{title}:", *(f"  - {entry}" for entry in entries)]
    if not report.suspicions:
        lines += ["", "nothing suspicious"]
    return "\n".join(lines)


def contact_sheet(store: EpisodeStore, key: str) -> np.ndarray:
    """A uint8 picture ``[H, W, 3]``: a row for each of up to 8 episodes, time from left to right.

    Raises:
        DataError: the key is not an image.
    """
    images = [name for name, o in store.spec.observations.items() if o.kind == "image"]
    if key not in images:
        raise DataError(f"{store.where}: " + unknown("image", key, images))
    chosen = np.unique(np.linspace(0, len(store) - 1, min(SHEET_ROWS, len(store))).round().astype(int))
    sheet = []
    for episode in chosen:
        start = int(store.episode_ends[episode] - store.lengths[episode])
        moments = start + np.linspace(0, store.lengths[episode] - 1, SHEET_COLUMNS).round().astype(int)
        frames = [store.read(key, slice(int(row), int(row) + 1))[0] for row in moments]
        sheet.append(np.concatenate(frames, axis=1))
    picture = np.concatenate(sheet, axis=0)
    return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture[..., :3]


def _kind(store: EpisodeStore, key: str) -> str:
    if key == "action":
        return "action"
    return store.spec.observations[key].kind if key in store.spec.observations else "extra"


def _row_bytes(store: EpisodeStore, key: str) -> int:
    shape, dtype = store.shape_of(key)
    return int(np.prod(shape)) * dtype.itemsize


def _names(store: EpisodeStore, key: str) -> list[str]:
    if key == "action":
        return [f"action {name!r}" for name in store.spec.action.names]
    size = int(np.prod(store.shape_of(key)[0]))
    return [f"{key}[{i}]" for i in range(size)] if size > 1 else [key]


def _some(items: list[str]) -> str:
    return ", ".join(items[:6]) + (f" and {len(items) - 6} more" if len(items) > 6 else "")


def _length_suspicions(lengths: np.ndarray) -> list[str]:
    median = float(np.median(lengths))
    found = []
    for what, odd in (
        ("short", lengths * LENGTH_FACTOR < median),
        ("long", lengths > median * LENGTH_FACTOR),
    ):
        if odd.any():
            listed = _some([f"{i} ({lengths[i]} steps)" for i in np.flatnonzero(odd)])
            found.append(f"very {what} episodes (the median is {median:g} steps): {listed}")
    return found


def _range_suspicions(key: str, rows: np.ndarray, stats: Stats, names: list[str]) -> list[str]:
    found = []
    std, mean = np.ravel(stats.std), np.ravel(stats.mean)
    constant = np.ravel(stats.min) == np.ravel(stats.max)
    if constant.any():
        found.append("constant dimensions: " + _some([names[i] for i in np.flatnonzero(constant)]))
    # A few far values hardly widen the inner 98%, so they show against its spread.
    spread = np.where(
        np.ravel(stats.q99) > np.ravel(stats.q01), rows.std(axis=0, where=_inner(rows, stats)), std
    )
    far = (np.abs(rows - mean) > OUTLIER_STD * np.maximum(spread, 1e-12)) & ~constant
    for dim in np.flatnonzero(far.any(axis=0)):
        row = int(np.argmax(far[:, dim]))
        found.append(
            f"outliers in {names[dim]}: {int(far[:, dim].sum())} rows more than {OUTLIER_STD:g} std away, "
            f"first row {row} of {key} with {rows[row, dim]:.4g}"
        )
    return found


def _inner(rows: np.ndarray, stats: Stats) -> np.ndarray:
    return (rows >= np.ravel(stats.q01)) & (rows <= np.ravel(stats.q99))


def _inside(store: EpisodeStore) -> np.ndarray:
    """bool [N-1]: whether step i -> i+1 stays in one episode."""
    inside = np.ones(max(int(store.episode_ends[-1]) - 1, 0), bool)
    inside[store.episode_ends[:-1] - 1] = False
    return inside


def _frozen(key: str, rows: np.ndarray, store: EpisodeStore) -> list[str]:
    inside = _inside(store)
    if not inside.any() or (rows == rows[0]).all():  # wholly constant keys are told elsewhere
        return []
    same = (rows[1:] == rows[:-1]).all(axis=1)[inside]
    if same.mean() < FROZEN_SHARE:
        return []
    rate = store.spec.control_hz * (1 - same.mean())
    return [
        (
            f"{key} repeats its last value in {same.mean():.0%} of the steps: "
            f"it changes at about {rate:.2g} Hz, the actions come at {store.spec.control_hz:g} Hz"
        )
    ]


def _frozen_images(key: str, store: EpisodeStore) -> list[str]:
    """Episodes whose first, middle and last picture are one and the same."""
    frozen = []
    for index, (end, length) in enumerate(zip(store.episode_ends, store.lengths, strict=True)):
        moments = sorted({int(end - length), int(end - length // 2 - 1), int(end - 1)})
        frames = [store.read(key, slice(row, row + 1)) for row in moments]
        if len(frames) > 1 and all(np.array_equal(frame, frames[0]) for frame in frames):
            frozen.append(str(index))
    return [f"{key} does not change in episodes {_some(frozen)}"] if frozen else []


def _sign_jumps(key: str, rows: np.ndarray, store: EpisodeStore) -> list[str]:
    """Quaternions whose sign flips between steps although the rotation hardly changes."""
    observation = store.spec.observations[key]
    is_quaternion = (observation.rotation or "").startswith("quat")
    looks_like_one = observation.shape == (4,) and np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3)
    if not (is_quaternion or looks_like_one):
        return []
    flips = ((rows[1:] * rows[:-1]).sum(axis=1) < -0.9) & _inside(store)
    if not flips.any():
        return []
    return [
        (
            f"the sign of quaternion {key} jumps {int(flips.sum())} times, "
            f"first after row {int(np.argmax(flips))}"
        )
    ]


def _saturation(store: EpisodeStore) -> list[str]:
    action, found = store.spec.action, []
    rows = store.read("action")
    grippers = {
        i for part, where in action.slices() if part.kind == "gripper" for i in range(action.size)[where]
    }
    for dim, (low, high) in enumerate(zip(action.low, action.high, strict=True)):
        at_bound = float(((rows[:, dim] <= low) | (rows[:, dim] >= high)).mean())
        if at_bound > SATURATED_SHARE and dim not in grippers:
            found.append(
                f"action {action.names[dim]!r} is at or beyond its bounds in {at_bound:.0%} of the steps"
            )
    return found


def _duplicates(store: EpisodeStore) -> list[str]:
    first: dict[bytes, int] = {}
    pairs = []
    actions = store.read("action")
    for index, (end, length) in enumerate(zip(store.episode_ends, store.lengths, strict=True)):
        content = np.ascontiguousarray(actions[end - length : end]).tobytes()
        if content in first:
            pairs.append(f"{index} = {first[content]}")
        first.setdefault(content, index)
    found = [f"episodes with identical actions: {_some(pairs)}"] if pairs else []
    seeds = [int(seed) for seed in store.seeds if seed >= 0]
    repeated = [str(seed) for seed, count in Counter(seeds).items() if count > 1]
    return found + ([f"seeds used more than once: {_some(repeated)}"] if repeated else [])
