"""One self-contained HTML page about a policy: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import datetime as dt
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.evaluation.machine import commit, describe, machine, versions
from robopolicy.registry import plain

__all__ = ["CSS", "write_report"]

CSS = """
:root { --ink: #1d2733; --soft: #5b6876; --line: #e3e7ec; --page: #f6f7f9; --card: #fff;
        --good: #2e8b57; --bad: #c8503f; --accent: #2f6fb3; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa6b3; --line: #2c343e;
        --page: #12161b; --card: #1a2027; --good: #4fbf84; --bad: #e57866; --accent: #74aee8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 40px 20px 72px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 14px; }
p { margin: 0 0 10px; } .soft { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
          padding: 22px 24px; margin-top: 18px; }
.headline { display: flex; flex-wrap: wrap; gap: 18px 48px; align-items: center; }
.numbers { flex: 1; min-width: 300px; display: grid; gap: 12px 28px;
           grid-template-columns: repeat(auto-fit, minmax(115px, 1fr)); }
.rate { font-size: 56px; line-height: 1; font-weight: 650; letter-spacing: -0.03em; }
.number b { display: block; font-size: 20px; font-weight: 600; }
.number span, .rate + span { color: var(--soft); font-size: 13px; }
.scale { position: relative; height: 8px; border-radius: 4px; background: var(--line); margin: 22px 0 6px; }
.scale i { position: absolute; top: 0; height: 8px; border-radius: 4px; background: var(--accent);
           opacity: .35; }
.scale b { position: absolute; top: -4px; width: 4px; height: 16px; margin-left: -2px; border-radius: 2px;
           background: var(--accent); }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: 12px; }
video, img { display: block; max-width: 100%; border-radius: 8px; margin: 0 auto; }
img { background: #fff; padding: 6px; } figure { margin: 0 0 16px; } figure:last-child { margin: 0; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 6px; text-align: center; }
.dots { display: flex; flex-wrap: wrap; gap: 4px; margin-bottom: 16px; }
.dots i { width: 14px; height: 14px; border-radius: 3px; background: var(--good); }
.dots i.bad { background: var(--bad); } .dots i.lost { opacity: .5; }
.scroll { overflow: auto; max-height: 420px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; position: sticky; top: 0; background: var(--card); }
td.yes { color: var(--good); } td.no { color: var(--bad); }
pre { margin: 0; padding: 14px 16px; background: var(--page); border: 1px solid var(--line);
      border-radius: 8px; overflow: auto; font: 13px/1.6 ui-monospace, SFMono-Regular, Menlo, monospace; }
.config { margin-top: 16px; }
summary { cursor: pointer; color: var(--accent); } details[open] summary { margin-bottom: 12px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 8px 40px;
           align-items: start; }
"""


def write_report(
    path: str | Path,
    *,
    title: str,
    evaluation: Evaluation,
    video: str | Path | None = None,
    plots: Mapping[str, str | Path] | None = None,
    config: Mapping[str, Any] | None = None,
    stages: Mapping[str, float] | None = None,
    commands: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the page; pictures and video are embedded.

    Args:
        plots: caption to picture file.
        stages: wall seconds by stage, in order; the evaluation's own is added.
        commands: what to run next.
        notes: paragraphs below the headline.
    """
    stages = {**(stages or {}), "evaluation": evaluation.startup_seconds + evaluation.wall_seconds}
    sections = [_headline(evaluation, notes)]
    if video is not None:
        sections.append(_section("Episodes", _video(video, evaluation)))
    if plots:
        sections.append(_section("Plots", "".join(_figure(c, p) for c, p in plots.items())))
    if commands:
        sections.append(_section("Next", f"<pre>{_escape(chr(10).join(commands))}</pre>"))
    sections.append(_section("Every episode", _episodes(evaluation)))
    sections.append(_section("How it was made", _making(stages, config)))
    made = dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_escape(title)}</title><style>{CSS}</style></head><body><main>"
        f"<h1>{_escape(title)}</h1><p class='soft'>robopolicy, {made}</p>"
        f"{''.join(sections)}</main></body></html>\n"
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")


def _headline(evaluation: Evaluation, notes: Sequence[str]) -> str:
    interval, rows = evaluation.success, evaluation.rows
    count = sum(row.success for row in rows)
    firsts = sorted(row.first_success for row in rows if row.success)
    numbers = [
        (f"{count} of {len(rows)}", f"episodes, {evaluation.block} seeds"),
        (f"{_percent(interval.low)} to {_percent(interval.high)}", "95% Wilson interval"),
        (_percent(evaluation.success_final.value), "still successful at the end"),
        (f"{firsts[len(firsts) // 2]} steps" if firsts else "none", "median time to success"),
        (f"{evaluation.mean_return:.4g}", "mean return"),
        (f"{evaluation.seconds_per_episode:.2f} s", "an episode to evaluate"),
    ]
    cells = "".join(
        f"<div class='number'><b>{_escape(a)}</b><span>{_escape(b)}</span></div>" for a, b in numbers
    )
    low, width = 100 * interval.low, 100 * (interval.high - interval.low)
    scale = (
        f"<div class='scale'><i style='left:{low:.2f}%;width:{width:.2f}%'></i>"
        f"<b style='left:{100 * interval.value:.2f}%'></b></div>"
        "<div class='ends'><span>0%</span><span>success rate with its interval</span><span>100%</span></div>"
    )
    paragraphs = "".join(f"<p style='margin-top:12px'>{_escape(note)}</p>" for note in notes)
    return (
        f"<section><div class='headline'><div><div class='rate'>{_percent(interval.value)}</div>"
        f"<span>success on {_escape(evaluation.task.name)}</span></div>"
        f"<div class='numbers'>{cells}</div></div>"
        f"{scale}{paragraphs}</section>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_escape(title)}</h2>{body}</section>"


def _video(video: str | Path, evaluation: Evaluation) -> str:
    source = _data("video/mp4", video)
    return (
        f"<figure><video controls autoplay loop muted playsinline src='{source}'></video>"
        f"<figcaption>{_escape(evaluation.task.instruction)}: the first episodes of this evaluation, "
        "not chosen by outcome</figcaption></figure>"
    )


def _figure(caption: str, picture: str | Path) -> str:
    source = _data("image/png", picture)
    text = _escape(caption)
    return f"<figure><img src='{source}' alt='{text}'><figcaption>{text}</figcaption></figure>"


def _episodes(evaluation: Evaluation) -> str:
    dots, lines = [], []
    for row in evaluation.rows:
        style, outcome = "bad", "failure"
        if row.success:
            style, outcome = "", f"success at step {row.first_success}"
            if not row.success_final:
                style, outcome = "lost", f"{outcome}, then lost"
        dots.append(f"<i class='{style}' title='seed {row.seed}: {outcome}'></i>")
        first = row.first_success if row.success else ""
        lines.append(
            f"<tr><td>{row.index}</td><td>{row.seed}</td>{_mark(row.success)}{_mark(row.success_final)}"
            f"<td>{first}</td><td>{row.steps}</td><td>{row.total_reward:.2f}</td></tr>"
        )
    names = ("episode", "seed", "success", "at the end", "first success, step", "steps", "total reward")
    head = "".join(f"<th>{name}</th>" for name in names)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return (
        f"<div class='dots'>{''.join(dots)}</div>"
        f"<details><summary>Table</summary><div class='scroll'>{table}</div></details>"
    )


def _mark(success: bool) -> str:
    return f"<td class='{'yes' if success else 'no'}'>{'yes' if success else 'no'}</td>"


def _making(stages: Mapping[str, float], config: Mapping[str, Any] | None) -> str:
    source = commit()
    facts = {
        "commit": f"{source['commit']}{' with changes' if source['dirty'] else ''}",
        "machine": describe(machine()),
        **versions(),
    }
    times = {name: f"{seconds:.1f} s" for name, seconds in stages.items()}
    times["total"] = f"{sum(stages.values()):.1f} s"
    body = f"<div class='columns'>{_pairs(times)}{_pairs(facts)}</div>"
    if config:
        text = yaml.safe_dump(plain(config), sort_keys=False, default_flow_style=None)
        details = f"<summary>Configuration</summary><pre>{_escape(text)}</pre>"
        body += f"<details class='config'>{details}</details>"
    return body


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}".removesuffix(".0") + "%"


def _pairs(values: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td class='soft'>{_escape(k)}</td><td>{_escape(v)}</td></tr>" for k, v in values.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _data(kind: str, path: str | Path) -> str:
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def _escape(text: str) -> str:
    return html.escape(str(text), quote=True)
