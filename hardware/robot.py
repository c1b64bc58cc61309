"""The driver contract: one robot, its life, and the guard that nothing passes.

    robot = make_robot(RobotSpec.load("panda_sim"))
    with robot:                      # connect: read only, nothing moves
        robot.arm()                  # ramps up at the measured pose
        sent = robot.write(command)  # what was really sent, and why it differs

DISCONNECTED -> READ_ONLY -> ARMING -> RUNNING -> HOLD (back by itself, unless asked for), DAMPED, FAULT.
A latched state is left by `clear` alone, which leads back to READ_ONLY: a robot never arms by itself.

A driver implements `_open`, `_receive`, `_send`, `_close` and where it needs them `_enable` and `_stopped`;
it tells of dropped messages by `_reject`, and of a robot that wants to be stopped by `_fault`.
The public methods cannot be overridden: all that is ever sent is what the guard returns.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from hardware.guard import Guard
from hardware.messages import Command, Observation
from hardware.spec import LifeState, RobotSpec, StopMode
from robopolicy import registry
from robopolicy.errors import RobopolicyError

__all__ = ["Robot", "RobotError", "make_robot"]

_FINAL = ("connect", "arm", "read", "write", "stop", "clear", "close", "state", "latched", "counters")
_ARMED = (LifeState.RUNNING, LifeState.HOLD, LifeState.DAMPED, LifeState.FAULT)
_LOCK_S = 0.05
_DAMP_S = 1.0
_BRAKE_S = 2.0


class RobotError(RobopolicyError, RuntimeError):
    """A robot that cannot do what was asked: not connected, not armed, latched, silent."""


class Robot(ABC):
    """One robot behind its guard.

    Args:
        clock: monotonic nanoseconds.
        sleep: waits a number of seconds.
    """

    def __init__(
        self,
        spec: RobotSpec,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.spec = spec
        self._clock, self._sleep = clock, sleep
        self.__guard = Guard(spec)
        self.__state = LifeState.DISCONNECTED
        self.__latest: Observation | None = None
        self.__wire = threading.Lock()
        self.__announced: StopMode | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        taken = sorted(set(_FINAL) & set(vars(cls)))
        if taken:
            raise TypeError(
                f"{cls.__name__} overrides {', '.join(taken)}: drivers implement _send and the like."
            )

    # What a driver implements.

    @abstractmethod
    def _open(self, timeout_s: float) -> None:
        """Connect for reading; nothing may move. Raises RobotError when the robot does not answer in time."""

    @abstractmethod
    def _receive(self, timeout_s: float) -> Observation | None:
        """The newest observation not returned yet; waits up to `timeout_s` for one. None if there is none.

        A message with a bad checksum is dropped and told to `_reject`.
        """

    @abstractmethod
    def _send(self, command: Command) -> None:
        """Put a guarded command on the wire, without blocking. Every array is filled in."""

    @abstractmethod
    def _close(self) -> None:
        """Free the connection; the robot has been stopped. Called at most once after `_open`."""

    def _enable(self) -> None:  # noqa: B027 - most robots need nothing
        """Before the first command: take control of the robot (release its own modes, switch motors on)."""

    def _stopped(self, how: StopMode) -> None:  # noqa: B027 - most robots need nothing
        """A latched stop has just begun; its command is sent as well. For side channels only."""

    @final
    def _reject(self, what: str) -> None:
        """Count a message that was dropped (crc, order, shape); too many in a second trip the guard."""
        self.__guard.rejected(what, self._clock())

    @final
    def _fault(self, reason: str, how: StopMode | None = None) -> None:
        """Latch because of what the robot said; for `_receive`, whose caller sends the stop at once."""
        self.__guard.trip(reason, how)

    # What a user calls.

    @property
    @final
    def state(self) -> LifeState:
        """Where the robot is in its life."""
        return self.__state

    @property
    @final
    def latched(self) -> str:
        """Why the robot is latched; empty if it is not."""
        return self.__guard.latched

    @property
    @final
    def counters(self) -> Mapping[str, int]:
        """How often each check and event happened since connecting."""
        return self.__guard.counters

    @final
    def connect(self, timeout_s: float = 5.0) -> None:
        """Connect and wait for a first observation; ends READ_ONLY. Sends nothing.

        Raises:
            RobotError: no observation within the timeout.
        """
        if self.__state is not LifeState.DISCONNECTED:
            raise RobotError(f"{self.spec.name} is connected already ({self.__state.name}).")
        self.__guard = Guard(self.spec)
        self.__latest, self.__announced = None, None
        self._open(timeout_s)
        try:
            with self.__wire:
                self._poll(timeout_s)
            if self.__latest is None:
                raise RobotError(f"{self.spec.name} is connected but sent no observation in {timeout_s:g} s.")
        except BaseException:
            self._close()
            raise
        self.__state = LifeState.READ_ONLY

    @final
    def arm(self, ramp_s: float | None = None, *, every_tick: Callable[[], None] | None = None) -> None:
        """Take control at the measured pose: gains and weight grow from nothing. Blocks for `ramp_s`.

        Args:
            every_tick: called once a tick meanwhile; it may stop the robot.

        Raises:
            RobotError: not READ_ONLY, no fresh observation, a joint outside its limits, or the guard tripped.
        """
        if self.__state is not LifeState.READ_ONLY or self.latched:
            why = f", latched: {self.latched}" if self.latched else ""
            raise RobotError(f"{self.spec.name} arms from READ_ONLY; it is {self.__state.name}{why}.")
        ramp_ns = int(1e9 * (self.spec.arm_ramp_s if ramp_s is None else ramp_s))
        with self.__wire:
            self._refuse_outside(self._seen_since(self._clock() - self.spec.obs_timeout_ns).q)
            self._enable()
            # Enabling takes time, and a robot that lets go of its own controller sags.
            start = self._seen_since(self._clock())
            self._refuse_outside(start.q)
            if not self.latched:
                self.__guard.begin(start, self._clock())
                self.__state = LifeState.ARMING
        begun = deadline = self._clock()
        kp, kd, hold = self.spec.array("kp"), self.spec.array("kd"), start.q.copy()
        while self.__state is LifeState.ARMING:
            now = self._clock()
            share = min(1.0, (now - begun) / ramp_ns) if ramp_ns > 0 else 1.0
            command = Command(
                t_ns=now,
                valid_until_ns=now + self.spec.cmd_timeout_ns,
                q=hold,
                kp=share * kp,
                kd=kd,
                weight=share,
            )
            with self.__wire:
                self._tick(command)
                if share >= 1.0 and not self.latched and self.__state is LifeState.ARMING:
                    self.__guard.start_ramp(self._clock())
                    self.__state = LifeState.RUNNING
            if every_tick is not None:
                every_tick()
            deadline += self.spec.period_ns
            self._sleep(max(0.0, 1e-9 * (deadline - self._clock())))
        if self.latched:
            raise RobotError(f"{self.spec.name} was stopped while arming: {self.latched}.")

    @final
    def read(self, timeout_s: float = 0.0) -> Observation:
        """The newest observation; waits up to `timeout_s` for one that was not returned yet.

        Raises:
            RobotError: not connected. A robot that has fallen silent is told by the age of `t_ns`.
        """
        if self.__state is LifeState.DISCONNECTED:
            raise RobotError(f"{self.spec.name} is not connected.")
        with self.__wire:
            self._poll(timeout_s)
            assert self.__latest is not None
            return self.__latest

    @final
    def write(self, command: Command | None) -> Command:
        """Send a command through the guard. None, or a command without `q`, brakes and holds.

        To be called every tick: a latched robot needs its stop command repeated.

        Returns:
            What was really sent; its `reasons` say why it differs.

        Raises:
            RobotError: the robot is not armed.
        """
        if self.__state not in _ARMED:
            raise RobotError(f"{self.spec.name} is {self.__state.name}: arm it before writing.")
        with self.__wire:
            return self._tick(command)

    @final
    def stop(self, how: StopMode | None = None, reason: str = "stopped") -> None:
        """Latch and stop, from any state and any thread, any number of times. Only ever gets stricter.

        The stop is in force before this returns. Its command goes out at once, unless another thread is
        sending just then, and is repeated by every later `write`.
        """
        self.__guard.trip(reason, how or self.spec.stop, operator=True)
        if self.__state in (*_ARMED, LifeState.ARMING) and self.__wire.acquire(timeout=_LOCK_S):
            try:
                self._tick(None)
            finally:
                self.__wire.release()

    @final
    def clear(self, operator: str) -> None:
        """Leave a latched state for READ_ONLY, in the name of a person.

        Raises:
            RobotError: no name given.
        """
        if not operator.strip():
            raise RobotError("Clearing a stop needs the name of an operator.")
        with self.__wire:
            self.__guard.clear()
            self.__announced = None
            if self.__state is not LifeState.DISCONNECTED:
                self.__state = LifeState.READ_ONLY

    @final
    def close(self) -> None:
        """Stop the robot, wait until the stop has done its work, and disconnect. Idempotent."""
        if self.__state is LifeState.DISCONNECTED:
            return
        try:
            if self.__state in (*_ARMED, LifeState.ARMING):
                self.stop(reason=self.latched or "closed")
                self._come_to_rest()
        finally:
            self.__state = LifeState.DISCONNECTED
            self._close()

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tick(self, command: Command | None) -> Command:
        self._poll(0.0)
        sent = self.__guard.filter(command, self.__latest, self._clock())
        self._send(sent)
        guard = self.__guard
        if guard.latched:
            if guard.stop_mode == "hold":
                self.__state = LifeState.HOLD if guard.asked else LifeState.FAULT
            else:
                self.__state = LifeState.DAMPED
            if self.__announced != guard.stop_mode:
                self.__announced = guard.stop_mode
                self._stopped(guard.stop_mode)
        elif self.__state is not LifeState.ARMING:
            self.__state = LifeState.HOLD if guard.holding else LifeState.RUNNING
        return sent

    def _poll(self, timeout_s: float) -> None:
        observation = self._receive(timeout_s)
        if observation is None:
            return
        if self.__latest is not None and observation.seq <= self.__latest.seq:
            self._reject("order")
            return
        self.__latest = observation

    def _seen_since(self, t_ns: int) -> Observation:
        """The newest observation, waited for if it is older."""
        deadline = self._clock() + self.spec.obs_timeout_ns
        while True:
            self._poll(max(0.0, 1e-9 * (deadline - self._clock())))
            if self.__latest is not None and self.__latest.t_ns >= t_ns:
                return self.__latest
            if self._clock() >= deadline:
                raise RobotError(f"{self.spec.name} cannot arm: the last observation is too old.")
            self._sleep(1e-10 * self.spec.period_ns)

    def _refuse_outside(self, q: np.ndarray) -> None:
        lower, upper = self.spec.array("lower"), self.spec.array("upper")
        outside = [
            f"{name} at {value:.3f} rad, allowed [{low:.3f}, {high:.3f}]"
            for name, value, low, high in zip(self.spec.names, q, lower, upper, strict=True)
            if not low - 1e-3 <= value <= high + 1e-3
        ]
        if outside:
            raise RobotError(f"{self.spec.name} cannot arm outside its limits: {'; '.join(outside)}.")

    def _come_to_rest(self) -> None:
        begun = self._clock()
        longest = 1e9 * (_BRAKE_S if self.__guard.stop_mode == "hold" else _DAMP_S)
        while self._clock() - begun < longest:
            with self.__wire:
                sent = self._tick(None)
            if self.__guard.stop_mode == "hold" and sent.dq is not None and not sent.dq.any():
                break
            self._sleep(1e-9 * self.spec.period_ns)


def make_robot(spec: RobotSpec, **context: Any) -> Robot:
    """The driver that a robot's yaml names, not yet connected.

    Raises:
        ConfigError: unknown driver or setting; lists the valid ones.
    """
    package = importlib.import_module("hardware.robots")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    robot: Robot = registry.build("driver", spec.driver, spec=spec, **context)
    return robot
