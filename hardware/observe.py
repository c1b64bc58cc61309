"""A policy's observations from what a robot measures: each key is made of parts that the robot's yaml names.

    observations:
      robot0_eef_pos: [grip_site.position]
      object-state: [object.position, object.quat_xyzw, object.offset]
      agentview_image: [agentview.image]

| part | |
|---|---|
| joints.position, joints.velocity | `[n]` |
| gripper.opening, gripper.fingers | metres; `[2]`, half of it and its negative, as robosuite has it |
| <end effector>.position, .quat_xyzw, .quat_wxyz | from the joints, in the policy's frame |
| <stream>.position, .quat_xyzw, .quat_wxyz | a pose, as it was published: in the policy's frame |
| <stream>.offset | its position minus that of the first end effector |
| <stream>.image, <stream>.value | a picture; any other numbers, whose size the policy's spec tells |

All of an observation is of one time: streams are interpolated to it, pictures are the nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from hardware.collision import Shadow
from hardware.command_map import CommandMapConfig
from hardware.latency import Device, History, observation_times
from hardware.messages import Measured, Observation
from hardware.spec import RobotSpec
from robopolicy.errors import DataError, SpecMismatch, unknown
from robopolicy.registry import parse
from robopolicy.spec import INSTRUCTION, Spec

__all__ = ["Observer"]

_STATE = "joints"
_POSE = {"position": 3, "quat_xyzw": 4, "quat_wxyz": 4}
_OF_STREAM = (*_POSE, "offset", "image", "value")


class Observer:
    """Keeps what was measured and makes a policy's observation history of it.

    Args:
        robot: its `observations` say what each key is made of.
        wanted: the policy's.
        matching: put every measurement at the time it was taken. Otherwise the newest of each counts as now.

    Raises:
        SpecMismatch: keys that no stream supplies (all of them are named), or of another size.
    """

    def __init__(self, robot: RobotSpec, wanted: Spec, *, matching: bool = True) -> None:
        self.robot, self.wanted, self.matching = robot, wanted, matching
        self.keys = [key for key, spec in wanted.observations.items() if spec.kind != "text"]
        missing = [key for key in self.keys if key not in robot.observations and key != INSTRUCTION]
        if missing:
            raise SpecMismatch(
                f"The policy observes {', '.join(map(repr, missing))}, which {robot.name} does not supply. "
                f"Its yaml supplies: {', '.join(sorted(robot.observations)) or 'nothing'}."
            )
        self._parts = {key: [tuple(part.split(".")) for part in robot.observations[key]] for key in self.keys}
        frame = parse(CommandMapConfig, dict(robot.command_map), f"robot={robot.name}: command_map")
        self._origin, self._back = np.array(frame.origin), np.empty(4)
        mujoco.mju_negQuat(self._back, np.array(frame.turn))
        self._shadow = Shadow(robot) if robot.model else None
        self.streams = self._check_parts()
        self._histories: dict[str, History] = {}
        self.begin(0)

    def begin(self, t_ns: int) -> None:
        """Forget all that was measured before: an episode begins."""
        self._since = t_ns
        self._histories = {
            name: History(Device(name=name, latency_s=self.robot.latency_s.get(name, 0.0)))
            for name in (_STATE, *self.streams)
        }

    def add(self, states: Sequence[Observation], streams: Mapping[str, Sequence[Measured]]) -> None:
        """Take in what was measured; what is known already or older than `begin` is skipped."""
        for state in states:
            if state.t_ns >= self._since:
                gripper = [] if state.gripper is None else [state.gripper]
                self._histories[_STATE].add(state.t_ns, np.concatenate([state.q, state.dq, gripper]))
        for name in self.streams:
            for sample in streams.get(name, ()):
                if sample.t_ns >= self._since:
                    self._histories[name].add(sample.t_ns, sample.value)

    @property
    def silent(self) -> list[str]:
        """Streams that have not delivered anything since `begin`."""
        return [name for name, history in self._histories.items() if history.newest_ns is None]

    def observe(self, count: int, dt_ns: int, now_ns: int) -> tuple[dict[str, np.ndarray], int]:
        """The newest observation history, `[count, ...]` for every key, and the time of its last row.

        Raises:
            DataError: a stream has not delivered anything; names it.
        """
        back = dt_ns * np.arange(1 - count, 1)
        if self.matching:
            times = observation_times(list(self._histories.values()), count, dt_ns)
            return self.at(dict.fromkeys(self._histories, times)), int(times[-1])
        newest = {name: history.newest_ns for name, history in self._histories.items()}
        late = [name for name, t_ns in newest.items() if t_ns is None]
        if late:
            raise DataError(f"Nothing was received from {', '.join(late)} yet.")
        return self.at({name: t_ns + back for name, t_ns in newest.items() if t_ns is not None}), now_ns

    def joints(self, t_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Joint positions and velocities `[n]` at a time."""
        n = self.robot.size
        row = self._histories[_STATE].at(np.array([t_ns]))[0]
        return row[:n], row[n : 2 * n]

    def end_effector(self, t_ns: int) -> np.ndarray:
        """Position `[3]` of the first end effector at a time, in the policy's frame."""
        return self._end_effectors(self.joints(t_ns)[0])[self.robot.end_effectors[0]][0]

    def at(self, times: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Observations `[T, ...]` with each stream seen at its own times `[T]`."""
        states = self._histories[_STATE].at(times[_STATE])
        ends = [self._end_effectors(row[: self.robot.size]) for row in states]
        found = {}
        for key in self.keys:
            wanted = self.wanted.observations[key]
            columns = [self._part(source, what, states, ends, times) for source, what in self._parts[key]]
            value = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
            if value.shape[1:] != wanted.shape:
                raise SpecMismatch(
                    f"Observation {key!r} is {list(wanted.shape)} for the policy; {self.robot.name} "
                    f"supplies {list(value.shape[1:])}."
                )
            found[key] = value.astype(wanted.dtype)
        return found

    def _part(
        self,
        source: str,
        what: str,
        states: np.ndarray,
        ends: list[dict[str, tuple[np.ndarray, np.ndarray]]],
        times: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        n = self.robot.size
        if source == _STATE:
            return states[:, :n] if what == "position" else states[:, n : 2 * n]
        if source == "gripper":
            opening = states[:, 2 * n :]
            return opening if what == "opening" else np.concatenate([0.5 * opening, -0.5 * opening], axis=1)
        if source in self.robot.end_effectors:
            position, quaternion = (np.stack([row[source][i] for row in ends]) for i in (0, 1))
            return position if what == "position" else _ordered(quaternion, what)
        history = self._histories[source]
        if what == "image":
            return np.stack(history.nearest(times[source]))
        values = history.at(times[source])
        if what == "offset":
            first = self.robot.end_effectors[0]
            offset: np.ndarray = values[:, :3] - np.stack([row[first][0] for row in ends])
            return offset
        if what == "value":
            return values
        return values[:, :3] if what == "position" else _ordered(values[:, 3:7], what)

    def _end_effectors(self, q: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Position and quaternion (real part first, continuous in q) of each, in the policy's frame."""
        if self._shadow is None:
            return {}
        found = {}
        for name, (position, quaternion) in self._shadow.poses(q).items():
            here, turned = np.empty(3), np.empty(4)
            mujoco.mju_rotVecQuat(here, position - self._origin, self._back)
            mujoco.mju_mulQuat(turned, self._back, quaternion)
            found[name] = here, turned
        return found

    def _check_parts(self) -> tuple[str, ...]:
        """The streams that are needed; every part has a meaning, and all but `value` and `image` a size."""
        robot, streams = self.robot, []
        valid: dict[str, tuple[str, ...]] = {_STATE: ("position", "velocity")}
        valid |= {"gripper": ("opening", "fingers")} if robot.gripper else {}
        valid |= dict.fromkeys(robot.end_effectors, tuple(_POSE))
        sizes = {"opening": 1, "fingers": 2, "offset": 3, "velocity": robot.size, **_POSE}
        for key, parts in self._parts.items():
            total: int | None = 0
            for part in parts:
                if len(part) != 2:
                    raise SpecMismatch(f"{robot.name}: {key!r} {'.'.join(part)!r} is not source.what.")
                source, what = part
                choices = valid.get(source, _OF_STREAM)
                if what not in choices:
                    raise SpecMismatch(f"{robot.name}, {key!r}: " + unknown(f"of {source}", what, choices))
                if source not in valid and source not in streams:
                    streams.append(source)
                size = robot.size if source == _STATE else sizes.get(what)
                total = None if total is None or size is None else total + size
            wanted = self.wanted.observations[key].shape
            if total is not None and wanted != (total,):
                raise SpecMismatch(
                    f"Observation {key!r} is {list(wanted)} for the policy; {robot.name} supplies [{total}]."
                )
        return tuple(streams)


def _ordered(quaternions: np.ndarray, what: str) -> np.ndarray:
    """Normalised `[T, 4]`, real part first or last."""
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    return unit if what == "quat_wxyz" else np.roll(unit, -1, axis=1)
