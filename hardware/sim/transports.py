"""How long a command and the state that answers it take over each way to a robot, on the loopback.

    python -m hardware.sim.transports --rounds 5 > results/checks/transports.json

A trajectory of seven joints and two points goes out at 100 Hz; a process on DDS answers each with a joint
state that bears its stamp. Over rosbridge and zenoh both pass a simulated bridge, a third process, so their
figures have two hops of DDS in them. The ways take turns, because a machine is not equally busy all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from hardware.priority import go_first
from hardware.process import READY, Simulated
from hardware.robots.streams import dds_name
from hardware.transport.dds import Participant
from hardware.transport.idl_ros import (
    Duration,
    Header,
    JointState,
    JointTrajectory,
    JointTrajectoryPoint,
    Time,
)
from hardware.transport.network import Network
from hardware.transport.route import join, route
from hardware.transport.topics import Reader
from robopolicy.evaluation.machine import stamp

__all__ = ["COMMANDS", "PERIOD_S", "STATES", "echo", "everything", "main", "measure"]

STATES, COMMANDS = dds_name("/joint_states"), dds_name("/arm_controller/joint_trajectory")
PERIOD_S = 0.01
_PATIENCE_S = 0.2
_CONNECT_S = 20.0
_JOINTS = tuple(f"joint{i}" for i in range(7))


def measure(
    network: Network, transports: Mapping[str, Mapping[str, Any]], rounds: int, count: int
) -> dict[str, Any]:
    """Milliseconds there and back by transport, and how many messages were lost.

    Args:
        transports: as in a robot's yaml, by the name of the result.
        count: commands in a round.
    """
    taken: dict[str, list[float]] = {name: [] for name in transports}
    for _ in range(rounds):
        for name, transport in transports.items():
            taken[name] += _round(network, transport, count)
    return {
        name: {
            "sent": rounds * count,
            "lost": rounds * count - len(times),
            "round_trip_ms": {f"p{q}": round(float(np.percentile(times, q)), 4) for q in (50, 99)},
        }
        for name, times in taken.items()
    }


def echo(network: Network) -> None:
    """Answer every trajectory with a joint state, until the process is told to end."""
    with Participant(network) as participant:
        commands = participant.reader(COMMANDS, JointTrajectory)
        states = participant.writer(STATES, JointState)
        go_first(-5)
        print(READY, flush=True)
        parent = os.getppid()
        while os.getppid() == parent:
            if commands.wait(0.5):
                for command in commands.take():
                    zeros = [0.0] * len(_JOINTS)
                    states.write(JointState(command.header, list(_JOINTS), zeros, zeros, zeros))


@contextmanager
def everything(domain: int, ports: tuple[int, int] = (9090, 7447)) -> Iterator[dict[str, dict[str, Any]]]:
    """The process that answers and both bridges; yields the ways to it."""
    rosbridge, zenoh = ports
    with ExitStack() as stack:
        stack.enter_context(Simulated("hardware.sim.transports", "--echo", f"--domain={domain}"))
        for module, port in (("rosbridge", rosbridge), ("zenoh_bridge", zenoh)):
            stack.enter_context(Simulated(f"hardware.sim.{module}", f"--domain={domain}", f"--port={port}"))
        yield {
            "dds": {"name": "dds"},
            "rosbridge": {"name": "rosbridge", "url": f"ws://127.0.0.1:{rosbridge}"},
            "zenoh": {"name": "zenoh", "connect": [f"tcp/127.0.0.1:{zenoh}"]},
        }


def _round(network: Network, transport: Mapping[str, Any], count: int) -> list[float]:
    times = []
    with join(route(transport, network)) as participant:
        commands = participant.writer(COMMANDS, JointTrajectory)
        states = participant.reader(STATES, JointState)
        commands.wait_matched(_CONNECT_S)
        for _ in range(round(_CONNECT_S / PERIOD_S)):
            if states.matched:  # through a bridge nobody is known to publish until they do
                break
            commands.write(_command(0))
            time.sleep(PERIOD_S)
        states.wait_matched(0.0)
        time.sleep(_PATIENCE_S)
        states.take()
        due = time.monotonic()
        for number in range(1, count + 1):
            sent = time.perf_counter()
            commands.write(_command(number))
            if _answered(states, number):
                times.append(1e3 * (time.perf_counter() - sent))
            due += PERIOD_S
            time.sleep(max(0.0, due - time.monotonic()))
    return times


def _answered(states: Reader[JointState], number: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while states.wait(deadline - time.monotonic()):
        if any(state.header.stamp.sec == number for state in states.take()):
            return True
    return False


def _command(number: int) -> JointTrajectory:
    values = [0.1 * i for i in range(len(_JOINTS))]
    points = [
        JointTrajectoryPoint(positions=values, velocities=values, time_from_start=Duration.from_ns(ns))
        for ns in (20_000_000, 80_000_000)
    ]
    return JointTrajectory(Header(Time(number)), list(_JOINTS), points)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Round trips over every way to a robot.")
    parser.add_argument("--domain", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--echo", action="store_true", help="be the one who answers")
    arguments = parser.parse_args()
    network = Network(domain=arguments.domain)
    if arguments.echo:
        echo(network)
        return
    load = os.getloadavg()[0]
    with everything(arguments.domain) as transports:
        go_first(-5)  # as the control process does
        found = measure(network, transports, arguments.rounds, arguments.count)
    result = {**stamp(), "transports": found, "machine_load": [load, os.getloadavg()[0]]}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
