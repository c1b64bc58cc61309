"""A robot for a while: its simulator, if it has one, its control process, and what is done between episodes.

with Session(spec, directory, SessionConfig()) as session:
    session.reset(seed=0)          # the scene is in order, the robot is armed
    ...
    session.finish()               # it brakes and stays latched until the next reset
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hardware.chunks import PlayerConfig
from hardware.link import RobotLink
from hardware.robot import RobotError
from hardware.spec import LifeState, RobotSpec
from robopolicy.compose import config_directory
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from hardware.process import Simulated
    from hardware.sim.client import Scene
    from robopolicy.task import Task

__all__ = ["Session", "SessionConfig", "in_its_scene", "with_cameras"]

_STREAMS_S = 3.0
_ARM_TRIES, _ARM_PAUSE_S = 3, 0.5
_REST_S = 3.0
_HIGHEST_DOMAIN = 101


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Where and with whom a robot runs."""

    hardware_estop: bool = False
    """A person says: a hardware emergency stop is within reach. Real robots are refused without it."""
    operator: str = ""
    """Who clears stops; asked for at real robots if empty."""
    domain: int | None = None
    """DDS domain of a simulated robot; one that is probably free by default."""
    simulator: Mapping[str, Any] = field(default_factory=dict)
    """Options of the simulator's command line: ``{pose_noise: 0.005, pose_delay: 0.05}``."""
    cameras: Mapping[str, int] = field(default_factory=dict)
    """Cameras of a simulated robot's scene and the size of their pictures. Each is rendered in a process of
    its own and published on the wire."""
    film: str = ""
    """One more camera, whose pictures become films."""
    film_size: int = 256
    player: PlayerConfig = field(default_factory=PlayerConfig)
    connect_s: float = 10.0


class Session:
    """Starts everything, and stops the robot whatever happens.

    Args:
        ask: shows an operator a text and returns what they type.

    Raises:
        ConfigError: a real robot without a hardware emergency stop.
        RobotError: the robot does not answer.
    """

    def __init__(
        self, robot: RobotSpec, directory: Path, config: SessionConfig, *, ask: Callable[[str], str] = input
    ) -> None:
        if robot.real and not config.hardware_estop:
            raise ConfigError(
                f"{robot.name} is a real robot, and nothing here is safety-rated. Put a hardware emergency "
                "stop within reach, keep people out of its reach, and say so: session.hardware_estop=true."
            )
        if robot.simulator and config.domain is None:
            config = dataclasses.replace(config, domain=1 + os.getpid() % _HIGHEST_DOMAIN)
        self.config, self._ask = config, ask
        self.robot = _on_domain(robot, config) if robot.simulator else robot
        self._processes: list[Simulated] = []
        self._scene: Scene | None = None
        try:
            if robot.simulator:
                self._simulate()
            self.link = RobotLink(self.robot, directory, player=config.player, connect_s=config.connect_s)
        except BaseException:
            self._end_simulation()
            raise

    def reset(self, seed: int, *, wait_for: Callable[[], list[str]] | None = None) -> None:
        """Put the scene in order and arm: a simulation does it by itself, a person is asked to.

        Args:
            wait_for: names the streams that have not delivered anything; it is called until there is none.

        Raises:
            RobotError: the robot cannot be armed.
            SpecMismatch: a stream stays silent; names it.
        """
        self.finish()
        if self._scene is not None:
            self.link.clear("the simulation")
            self._scene.reset(seed)
        else:
            stopped = self.link.ticks()[-1]["latched"]
            if self._ask(f"{stopped or 'Ready'}. Put the scene in order, then Enter; q ends. ") == "q":
                raise KeyboardInterrupt
            if stopped:
                self.link.clear(self.config.operator or self._ask("Your name, to clear the stop: "))
        if wait_for is not None:
            self._wait_for_streams(wait_for)
        self._arm()

    def finish(self) -> None:
        """End an episode: brake and latch."""
        if self.link.state not in (LifeState.READ_ONLY, LifeState.DISCONNECTED):
            self.link.stop(reason="the episode is over")
            deadline = time.monotonic() + _REST_S
            while time.monotonic() < deadline:
                self.link.beat()
                tick = self.link.ticks()[-1]
                if tick["latched"] and not tick["dq"].any():
                    return
                time.sleep(0.01)
            raise RobotError(f"{self.robot.name} did not come to rest within {_REST_S:g} s.")

    def solved(self) -> bool | None:
        """What a simulation has said anew about its task; None if nothing, and at real robots."""
        return None if self._scene is None else self._scene.solved()

    def judge(self, seed: int) -> bool | None:
        """A person's word for whether the episode succeeded; None where a simulation tells."""
        if self._scene is not None:
            return None
        return self._ask(f"Episode {seed}: did it succeed? y/n ").strip().lower().startswith("y")

    def close(self) -> None:
        """Stop the robot, end its control process and the simulation. Idempotent."""
        try:
            self.link.close()
        finally:
            self._end_simulation()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _arm(self) -> None:
        """Arm, again where it was refused without a stop: a busy machine may have been late once."""
        for left in reversed(range(_ARM_TRIES)):
            try:
                self.link.arm()
                return
            except RobotError:
                if not left or self.link.state is not LifeState.READ_ONLY:
                    raise
                time.sleep(_ARM_PAUSE_S)

    def _wait_for_streams(self, silent: Callable[[], list[str]]) -> None:
        deadline = time.monotonic() + _STREAMS_S
        while missing := silent():
            if time.monotonic() > deadline:
                raise SpecMismatch(
                    f"Nothing has come from {', '.join(missing)} of {self.robot.name} for {_STREAMS_S:g} s; "
                    f"streams that deliver: {', '.join(self.link.streams()) or 'none'}."
                )
            time.sleep(0.005)

    def _simulate(self) -> None:
        from hardware.process import Simulated
        from hardware.sim.client import Scene
        from hardware.transport.network import Network

        config = self.config
        assert config.domain is not None
        domain = ("--domain", str(config.domain))
        options = dict(config.simulator)
        cameras = _cameras(config)
        if cameras:
            options.setdefault("camera_hz", 20 if config.cameras else 10)
        task = () if "task" not in options else ("--task", str(options["task"]))
        for camera, size in cameras.items():
            shown = ("--camera", camera, "--size", str(size))
            self._processes.append(Simulated("hardware.sim.camera", *domain, *shown, *task))
        named = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        self._processes.append(Simulated(self.robot.simulator, *domain, *named))
        self._scene = Scene(Network(domain=config.domain))

    def _end_simulation(self) -> None:
        if self._scene is not None:
            self._scene.close()
            self._scene = None
        for process in self._processes:
            process.close()
        self._processes.clear()


def _on_domain(robot: RobotSpec, config: SessionConfig) -> RobotSpec:
    driver = {**robot.driver, "network": {"domain": config.domain}}
    topics = {camera: f"/{camera}/image_raw" for camera in _cameras(config)}
    if topics:
        driver["images"] = {**driver.get("images", {}), **topics}
    return robot.replace(driver=driver)


def _cameras(config: SessionConfig) -> dict[str, int]:
    """Those that are asked for; a film shows what a policy sees if it is of the same one."""
    film = {config.film: config.film_size} if config.film else {}
    return {**film, **config.cameras}


def with_cameras(robot: RobotSpec, config: SessionConfig, wanted: Spec) -> SessionConfig:
    """The same with the cameras of a simulated robot's scene that a policy's pictures come from."""
    if not robot.simulator:
        return config
    found = dict(config.cameras)
    for key, observation in wanted.observations.items():
        parts = robot.observations.get(key, ())
        if observation.kind == "image" and len(parts) == 1 and parts[0].endswith(".image"):
            found.setdefault(parts[0].removesuffix(".image"), observation.shape[0])
    return dataclasses.replace(config, cameras=found)


def in_its_scene(robot: RobotSpec, config: SessionConfig, task: Task | None) -> SessionConfig:
    """The same with a simulation of a checkpoint's task, so that a seed is the same episode there.

    A task that `simulator` names, or one without a yaml of its name, is left alone.
    """
    known = task is not None and (config_directory() / "task" / f"{task.name}.yaml").is_file()
    if task is None or not known or not robot.simulator or "task" in config.simulator:
        return config
    return dataclasses.replace(config, simulator={**config.simulator, "task": task.name})
