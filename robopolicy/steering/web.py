"""A web page to steer a policy by hand: draw over its plans, and watch it follow.

Standard library only, nothing from elsewhere on the page, and only for browsers on this machine: the server
binds to the loopback interface and answers no request that was meant for another host.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, cast

import numpy as np
import torch

from robopolicy.errors import ConfigError, RobopolicyError, unknown
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.rollout import ChunkRunner
from robopolicy.seeding import derive, episode_seeds
from robopolicy.steering.positions import Positions, PositionsConfig
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = ["HOST", "INPUTS", "MOST_BYTES", "STRATEGIES", "Session", "WebConfig", "serve"]

STRATEGIES = ("random", "output_perturbation", "ranking", "biased", "guided", "stochastic")
HOST = "127.0.0.1"
MOST_BYTES = 1_000_000
INPUTS = ("sketch", "point", "nudge")


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """The root of ``configs/steer_web.yaml``."""

    checkpoint: str
    """A policy whose actions are positions on a plane."""
    port: int = 8765
    """0 takes a free one."""
    plans: int = 12
    """Drawn at a time; the first is the one that is executed."""
    low: tuple[float, float] = (-0.36, -0.08)
    high: tuple[float, float] = (0.36, 0.88)
    """Corners of the picture, in the position's units."""
    obstacles: str = ""
    """Observation with the centres of discs to draw, and"""
    radius: float = 0.0
    """theirs."""
    lines: tuple[float, ...] = ()
    """Heights of horizontal lines to draw."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536 or self.plans < 1 or self.radius < 0:
            raise ConfigError(f"steer_web needs a port below 65536, plans >= 1 and radius >= 0, got {self}.")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"steer_web needs low < high, got {self.low} and {self.high}.")


class Session:
    """One episode that a person steers.

    Raises:
        ConfigError: the policy has no task, or its actions are no positions on a plane.
    """

    def __init__(self, policy: Policy, config: WebConfig, *, task: Task | None = None) -> None:
        found = task or policy.provenance.task
        if found is None:
            raise ConfigError(f"{config.checkpoint} has no task to act in.")
        self.policy, self.config = policy, config
        self.positions = Positions(PositionsConfig(), policy.spec, policy.obs_horizon)
        if self.positions.size != 2:
            raise ConfigError(
                f"The page draws on a plane; these positions have {self.positions.size} numbers."
            )
        self.envs = LaneVectorEnv(found, 1, workers=0, chunk=policy.action_horizon)
        policy.spec.require(self.envs.robot_spec)
        self.runner = ChunkRunner(
            self.envs, obs_horizon=policy.obs_horizon, action_horizon=policy.action_horizon
        )
        self.reset(0)

    def reset(self, episode: int) -> dict[str, Any]:
        """Begin an episode of the selection block.

        Raises:
            ConfigError: the block has no such episode.
        """
        self.seed = episode_seeds("select", 1, episode)[0]
        self.runner.reset(np.array([True]), np.array([self.seed]))
        self.trail = [self._here()]
        self.over = ""
        return self.plan({})

    def plan(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        """Plan anew from where the robot is, as is wanted.

        Args:
            wish: "strategy" and its "settings", and one of "sketch", "point" and "nudge"; with none of these
                the policy is left alone.

        Raises:
            ConfigError: an unknown strategy or key, or what its config refuses.
        """
        for key in wish:
            if key not in ("strategy", "settings", *INPUTS):
                raise ConfigError(unknown("key", key, ("strategy", "settings", *INPUTS)))
        inputs = {key: wish[key] for key in INPUTS if wish.get(key)}
        policy: Any = self.policy
        if inputs:
            name = wish.get("strategy", "guided")
            if name not in STRATEGIES:
                raise ConfigError(unknown("strategy", name, STRATEGIES))
            policy = build("steer", {"name": name, **wish.get("settings", {}), **inputs}, policy=self.policy)
        observation = {key: self.runner.observation[key] for key in self.policy.spec.observations}
        # Equal noise for every wish, so that plans are seen to bend and not to jump.
        generator = torch.Generator(self.policy.device).manual_seed(
            derive(self.seed, f"web {int(self.runner.time[0])}")
        )
        sample = policy.sample(observation, n=self.config.plans, generator=[generator])
        self.actions = np.asarray(sample.actions)[0]
        actions = torch.as_tensor(self.actions)
        here = torch.as_tensor(self._here()).expand(len(actions), -1)
        plans = self.positions.of(actions, here)[:, self.positions.past :]
        error = None
        if inputs:
            error = float(policy.alignment.distance(actions, here).mean())
        return self._state() | {"plans": plans.tolist(), "error": error, "calls": sample.calls}

    def step(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        """Execute the first of the plans that are shown, then `plan`."""
        if not self.over:
            first = self.positions.past
            chunk = self.actions[None, 0, first : first + self.policy.action_horizon]
            made = self.runner.step(chunk.astype(np.float32)).step
            count = int(made.steps[0])
            self.trail += made.observations[self.positions.key][0, :count].tolist()
            if made.success[0, :count].any():
                self.over = "reached"
            elif made.terminated[0]:
                self.over = "collided"
            elif made.truncated[0]:
                self.over = "out of time"
        return self.plan(wish)

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def _here(self) -> list[float]:
        return cast(list[float], self.runner.observation[self.positions.key][0, -1].tolist())

    def _state(self) -> dict[str, Any]:
        key, observed = self.config.obstacles, self.runner.observation
        discs = observed[key][0, -1].reshape(-1, 2).tolist() if key else []
        return {
            "low": self.config.low,
            "high": self.config.high,
            "discs": discs,
            "radius": self.config.radius,
            "lines": self.config.lines,
            "trail": self.trail,
            "time": int(self.runner.time[0]),
            "over": self.over,
            "strategies": STRATEGIES,
        }


def serve(session: Session, port: int) -> ThreadingHTTPServer:
    """A server bound to the loopback interface; call its ``serve_forever``."""
    return ThreadingHTTPServer((HOST, port), _handler(session, threading.Lock()))


def _handler(session: Session, lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    verbs = {
        "/plan": session.plan,
        "/step": session.step,
        "/reset": lambda wish: session.reset(_integer(wish.get("episode", 0))),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self._meant():
                return
            if self.path != "/":
                self._answer(HTTPStatus.NOT_FOUND, {"error": f"There is no {self.path}."})
                return
            page = resources.files("robopolicy.steering").joinpath("page.html").read_bytes()
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")

        def do_POST(self) -> None:
            if not self._meant():
                return
            if self.path not in verbs:
                self._answer(HTTPStatus.NOT_FOUND, {"error": unknown("verb", self.path, verbs)})
                return
            # Other sites' pages cannot send this type without asking first, which nothing here answers.
            if self.headers.get("Content-Type") != "application/json":
                self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "Send application/json."})
                return
            size = _integer(self.headers.get("Content-Length", "0"))
            if not 0 < size <= MOST_BYTES:
                self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"1 to {MOST_BYTES} bytes."})
                return
            try:
                wish = json.loads(self.rfile.read(size))
                if not isinstance(wish, dict):
                    raise ConfigError("A wish is a JSON object.")
                with lock:
                    answer = verbs[self.path](wish)
            except (RobopolicyError, ValueError, TypeError) as error:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
                return
            self._answer(HTTPStatus.OK, answer)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing: the page is its own log."""

        def _meant(self) -> bool:
            host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
            if host in (HOST, "localhost"):
                return True
            self._answer(HTTPStatus.FORBIDDEN, {"error": f"This server is {HOST}, not {host}."})
            return False

        def _answer(self, status: HTTPStatus, content: Mapping[str, Any]) -> None:
            self._send(status, json.dumps(content).encode(), "application/json")

        def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"A whole number is needed, got {value!r}.") from error
