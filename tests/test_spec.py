from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec

ACTION = ActionSpec(
    names=("x", "y", "grip"),
    low=(-1.0, -1.0, -1.0),
    high=(1.0, 1.0, 1.0),
    representation="ee_delta",
    parts=(
        ActionPart(kind="position", size=2, reference="position"),
        ActionPart(kind="gripper", size=1),
    ),
)
SPEC = Spec(
    observations={
        "position": ObservationSpec(shape=(2,), unit="m", frame="world"),
        "camera": ObservationSpec(shape=(8, 8, 3), dtype="uint8", kind="image"),
    },
    action=ACTION,
    control_hz=20,
)


def test_survives_json_unbounded_actions_included() -> None:
    plain = Spec.from_arrays({"s": np.zeros((4, 2))}, np.zeros((4, 3)), control_hz=10)
    for spec in (SPEC, plain):
        assert Spec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False))) == spec


def test_a_provider_may_offer_more_than_is_needed() -> None:
    SPEC.select(["position"]).require(SPEC)
    with pytest.raises(SpecMismatch, match="camera"):
        SPEC.require(SPEC.select(["position"]))


def test_every_difference_is_listed() -> None:
    position = dataclasses.replace(SPEC.observations["position"], unit="mm", shape=(3,))
    other = Spec(
        observations={"position": position},
        action=dataclasses.replace(ACTION, representation="joint_position", names=("a", "b", "c")),
        control_hz=10,
    )
    with pytest.raises(SpecMismatch) as error:
        SPEC.require(other, "robot")
    text = str(error.value)
    for word in ("robot", "camera", "'m'", "'mm'", "(3,)", "joint_position", "names", "control_hz"):
        assert word in text


def test_parts_tile_the_action() -> None:
    assert [(part.kind, where) for part, where in ACTION.slices()] == [
        ("position", slice(0, 2)),
        ("gripper", slice(2, 3)),
    ]
    with pytest.raises(ConfigError, match="cover 2 dimensions of 3"):
        dataclasses.replace(ACTION, parts=(ActionPart(kind="position", size=2),))


def test_selecting_drops_references_to_what_is_gone() -> None:
    assert SPEC.select(["camera"]).action.parts[0].reference is None
    with pytest.raises(SpecMismatch, match=r"'cam'.*camera"):
        SPEC.select(["cam"])


@pytest.mark.parametrize(
    ("representation", "holds"), [("ee_delta", False), ("joint_velocity", False), ("ee_pose", True)]
)
def test_what_holds_still(representation: str, holds: bool) -> None:
    assert dataclasses.replace(ACTION, representation=representation).holds_position is holds


def test_impossible_specs_are_refused() -> None:
    with pytest.raises(ConfigError, match="uint8"):
        ObservationSpec(shape=(8, 8, 3), kind="image")
    with pytest.raises(ConfigError, match="low < high"):
        dataclasses.replace(ACTION, low=(1.0, -1.0, -1.0))
    with pytest.raises(ConfigError, match="control_hz"):
        dataclasses.replace(SPEC, control_hz=0)
    part = ActionPart(kind="position", size=3, reference="place")
    action = dataclasses.replace(ACTION, parts=(part,))
    with pytest.raises(ConfigError, match="reference observation 'place'"):
        dataclasses.replace(SPEC, action=action)
