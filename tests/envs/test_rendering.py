"""Pictures with no display."""

from __future__ import annotations

import os

import numpy as np
import pytest

from envs import rendering
from envs.check import assert_ok
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, RobopolicyError
from robopolicy.task import Task

pytestmark = pytest.mark.sim

SCENE = """<mujoco><worldbody>
  <light pos="0 -3 3" dir="0 1 -1"/>
  <camera name="level" pos="0 -3 1" xyaxes="1 0 0 0 0 1"/>
  <geom type="box" size=".6 .1 .2" pos="0 0 1.5" rgba="1 0 0 1"/>
  <geom type="box" size=".2 .1 .2" pos="-0.6 0 0.5" rgba="0 0 1 1"/>
  <geom type="box" size="2 .1 2" pos="0 1 1" rgba="0 1 0 1" group="3"/>
</worldbody></mujoco>"""


@pytest.fixture(scope="module", autouse=True)
def _opengl() -> None:
    try:
        rendering.backend()
    except RobopolicyError as error:
        pytest.skip(str(error))


def test_pictures_are_right_side_up_and_not_mirrored() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = rendering.Renderer(model, hidden_groups=(3,))
    picture = renderer.picture(data, "level", 64).astype(int)
    assert picture.shape == (64, 64, 3)
    red = np.argwhere(picture[..., 0] > picture[..., 1:].max(axis=-1) + 40)
    blue = np.argwhere(picture[..., 2] > picture[..., :2].max(axis=-1) + 40)
    assert red[:, 0].mean() < 32 < blue[:, 0].mean()
    assert blue[:, 1].mean() < 24
    assert not (picture[..., 1] > picture[..., [0, 2]].max(axis=-1) + 40).any()  # the hidden group
    np.testing.assert_array_equal(renderer.picture(data, "level", 64), picture)
    assert renderer.picture(data, "level", 700).shape == (700, 700, 3)
    with pytest.raises(ConfigError, match="level"):
        renderer.picture(data, "levle", 64)
    renderer.close()


def test_cameras_become_observations() -> None:
    cameras = ("agentview", "robot0_eye_in_hand")
    task = Task(name="t", env={"name": "robosuite"}, horizon=9, cameras=cameras, image_size=48)
    env = make_env(task)
    assert_ok(env, steps=3)
    first, _ = env.reset(seed=0)
    for _ in range(4):
        later, *_ = env.step(np.full(7, -0.8))
    for camera in cameras:
        image = first[f"{camera}_image"]
        assert image.std() > 10  # something is in the picture
        assert np.abs(image.astype(int) - later[f"{camera}_image"]).mean() > 0.5
    assert env.render_frame(size=96).shape == (96, 96, 3)
    env.close()


def test_a_wrong_backend_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "opengl")
    with pytest.raises(ConfigError, match="egl, glfw, osmesa"):
        rendering.backend.__wrapped__()
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(rendering, "_probe", lambda name: "no driver")
    with pytest.raises(RobopolicyError, match="libegl1 libgl1-mesa-dri libosmesa6"):
        rendering.backend.__wrapped__()
    assert "MUJOCO_GL" not in os.environ
