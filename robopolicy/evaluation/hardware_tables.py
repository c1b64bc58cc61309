"""Tables of what is measured of robots: on the wire, in time, and against the guard."""

from __future__ import annotations

from collections.abc import Callable

from robopolicy.evaluation.markdown import Files, markdown, points, success

__all__ = ["HARDWARE"]


def _wire(files: Files) -> str:
    lines = []
    for name, values in files.items():
        for label, found in values["conditions"].items():
            tracking = found.get("tracking_mm")
            line = [
                name.removeprefix("wire_"),
                label,
                str(found["count"]),
                success(found["success"]),
                points(found.get("minus_in_simulator")),
                "-" if tracking is None else f"{tracking:.0f}",
                f"{found['inference_ms']:.0f}",
                str(found["tripped"]),
            ]
            lines.append(line)
    head = ["Robot and task", "Condition", "Episodes", "Success [90%]", "Minus in-process, points [90%]",
            "Tracking, mm", "A chunk, ms", "Stopped by the guard"]  # fmt: skip
    return markdown(head, lines)


def _rate(files: Files) -> str:
    lines = []
    for name, values in files.items():
        late = values["state_to_command_ms"]
        jitter = values["command_jitter_ms"]
        line = [
            name.removeprefix("wire_500hz_"),
            f"{values['command_hz']:.0f} of {values['state_hz']:.0f}",
            " / ".join(f"{jitter[key]:.2f}" for key in ("p50", "p99", "p99.9")),
            " / ".join(f"{late[key]:.2f}" for key in ("p50", "p99", "p99.9")),
            f"{values['missed_share']:.1%}",
        ]
        lines.append(line)
    head = ["Robot", "Commands a second, of states", "Jitter, ms (p50 / p99 / p99.9)",
            "State to command, ms (p50 / p99 / p99.9)", "Missed deadlines"]  # fmt: skip
    return markdown(head, lines)


def _practice(files: Files) -> str:
    lines = []
    for values in files.values():
        practice, difference = values["practice"], values["after_minus_before"]
        line = [
            values["robot"],
            f"{practice['minutes']:.0f}",
            str(practice["episodes"]),
            success(values["before"]["success"]),
            success(values["after"]["success"]),
            f"{points(difference)}: {difference['verdict']}",
            " ".join(f"{100 * rate:.0f}" for rate in practice["success_by_25_episodes"]),
        ]
        lines.append(line)
    head = ["Robot", "Minutes", "Episodes", "Before [95%]", "After [95%]", "Difference, points [95%]",
            "Success while practising, % of 25 episodes each"]  # fmt: skip
    return markdown(head, lines)


def _faults(files: Files) -> str:
    lines = []
    for values in files.values():
        for fault, found in values["faults"].items():
            taken = [value for value in found["safe_after_ms"] if value is not None]
            allowed = found["allowed_ms"]
            line = [
                fault,
                "nothing to stop" if allowed is None else f"{allowed:.0f}",
                f"{max(taken):.1f}" if taken else "-",
                ", ".join(sorted(set(found["state"]))),
                next((word for word in found["latched"] if word), "-"),
            ]
            lines.append(line)
    head = ["Fault", "Timeout, ms", "Safe after at most, ms", "State then", "Latched"]
    return markdown(head, lines)


def _fuzz(files: Files) -> str:
    lines = [
        [
            values["robot"],
            f"{values['commands']:,}",
            ", ".join(f"{key} {count}" for key, count in values["violations"].items()) or "none",
            f"{1e3 * values['overshoot_rad']:.2g}",
            f"{values['trips']:,}",
        ]
        for values in files.values()
    ]
    head = ["Robot", "Hostile commands", "Limits that were passed", "Beyond the braking bound, mrad", "Stops"]
    return markdown(head, lines)


def _speed(files: Files) -> str:
    lines = [
        [
            values["robot"],
            str(values["joints"]),
            " / ".join(f"{values['microseconds'][key]:.0f}" for key in ("p50", "p90", "p99")),
            f"{values['machine_load']:.1f}",
        ]
        for values in files.values()
    ]
    head = ["Robot", "Joints", "Guard, microseconds of CPU (p50 / p90 / p99)", "Load of the machine"]
    return markdown(head, lines)


def _transports(files: Files) -> str:
    lines = [
        [
            name,
            f"{found['sent']:,} ({found['lost']})",
            " / ".join(f"{found['round_trip_ms'][key]:.2f}" for key in ("p50", "p99")),
        ]
        for values in files.values()
        for name, found in values["transports"].items()
    ]
    return markdown(["Way", "Commands (lost)", "Command to state, ms (p50 / p99)"], lines)


HARDWARE: dict[str, tuple[str, Callable[[Files], str]]] = {
    "wire_l": ("Simulated Panda over DDS", _wire),
    "wire_g1": ("Simulated G1 over DDS", _wire),
    "robot_dsrl": ("DSRL through the guarded driver", _practice),
    "wire_500hz": ("500 Hz on the wire", _rate),
    "fault": ("Faults", _faults),
    "guard_fuzz": ("The guard under hostile commands", _fuzz),
    "guard_speed": ("Time of the guard", _speed),
    "transports": ("Ways to a robot that runs ROS 2, on the loopback", _transports),
}
