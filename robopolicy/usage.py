"""What ``--help`` prints: it is read from the yaml files, so it cannot fall behind them."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from robopolicy.compose import choices, config_directory, options

__all__ = ["FLAGS", "usage"]

FLAGS = """\
Flags
  -h, --help       this text; with choices (policy=... --help), for those choices
  --print          show every setting that would be used, and stop
  -m, --multirun   one run for every combination of a=1,2  b=range(3)  c=glob(*)
  --jobs N         with -m, N runs at a time"""


def usage(
    root: str, purpose: str, examples: Sequence[str], overrides: Sequence[str], directory: Path | None
) -> str:
    """Purpose, examples, every group with its choices (* marks what is chosen), and the settings."""
    directory = directory or config_directory()
    chosen = choices(root, overrides, directory=directory)
    sections = [textwrap.fill(purpose, _width()), "Usage: group=choice key=value ..."]
    if examples:
        sections.append("\n".join(["Examples", *(f"  {example}" for example in examples)]))
    if chosen:
        lines = ["Groups (* is chosen)"]
        for key, choice in sorted(chosen.items()):
            group = key.partition("@")[0]
            names = [f"{name}*" if name == choice else name for name in options(group, directory)]
            names = ["(none)*", *names] if choice is None else names
            lines.append(_row(f"{group}=", ", ".join(names)))
        sections.append("\n".join(lines))
    sections.append("\n".join(["Settings", *_settings(directory / f"{root}.yaml", "")]))
    for key, choice in sorted(chosen.items()):
        group, _, package = key.partition("@")
        if choice is not None and f"{group}={choice}" in overrides:
            rows = _settings(directory / group / f"{choice}.yaml", f"{package or group.replace('/', '.')}.")
            sections.append("\n".join([f"Settings of {group}={choice}", *rows]))
    return "\n\n".join([*sections, FLAGS])


def _settings(path: Path, prefix: str) -> Iterator[str]:
    """A row for each key of a yaml: its name, default, and the comment above or beside it."""
    text = path.read_text()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(node, yaml.MappingNode):
        for name, value, comment in _walk(node, text, prefix):
            yield _row(f"{name}={value}", comment)


def _walk(node: yaml.MappingNode, text: str, prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name == f"{prefix}defaults":
            continue
        comment = _comment(text.splitlines(), key.start_mark.line, value)
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            if comment:
                yield name, "", comment
            yield from _walk(value, text, f"{name}.")
        else:
            yield name, " ".join(text[value.start_mark.index : value.end_mark.index].split()), comment


def _comment(lines: list[str], line: int, value: yaml.Node) -> str:
    above: list[str] = []
    for text in reversed(lines[:line]):
        if not text.lstrip().startswith("#") or "@package" in text:
            break
        above.insert(0, text.strip(" #"))
    end = value.end_mark.line if isinstance(value, yaml.ScalarNode) else line
    _, mark, beside = lines[end].partition(" #")
    return " ".join([*above, beside.strip()] if mark else above)


def _row(left: str, right: str, indent: int = 34) -> str:
    lines = textwrap.wrap(right, max(_width() - indent, 30)) or [""]
    if len(left) > indent - 4:
        lines.insert(0, "")
    body = ("\n" + " " * indent).join(lines)
    return f"  {left:<{indent - 2}}{body}".rstrip()


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 110)
