"""Unitree's remote calls: a request and a response topic a service, JSON in both."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import numpy as np

from hardware.robot import RobotError
from hardware.transport.dds import RELIABLE, Participant
from hardware.transport.idl_unitree import Request, RequestHeader, RequestIdentity, RequestPolicy, Response
from hardware.transport.topics import TopicTimeout

__all__ = [
    "CHECK_MODE",
    "DAMP",
    "GET_FSM",
    "LONGEST_VELOCITY_S",
    "NOT_IMPLEMENTED",
    "RELEASE_MODE",
    "SELECT_MODE",
    "SET_FSM",
    "SET_VELOCITY",
    "START",
    "ZERO_TORQUE",
    "Loco",
    "MotionSwitcher",
    "Service",
]

NOT_IMPLEMENTED = 3203
_MEANINGS = {3102: "could not be sent", 3104: "timed out on the robot", NOT_IMPLEMENTED: "is not implemented"}

CHECK_MODE, SELECT_MODE, RELEASE_MODE = 1001, 1002, 1003
GET_FSM, SET_FSM, SET_VELOCITY = 7001, 7101, 7105
ZERO_TORQUE, DAMP, START = 0, 1, 500
LONGEST_VELOCITY_S = 1.0


class Service:
    """One service of the robot, such as ``sport`` or ``motion_switcher``."""

    def __init__(self, participant: Participant, name: str) -> None:
        self.name = name
        self._requests = participant.writer(f"rt/api/{name}/request", Request, RELIABLE)
        self._responses = participant.reader(f"rt/api/{name}/response", Response, RELIABLE)
        self._ids = itertools.count(time.time_ns())

    def call(self, function: int, arguments: dict[str, Any] | None = None, timeout_s: float = 1.0) -> Any:
        """Call a function and wait for its answer, the parsed JSON or None.

        Raises:
            RobotError: nobody answered in time, or the robot refused.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._requests.wait_matched(timeout_s)
            self._responses.wait_matched(max(0.0, deadline - time.monotonic()))
        except TopicTimeout as error:
            raise RobotError(f"The robot's service {self.name} is not there: {error}") from error
        number = self._send(function, arguments, noreply=False)
        while time.monotonic() < deadline:
            self._responses.wait(max(0.0, deadline - time.monotonic()))
            for response in self._responses.take():
                if response.header.identity.id == number:
                    return self._result(function, response)
        raise RobotError(f"The robot's service {self.name} did not answer {function} within {timeout_s:g} s.")

    def tell(self, function: int, arguments: dict[str, Any]) -> None:
        """Call a function without waiting; an answer is not asked for."""
        self._send(function, arguments, noreply=True)

    def _send(self, function: int, arguments: dict[str, Any] | None, *, noreply: bool) -> int:
        number = next(self._ids)
        header = RequestHeader(RequestIdentity(number, function), policy=RequestPolicy(0, noreply))
        self._requests.write(Request(header, "" if arguments is None else json.dumps(arguments)))
        return number

    def _result(self, function: int, response: Response) -> Any:
        code = response.header.status.code
        if code:
            meaning = _MEANINGS.get(code, "was refused")
            raise RobotError(f"{self.name}: function {function} {meaning} (code {code}).")
        try:
            return json.loads(response.data) if response.data else None
        except json.JSONDecodeError as error:
            raise RobotError(
                f"{self.name}: the answer to {function} is no JSON: {response.data!r}."
            ) from error


class MotionSwitcher:
    """Which of the robot's own controllers runs."""

    def __init__(self, participant: Participant) -> None:
        self._service = Service(participant, "motion_switcher")

    def mode(self) -> str:
        """Name of the running controller; empty when joints are free to be commanded."""
        answer = self._service.call(CHECK_MODE)
        return str((answer or {}).get("name", ""))

    def release(self, timeout_s: float = 5.0) -> None:
        """Stop the robot's own controller, so that rt/lowcmd is obeyed.

        Raises:
            RobotError: it is still running after the timeout.
        """
        deadline = time.monotonic() + timeout_s
        while mode := self.mode():
            if time.monotonic() > deadline:
                raise RobotError(f"The robot did not release its mode {mode!r} within {timeout_s:g} s.")
            self._service.call(RELEASE_MODE)


class Loco:
    """The walking controller. Every velocity ends by itself."""

    def __init__(self, participant: Participant) -> None:
        self._service = Service(participant, "sport")

    def state(self) -> int:
        """The number of the state machine's state."""
        return int((self._service.call(GET_FSM) or {}).get("data", -1))

    def damp(self) -> None:
        """Let the robot sink down, all joints damped; without waiting for an answer."""
        self._service.tell(SET_FSM, {"data": DAMP})

    def walk(self, velocity: np.ndarray, duration_s: float) -> None:
        """Walk forward, left (m/s) and turn (rad/s) `[3]` for a time; without waiting for an answer.

        Raises:
            RobotError: a longer duration. The robot's "continuous move" has no end and is not offered.
        """
        if not 0 < duration_s <= LONGEST_VELOCITY_S:
            raise RobotError(f"A velocity lasts at most {LONGEST_VELOCITY_S:g} s, got {duration_s:g}.")
        self._service.tell(SET_VELOCITY, {"velocity": velocity.tolist(), "duration": duration_s})
