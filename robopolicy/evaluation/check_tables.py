"""Tables of what is measured beside success in tasks: safety, timing, equality, fidelity."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from robopolicy.evaluation.compare import table as comparison
from robopolicy.evaluation.hardware_tables import HARDWARE
from robopolicy.evaluation.markdown import Files, Values, interval, markdown, points, success
from robopolicy.evaluation.recorded_table import recorded_rows
from robopolicy.evaluation.retry_study import retry_table
from robopolicy.evaluation.value_tables import value_tables

__all__ = ["SECTIONS", "check_sections"]

_FAR = ("1", "5", "20", "50", "100")
"""Steps of an open-loop imagination whose errors are shown."""


def check_sections(directory: str | Path) -> str:
    """Markdown of all check files of a directory; empty where there are none."""
    paths = sorted(Path(directory).glob("*.json"))
    files = {path.stem: json.loads(path.read_text()) for path in paths}
    parts = []
    for prefix, (title, table) in SECTIONS.items():
        own = {name: files.pop(name) for name in sorted(files) if name.startswith(prefix)}
        if own:
            parts.append(f"## {title}\n\n{table(own)}\n{_sources(own)}")
    if files:
        parts.append(f"## Further measurements\n\n{_sources(files)}")
    return "\n".join(parts)


def _sources(files: Files) -> str:
    made = [f"`checks/{name}.json` ({_made(values)})" for name, values in files.items()]
    return f"From {', '.join(made)}.\n"


def _made(values: Values) -> str:
    if "conditions" in values:
        values = next(iter(values["conditions"].values())).get("last_run", {})
    if "commit" not in values:
        return "unstamped"
    return f"{values['commit'][:7]}{' + changes' if values['dirty'] else ''}, {values['date'][:10]}"


def _equality(files: Files) -> str:
    lines = []
    for values in files.values():
        step, free, expert = values["one_step"], values.get("free_motion"), values.get("expert")
        compared = [step, free] if free else [step]
        rewards = sum(part["rewards_or_successes_different"] for part in compared)
        steps = step["states"] + (free["episodes"] * free["steps"] if free else 0)
        lines.append(
            [
                values["task"]["name"],
                f"{step['states']:,} ({step['in_contact']:,})",
                _largest(step),
                f"{_largest(free)} in {free['episodes']} of {free['steps']} steps" if free else "-",
                f"{rewards} of {steps:,}",
                f"{expert['outcomes_different']} of {expert['seeds']}" if expert else "no expert",
            ]
        )
    head = ["Task", "States (in contact)", "Largest difference after a step", "After whole free episodes"]
    return markdown([*head, "Rewards or successes different", "Expert's outcomes different"], lines)


def _largest(part: Values) -> str:
    """Of positions, velocities and observations."""
    return f"{max(part['largest_difference'].values()):g}"


def _guidance(files: Files) -> str:
    lines = []
    for values in files.values():
        for row in values["rows"]:
            cells = [row["label"], f"{row['strength']:g}", str(row["evaluations"])]
            for kind in ("feasible", "infeasible"):
                cells += [f"{100 * row[kind]['executed']:.1f}", success(row[kind]["valid"])]
            lines.append(cells)
    head = ["Strategy", "Strength", "NFE", "Feasible: cm from the sketch", "valid [95%]",
            "Infeasible: cm from the sketch", "valid [95%]"]  # fmt: skip
    return markdown(head, lines)


def _inverses(files: Files) -> str:
    """The patch that was tried is in the file."""
    lines = [
        [
            row["task"],
            f"{_times_as_fast(row['timing']['ratio']):.1f}",
            f"{row['one_step']['largest_difference']['qpos']:.1g}",
            f"{row['one_step']['largest_difference']['qvel']:.1g}",
            f"{row['expert']['outcomes_different']} of {row['expert']['seeds']}",
        ]
        for values in files.values()
        for row in values["rows"]
    ]
    head = ["Task", "Times robosuite's speed", "Largest difference of positions after one step"]
    text = markdown([*head, "of velocities", "Expert's outcomes different"], lines)
    if any(isinstance(row["timing"]["ratio"], float) for values in files.values() for row in values["rows"]):
        text += "\nSpeeds under zero actions, each side in a state of its own, before they were paired.\n"
    return text


def _times_as_fast(ratio: float | Values) -> float:
    """Files have one number, or those of each way to observe."""
    return ratio if isinstance(ratio, float) else float(ratio["end"]["value"])


def _signals(files: Files) -> str:
    """AUROC of each signal; one that tells nothing has 0.50."""
    questions = ("failing, matched times", "failing, any time", "biased readings")
    head = ["Task", "Policy (success)", "AUROC", *next(iter(files.values()))[questions[-1]]]
    lines = []
    for values in files.values():
        who = f"{values['policy']} ({100 * values['success']['value']:.0f}%)"
        for question in questions:
            found = values[question]  # a text where the episodes do not tell
            cells = [found] if isinstance(found, str) else [interval(v) for v in found.values()]
            lines.append([values["task"], who, question, *cells])
    return markdown(head, lines)


def _two_modes(files: Files) -> str:
    """Shares of samples in percent, by seed."""
    lines = []
    for values in files.values():
        for row in values["rows"]:
            left, right = ([100 * seed[side] for seed in row["seeds"]] for side in ("left", "right"))
            neither = [100 - a - b for a, b in zip(left, right, strict=True)]
            calls = statistics.fmean(seed["calls"] for seed in row["seeds"])
            cells = [", ".join(f"{share:.0f}" for share in shares) for shares in (left, right, neither)]
            lines.append([row["policy"], f"{calls:.0f}", *cells])
    head = ["Policy", "Network calls a chunk", "Left, % (seed by seed)", "Right, %", "Neither, %"]
    return markdown(head, lines)


def _step_times(files: Files) -> str:
    lines = []
    for values in files.values():
        for row in values["rows"]:
            fitting = f"{row['steps_in_equal_seconds']:,}"
            lines.append([values["task"], row["policy"], f"{row['ms']:.1f}", fitting])
    return markdown(["Task", "Policy", "ms a step", "Steps in the seconds of the first"], lines)


def _composed(files: Files) -> str:
    lines = []
    for values in files.values():
        for row in values["rows"]:
            cells = [success(row["success"]), str(row["routes"]), f"{row['entropy']:.2f}"]
            lines.append([row["label"], *cells, str(row["evaluations"])])
    return markdown(["Policy", "Success [95%]", "Routes", "Entropy", "Network calls"], lines)


def _compared(files: Files) -> str:
    """A table for each comparison; one for all that compare the same ways."""
    alike: dict[tuple[str, ...], dict[str, Values]] = {}
    for name, values in files.items():
        alike.setdefault(tuple(values["policies"]), {})[name.removeprefix("compared_")] = values
    parts = []
    for ways, group in alike.items():
        if len(group) > 1:
            lines = [
                [f"{name} ({values['block']}, {values['episodes']})", *_against_first(values["policies"])]
                for name, values in group.items()
            ]
            note = "Success in percent, in brackets the difference from the first in points [95%].\n\n"
            parts.append(note + markdown(["Episodes (block, number)", *ways], lines))
            continue
        for name, values in group.items():
            where = f"{values['episodes']} episodes ({values['block']}) of {values['task']}"
            parts.append(f"{name}, {where}:\n\n{comparison(values)}")
    return "\n".join(parts)


def _against_first(policies: Values) -> list[str]:
    (_, first), *others = policies.items()
    cells = [f"{100 * first['success']['value']:.0f}"]
    for _, row in others:
        cells.append(f"{100 * row['success']['value']:.0f} ({points(row['difference']['interval'])})")
    return cells


def _kept(files: Files) -> str:
    head = ["Policy", *next(iter(files.values()))["success"]]
    head = [f"within ±{name}" if name[0].isdigit() else name for name in head]
    lines = [
        [name.removeprefix("kept_noise_"), *map(success, values["success"].values())]
        for name, values in files.items()
    ]
    return markdown(head, lines)


def _runs(files: Files) -> str:
    """Of each run what few others do, and its curve."""
    lines = []
    for values in files.values():
        rows = values["rows"]
        for row in rows:
            own = [
                f"{key.removeprefix('method.')}={value}"
                for key, value in row["settings"].items()
                if sum(other["settings"].get(key) == value for other in rows) <= len(rows) / 2
            ]
            curve = zip(row["steps"], row["success"], strict=True)
            rates = ", ".join(f"{step / 1000:.0f}k: {100 * rate:.0f}" for step, rate in curve)
            lines.append([values["task"], ", ".join(own) or "-", rates, str(row["episodes"])])
    return markdown(["Task", "Settings that few of the runs have", "Success, %, by step", "Episodes"], lines)


def _worlds(files: Files) -> str:
    lines = []
    for name, values in files.items():
        false, true = values["false_success"], values["true_success"]
        by_key = values.get("r_squared_by_key", {})
        line = [
            name.removeprefix("world_"),
            values["encoding"],
            f"{values['states']} of {'a refined policy' if values.get('visited') else 'held-out episodes'}",
            " / ".join(f"{values['r_squared'][key]:.2f}" for key in ("1", "5", "15")),
            ", ".join(f"{key} {found['1']:.2f}" for key, found in by_key.items()),
            _touches(values.get("by_touch", {})),
            _states(values.get("by_state")),
            ", ".join(
                f"{at}: {found['1']:.2f}" for at, found in values.get("r_squared_by_offset", {}).items()
            ),
            " / ".join(f"{values['error'][step]:.1f}" for step in _FAR if step in values["error"]),
            f"{false['count']} of {false['of']}",
            f"{true['count']} of {true['of']}",
        ]
        lines.append(line)
    head = ["World", "Actions", "States", "R-squared of differences between actions (1 / 5 / 15 steps)",
            "By key (1 step)", "Of the robot, where an action moves it alone / something else too",
            "Median of states; without the worst", "By distance from what was recorded",
            f"Error after {' / '.join(_FAR)} steps, in usual changes of one",
            "False successes", "True successes"]  # fmt: skip
    return markdown(head, lines)


def _states(parts: Values | None) -> str:
    """The median over states, and what all but the one that is missed most have explained."""
    if parts is None:
        return ""
    pairs = sorted(zip(parts["missed"], parts["real"], strict=True))
    some = [1 - missed / real for missed, real in pairs if real > 0]
    missed, real = (sum(column) for column in zip(*pairs[:-1], strict=True))
    return f"{statistics.median(some):.2f}; {1 - missed / real:.2f}"


def _touches(parts: Values) -> str:
    """Of the robot's first key, which every world model of a robot has."""
    found = [next(iter(part["r_squared_by_key"].values()), None) for part in parts.values()]
    return " / ".join("-" if explained is None else f"{explained:.2f}" for explained in found)


def _recorded(files: Files) -> str:
    return markdown(*recorded_rows(list(files.values())))


def _solvable(files: Files) -> str:
    """Where objects stand whose episodes something learned solved, and where those that nothing did."""
    lines = []
    for values in files.values():
        episodes, hand = values["episodes"], values["hand"]
        reached = max(episode["place"][1] for episode in episodes if episode["learned"])
        for learned in (True, False):
            group = [episode for episode in episodes if episode["learned"] is learned]
            far = sorted(episode["place"][1] for episode in group)
            line = [values["task"], "solved by some run" if learned else "solved by none", str(len(group))]
            line += [str(sum(episode["expert"] for episode in group))]
            line += [f"{far[0]:.2f} to {far[-1]:.2f}" if far else "-", str(sum(y > reached for y in far))]
            lines.append([*line, f"{hand['low'][1]:g} to {hand['high'][1]:g}"])
    head = ["Task", "Report episodes", "Number", "A steady expert solves", "Object's distance (y), m",
            "Beyond all that are solved", "y to which the hand may be sent, m"]  # fmt: skip
    return markdown(head, lines)


def _imagined(files: Files) -> str:
    lines = []
    for values in files.values():
        rate, times = values["steps_per_second"], values["times_the_simulator"]
        lanes = [f"imagined {count}" for count in (1, 64, 1024)]
        lines.append(
            [
                values["task"],
                f"{rate['simulated']:,}",
                *(f"{rate[name]:,} ({times[name]:.2g} times)" for name in lanes),
                f"{values['training_minutes']:.0f} min" if "training_minutes" in values else "",
            ]
        )
    head = ["Task", "MuJoCo, one lane, steps/s", "Imagined, 1 lane", "64 lanes", "1024 lanes", "Training"]
    return markdown(head, lines)


SECTIONS: dict[str, tuple[str, Callable[[Files], str]]] = {
    **HARDWARE,
    "runs": ("What was tried, on selection seeds", _runs),
    "kept_noise": ("Success with one noise kept for an episode", _kept),
    "robosuite_inverses": ("Tried: plain inverses in robosuite's controller", _inverses),
    "robosuite": ("Compiled robosuite against its own step", _equality),
    "step_times": ("How long a training step takes", _step_times),
    "two_modes": ("The two-mode toy", _two_modes),
    "energy_signal": ("Energy as a signal", _signals),
    "itps": ("Human guidance on avoidance", _guidance),
    "composition": ("Composition of two policies", _composed),
    "values": ("Choosing by values", value_tables),
    "compared": ("The same episodes in several ways", _compared),
    "recorded": ("What recorded episodes alone bring", _recorded),
    "retries": ("Trying again after a failed grasp", retry_table),
    "solvable": ("Starts that nothing solves", _solvable),
    "world_speed": ("Speed of imagination", _imagined),
    "world": ("World models", _worlds),
}
