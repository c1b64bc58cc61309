from __future__ import annotations

import csv
import html.parser
from pathlib import Path

import pytest

from robopolicy.evaluation import plots
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.evaluation.plots import read_series, success_by_demonstrations, training_curve
from robopolicy.evaluation.report import write_report
from robopolicy.evaluation.statistics import wilson
from robopolicy.evaluation.video import record_episodes
from robopolicy.rollout import ExpertActor
from tests.toy_env import toy_task


class Reader(html.parser.HTMLParser):
    """Collects text, embedded sources and tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.sources, self.open, self.tags = "", [], [], set()  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    rows: list[dict[str, float]] = [{"step": s, "loss": 1 / s} for s in (100, 200, 300)]
    rows += [{"step": 200, "validation_loss": 0.2}]
    for step, count in ((200, 5), (300, 9)):
        interval = wilson(count, 10)
        rows.append({"step": step, "success": interval.value, "success_low": interval.low,
                     "success_high": interval.high})  # fmt: skip
    path = tmp_path / "metrics.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_report_is_whole_and_self_contained(tmp_path: Path, metrics: Path) -> None:
    task = toy_task(noise=0.3, lazy=0.3)
    evaluation = evaluate(ExpertActor(8), task, episodes=12, workers=0, progress=False)
    record_episodes(ExpertActor(8), task, [evaluation.rows[0].seed], tmp_path / "v.mp4", size=64)
    training_curve(metrics, tmp_path / "t.png", final=("report seeds", 300, evaluation.success))
    write_report(
        tmp_path / "report.html", title="Toy <b>& co</b>", evaluation=evaluation, video=tmp_path / "v.mp4",
        plots={"Training": tmp_path / "t.png"}, config={"trainer": {"steps": 7}}, stages={"train": 12.0},
        commands=["python scripts/evaluate.py checkpoint=outputs/toy"], notes=["A note."],
    )  # fmt: skip
    reader = Reader()
    page = (tmp_path / "report.html").read_text()
    reader.feed(page)
    assert reader.open == []
    assert {source.split(";")[0] for source in reader.sources} == {"data:video/mp4", "data:image/png"}
    assert "script" not in reader.tags
    assert "http" not in page.split("<style>")[1].split("</style>")[0]
    count = sum(row.success for row in evaluation.rows)
    assert 0 < count < 12
    for expected in (
        f"{count} of 12", "Toy <b>& co</b>", "95% Wilson interval", "steps: 7", "12.0 s", "A note.",
        "scripts/evaluate.py checkpoint=outputs/toy", *(str(row.seed) for row in evaluation.rows),
    ):  # fmt: skip
        assert expected in reader.text


def test_a_report_needs_nothing_but_an_evaluation(tmp_path: Path) -> None:
    evaluation = evaluate(ExpertActor(8), toy_task(lazy=1.0), episodes=2, workers=0, progress=False)
    write_report(tmp_path / "report.html", title="t", evaluation=evaluation)
    reader = Reader()
    reader.feed((tmp_path / "report.html").read_text())
    assert reader.open == []
    assert "0%" in reader.text


def test_series_leave_out_empty_cells(metrics: Path) -> None:
    series = read_series(metrics)
    assert series["loss"][0] == [100, 200, 300]
    assert series["success"] == ([200, 300], [0.5, 0.9])


def test_plots_without_evaluations(metrics: Path, tmp_path: Path) -> None:
    lines = [line for line in metrics.read_text().splitlines() if not line.endswith("0.9")]
    metrics.write_text("\n".join(line.rsplit(",", 3)[0] for line in lines[:4]) + "\n")
    training_curve(metrics, tmp_path / "a.png")
    curves = {"can": [(10, wilson(2, 10)), (100, wilson(9, 10))], "lift": [(10, wilson(10, 10))]}
    success_by_demonstrations(curves, tmp_path / "b.png")
    for name in ("a", "b"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_no_method_is_left_out_of_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[plots.Axes] = []
    monkeypatch.setattr(plots.plt, "close", lambda figure: drawn.extend(figure.axes))
    ends, base = [[0.1, 0.5], [0.1, 0.6]], "base: clone, 12"
    methods = {f"method {i}": [plots.Curve([0.0, 1.0], end, base=base) for end in ends] for i in range(12)}
    methods["method 3"] = [plots.Curve([0.0, 1.0], [0.2, 0.5], warmup=0.5, base="base: other, 9")]
    methods["method 5"] = [plots.Curve([0.0, 1.0], [0.0, 0.5])]
    plots.refinement_curves({"can": methods, "push": {"dppo": methods["method 0"]}}, tmp_path / "a.png")
    assert [axis.get_title() for axis in drawn] == ["can", "push"]
    assert [len(axis.lines) for axis in drawn] == [2 + 22 + 1, 1 + 2]
    *bases, dot = [line for line in drawn[0].lines if len(set(line.get_ydata())) == 1]
    assert [line.get_ydata()[0] for line in bases] == [0.1, 0.2]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([0.5], [pytest.approx(0.35)])
    lines = [line for line in drawn[0].lines if line not in (*bases, dot)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    names = [base, "base: other, 9", *methods]
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == names


def test_values_have_losses_of_their_own(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("step,critic_loss,value_loss,actor_loss,q\n1,0.5,0.2,-3,0.1\n2,0.4,0.1,-2,0.1\n")
    training_curve(metrics, tmp_path / "t.png", final=("report seeds", 2, wilson(7, 10)))
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
