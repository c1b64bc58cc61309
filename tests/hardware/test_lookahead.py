from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardware import lookahead
from hardware.collision import Shadow
from hardware.lookahead import Lookahead
from hardware.spec import GuardConfig, JointSpec, RobotSpec
from tests.hardware.fakes import small_spec

# Two balls on arms of half a metre that cross each other where both joints are at 0.
CROSSING = """
<mujoco>
  <worldbody>
    <body name="left"><joint name="shoulder" axis="0 0 1"/><geom size="0.03" pos="0.5 0 0" mass="1"/></body>
    <body name="right" pos="1 0 0.05">
      <joint name="elbow" axis="0 0 1"/><geom size="0.03" pos="-0.5 0 0" mass="1"/>
    </body>
  </worldbody>
</mujoco>
"""
RNG = np.random.default_rng(0)


@pytest.fixture
def spec(tmp_path: Path) -> RobotSpec:
    (tmp_path / "crossing.xml").write_text(CROSSING)
    joints = tuple(
        JointSpec(name=name, lower=-3.0, upper=3.0, vel=10.0, acc=20.0, effort=1.0)
        for name in ("shoulder", "elbow")
    )
    guard = GuardConfig(collision_margin=0.005, cartesian_speed="off")
    return small_spec(joints=joints, model=str(tmp_path / "crossing.xml"), guard=guard)


def allowed_through_each_other(spec: RobotSpec, tries: int) -> int:
    """How often a line was allowed on which the balls touch."""
    dv, shadow, found = 0.9 * spec.array("acc") / spec.control_hz, Shadow(spec), 0
    for _ in range(tries):
        q, v = RNG.uniform(-1.5, -0.9, 2), RNG.uniform(6.0, 8.0, 2)
        flagged: list[str] = []

        def flag(name: str, message: str, flagged: list[str] = flagged) -> bool:
            flagged.append(name)
            return True

        look = Lookahead(spec, dv, flag)
        look.allow(q, v, lambda: np.zeros(2), lambda pose: pose)
        end = q + v * (0.5 + 0.5 * float(np.max(v / dv))) / spec.control_hz
        worst = 0.0
        for share in np.linspace(0.0, 1.0, 400):
            shadow.place(q + share * (end - q))
            worst = max(worst, shadow.penetration())
        found += worst > 0.003 and "collision" not in flagged
    return found


def test_bodies_that_pass_each_other_between_two_looks_are_seen(
    spec: RobotSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert allowed_through_each_other(spec, 60) == 0
    monkeypatch.setattr(lookahead, "_MORE_LOOKS", 0)
    assert allowed_through_each_other(spec, 60) > 5


def test_distances_are_kept_by_pair(spec: RobotSpec) -> None:
    shadow = Shadow(spec)
    seen = []
    for angle in (-0.3, 0.0, 0.3):
        shadow.place(np.full(2, angle))
        shadow.penetration()
        seen.append(shadow.nearness())
    apart, crossing, _ = seen
    assert shadow.distance == pytest.approx(0.03)  # up to a horizon
    assert crossing.clear.min() == pytest.approx(0.05 - 0.06 - 0.005 - 0.003, abs=1e-6)
    assert seen[0].may_have_met(seen[2])
    assert not apart.may_have_met(apart)
