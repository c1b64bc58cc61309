"""How long a robot takes to be safe after something goes wrong, end to end.

    python -m hardware.sim.faults --repeats 5 > results/checks/fault_injection.json

An arm on DDS, its control process, and a policy in a third process that keeps the arm moving. One thing goes
wrong at a time, and the control process' own record tells when it first was in a safe state. What networks do
every day (messages lost, doubled, a little late) must stop nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hardware.link import default_directory, tick_of
from hardware.ring import Ring
from hardware.sim.faulty_arm import FaultyArm
from hardware.spec import LifeState, RobotSpec
from hardware.transport.network import Network
from robopolicy.errors import RobopolicyError
from robopolicy.evaluation.machine import stamp

__all__ = ["FAULTS", "POLICY_TIMEOUT_S", "SAFE", "TIMEOUT_S", "Fault", "Outcome", "Rig", "inject", "main"]

SAFE = (LifeState.HOLD, LifeState.DAMPED, LifeState.FAULT)
TIMEOUT_S = 0.15
POLICY_TIMEOUT_S = 0.3
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong."""

    allowed_s: float | None
    """Within this time, and two control periods, the robot is to be safe; None: it is to go on."""
    strike: Callable[[Rig], int | None] | None = None
    """What happens; it gives the monotonic time in ns that counts, if that is not its beginning. None: it is
    the policy that goes wrong, by itself."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    safe_after_ms: float | None
    """Until the first tick in a safe state; None: it went on."""
    state: str
    """A little later."""
    latched: str
    moved: bool
    """Whether the arm still moved a little later,"""
    observation_age_ms: float
    """and how old its newest state was then."""


class Rig:
    """The arm, the control process and the policy, running."""

    def __init__(self, network: Network, directory: Path, fault: str = "none") -> None:
        self.arm = FaultyArm(network, follow=True)
        spec = RobotSpec.load("panda_sim")
        driver = {**spec.driver, "network": {"domain": network.domain}, "poses": {}}
        self.spec = spec.replace(
            driver=driver,
            arm_ramp_s=0.1,
            cmd_timeout_s=TIMEOUT_S,
            obs_timeout_s=TIMEOUT_S,
            policy_timeout_s=POLICY_TIMEOUT_S,
        )
        described = json.dumps(self.spec.to_dict())
        command = [sys.executable, "-m", "hardware.sim.faulty_policy", described, str(directory), fault]
        # Without a buffer, so that what was not read yet can be waited for.
        self.policy = subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.interrupted = sys.maxsize
        """Number of the tick that a pause may have interrupted: it counts, with the time of its end."""
        try:
            self.control = int(self.line())
            self._ticks = Ring.attach(directory / "ticks")
            self.wait(lambda: self.tick()["state"] is LifeState.RUNNING, "RUNNING")
        except BaseException:
            self.close()
            raise

    def line(self) -> str:
        """What the policy prints next.

        Raises:
            RobopolicyError: it prints nothing for half a minute.
        """
        assert self.policy.stdout is not None
        if not select.select([self.policy.stdout], [], [], _PATIENCE_S)[0]:
            raise RobopolicyError(f"The policy said nothing for {_PATIENCE_S:g} s.")
        return self.policy.stdout.readline().decode().strip()

    def pause(self, seconds: float) -> int:
        """Stop the control process, let it go on, and give the monotonic time of that in ns.

        That is taken before the signal: afterwards the tick that stops the robot may be over.
        """
        os.kill(self.control, signal.SIGSTOP)
        time.sleep(seconds)
        self.interrupted = self._ticks.written
        returned_ns = time.monotonic_ns()
        os.kill(self.control, signal.SIGCONT)
        return returned_ns

    def tick(self) -> Mapping[str, Any]:
        """The last of the control process' ticks."""
        return tick_of(self._ticks.last(1)[0])

    def wait(self, what: Callable[[], bool], name: str) -> None:
        """Wait until something is so.

        Raises:
            RobopolicyError: it does not become so.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not what():
            if time.monotonic() > deadline:
                raise RobopolicyError(f"The robot was never {name}; its last tick: {self.tick()}.")
            time.sleep(0.01)

    def safe_after(self, begun_ns: int, *, within_s: float) -> float | None:
        """Milliseconds from a time to the first tick in a safe state; None if there is none."""
        deadline = begun_ns + 1e9 * within_s
        while time.monotonic_ns() < deadline:
            latest = self._ticks.last(500)
            for number, record in enumerate(latest, self._ticks.written - len(latest)):
                counts = record["t_ns"] >= begun_ns or number == self.interrupted
                if counts and LifeState(int(record["state"])) in SAFE:
                    return round(1e-6 * max(0, int(record["t_ns"]) - begun_ns), 2)
            time.sleep(0.01)
        return None

    def close(self) -> None:
        """End everything, whatever state it is in."""
        for process in (self.policy.pid, getattr(self, "control", None)):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self.policy.wait()
        assert self.policy.stdout is not None
        self.policy.stdout.close()
        self.arm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _freeze(rig: Rig) -> None:
    rig.arm.frozen.set()


def _set(**values: Any) -> Callable[[Rig], None]:
    def strike(rig: Rig) -> None:
        for name, value in values.items():
            setattr(rig.arm, name, value)

    return strike


FAULTS: Mapping[str, Fault] = {
    "policy killed": Fault(POLICY_TIMEOUT_S, lambda rig: os.kill(rig.policy.pid, signal.SIGKILL)),
    "policy stopped": Fault(POLICY_TIMEOUT_S, lambda rig: os.kill(rig.policy.pid, signal.SIGSTOP)),
    "policy slow": Fault(POLICY_TIMEOUT_S),
    "policy sends nan": Fault(0.0),
    "policy's disk full": Fault(0.0),
    "control process stopped": Fault(0.0, lambda rig: rig.pause(3 * TIMEOUT_S)),
    "observations frozen": Fault(TIMEOUT_S, _freeze),
    "robot gone": Fault(TIMEOUT_S, lambda rig: rig.arm.close()),
    "messages garbled": Fault(TIMEOUT_S, _set(garbled=True)),
    "messages all lost": Fault(TIMEOUT_S, _set(lost=1.0)),
    "messages 300 ms late": Fault(TIMEOUT_S, _set(late_s=2 * TIMEOUT_S)),
    "messages half lost": Fault(None, _set(lost=0.5)),
    "messages doubled": Fault(None, _set(doubled=True)),
    "messages 20 ms late": Fault(None, _set(late_s=0.02)),
    "robot's clock an hour ahead": Fault(None, _set(skew_ns=3600 * 10**9)),
    "robot's clock an hour back": Fault(None, _set(skew_ns=-3600 * 10**9)),
}
_OF_THE_POLICY = {"policy slow": "slow", "policy sends nan": "nan", "policy's disk full": "disk"}


def inject(name: str, network: Network, directory: Path) -> Outcome:
    """Let one thing go wrong and see what comes of it."""
    fault = FAULTS[name]
    with Rig(network, directory, _OF_THE_POLICY.get(name, "none")) as rig:
        if fault.strike is None:
            begun = int(rig.line())
        else:
            time.sleep(0.3)
            begun = time.monotonic_ns()
            begun = fault.strike(rig) or begun
        safe = rig.safe_after(begun, within_s=1.0 if fault.allowed_s is None else 5.0)
        time.sleep(0.3)
        tick = rig.tick()
        # A control process that has ended braked the arm after its last tick.
        moved = bool(np.any(tick["dq"])) and any(rig.arm.velocity)
        age_ms = round(1e-6 * tick["obs_age_ns"], 2)
        return Outcome(safe, tick["state"].name, tick["latched"], moved, age_ms)


def main() -> None:
    """Let everything go wrong and print the times as JSON."""
    parser = argparse.ArgumentParser(description="Times from faults to a safe state.")
    parser.add_argument("--domain", type=int, default=71)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="robopolicy_", dir=default_directory()) as directory:
        for name, fault in FAULTS.items():
            outcomes = [
                inject(name, Network(domain=arguments.domain), Path(directory) / f"{name}_{repeat}")
                for repeat in range(arguments.repeats)
            ]
            found[name] = {
                "allowed_ms": None if fault.allowed_s is None else round(1e3 * fault.allowed_s),
                "safe_after_ms": [outcome.safe_after_ms for outcome in outcomes],
                "state": [outcome.state for outcome in outcomes],
                "latched": [outcome.latched for outcome in outcomes],
                "moved": [outcome.moved for outcome in outcomes],
            }
            print(name, found[name]["safe_after_ms"], file=sys.stderr, flush=True)
    control = {"timeout_ms": round(1e3 * TIMEOUT_S), "policy_timeout_ms": round(1e3 * POLICY_TIMEOUT_S)}
    load = {"cpus": os.cpu_count(), "machine_load": round(os.getloadavg()[0], 1)}
    json.dump({"faults": found, **control, **load, **stamp()}, sys.stdout, indent=1)
    print(flush=True)


if __name__ == "__main__":
    main()
