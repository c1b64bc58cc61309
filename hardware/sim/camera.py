"""A camera in the scene of a simulated arm, in a process of its own: rendering would hold up the physics.

    python -m hardware.sim.ros2_arm --domain 7 --camera-hz 20
    python -m hardware.sim.camera --domain 7 --camera agentview --size 84

Publishes /<camera>/image_raw, sensor_msgs/Image, stamped with the time of the state that it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

import envs  # noqa: F401  registers the environments
from hardware.camera import publish
from hardware.process import settings, ticks
from hardware.sim.ros2_arm import load_task
from hardware.transport.dds import LATCHED, SENSOR, Participant
from hardware.transport.idl_ros import Image, Int64, JointState
from robopolicy import registry
from robopolicy.errors import ConfigError

__all__ = ["CameraSettings", "SimulatedCamera", "main"]

_POLL_NS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """What `python -m hardware.sim.camera` can be told."""

    task: str = "lift"
    camera: str = "agentview"
    size: int = 84

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size must be positive, got {self.size}.")


class SimulatedCamera:
    """Renders the newest state of the scene."""

    def __init__(self, config: CameraSettings, participant: Participant) -> None:
        self.config, self.name = config, config.camera
        task = load_task(config.task)
        self._env = registry.build("env", task.env, task=task)
        self._env.reset(seed=0)
        self._model, self._data = self._env.simulation
        cameras = [self._model.camera(i).name for i in range(self._model.ncam)]
        if config.camera not in cameras:
            raise ConfigError(f"There is no camera {config.camera!r} in {config.task}. Valid: {cameras}.")
        self._env.render_frame(config.camera, config.size)  # the first picture takes seconds
        self._scenes = participant.reader("rt/sim/scene", JointState, SENSOR)
        self._episodes = participant.reader("rt/sim/episode", Int64, LATCHED)

    def read(self) -> tuple[int, np.ndarray] | None:
        """A picture of a new state, if one has come."""
        for episode in self._episodes.take():
            self._env.reset(seed=episode.data)  # things that stand still are placed by the seed
        scene = self._scenes.latest()
        if scene is None or len(scene.position) != self._model.nq:
            return None
        self._data.qpos[:] = scene.position
        mujoco.mj_kinematics(self._model, self._data)
        return scene.header.stamp.ns, self._env.render_frame(self.config.camera, self.config.size)


def main() -> None:
    """Publish pictures until told to end."""
    config, network = settings(CameraSettings, "A camera in the scene of a simulated arm.")
    with Participant(network) as participant:
        images = participant.writer(f"rt/{config.camera}/image_raw", Image, SENSOR)
        camera = SimulatedCamera(config, participant)
        for _ in ticks(_POLL_NS, nice=0):
            publish(camera, images)


if __name__ == "__main__":
    main()
