"""A policy on a server: ours, which announces what it is, or any that speaks openpi's protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError, SpecMismatch, unknown
from robopolicy.model import Provenance
from robopolicy.policies.policy import (
    ChunkConfig,
    Generation,
    Generators,
    Policy,
    Request,
    Sample,
    draw,
)
from robopolicy.registry import parse, register
from robopolicy.spec import Spec
from robopolicy.task import Task

__all__ = ["TEXT_BYTES", "RemoteConfig", "RemotePolicy", "RemoteSample", "connect"]

TEXT_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class RemoteConfig(ChunkConfig):
    """Where the server is, and what it does not announce itself."""

    address: str
    """``ws://host:port``."""
    obs_horizon: int = 1
    keys: Mapping[str, str] = field(default_factory=dict)
    """What the server calls an observation, where it is another name: ``{"instruction": "prompt"}``."""
    version: str = ""
    """Of the weights; those of the first connection by default. Others are refused."""
    timeout_s: float = 60.0
    """Longest wait for a reply."""
    patience_s: float = 10.0
    """How long to try to reach a server that has gone."""

    def __post_init__(self) -> None:
        if not self.address.startswith(("ws://", "wss://")):
            raise ConfigError(f"remote: an address is ws://host:port or wss://..., got {self.address!r}.")
        if min(self.timeout_s, self.patience_s) <= 0:
            raise ConfigError("remote needs timeout_s, patience_s > 0.")


@dataclass(frozen=True)
class RemoteSample(Sample):
    """With what it took to get it."""

    requests: int = 1
    """n for each observation where the server makes one chunk at a time."""


@register("policy", "remote")
class RemotePolicy(Policy):
    """Samples what the server samples, in its units; noise can be given where the server announces it.

    A server that needs nothing but noise gets noise drawn here, so results are those of the policy in this
    process. Others get a seed for every row, drawn from the caller's generators, where they take one.

    Raises:
        SpecMismatch: the server announces another spec, or other horizons.
        ServerError: no server, or one with other weights than `RemoteConfig.version`.
    """

    def __init__(self, config: RemoteConfig, *, spec: Spec, codec: Codec) -> None:
        from robopolicy.serving.client import PolicyClient, VersionChanged

        super().__init__(spec, codec, **config.horizons)
        for key in config.keys:
            if key not in spec.observations:
                raise ConfigError("remote.keys: " + unknown("observation", key, spec.observations))
        self.client = PolicyClient(config.address, timeout_s=config.timeout_s, patience_s=config.patience_s)
        said = self.client.said()
        if config.version and config.version != said.version:
            raise VersionChanged(
                f"{config.address} has version {said.version or '(none)'} of its weights; this policy was "
                f"made for version {config.version}."
            )
        self._check_announced(config)
        self.config = dataclasses.replace(config, version=said.version)
        self.capabilities = frozenset({"noise"} & {*said.accepts})  # type: ignore[misc]

    @property
    def device(self) -> torch.device:
        """Of the codec: there are no weights here."""
        return self.codec.get_buffer("action_center").device

    @property
    def noise_shape(self) -> tuple[int, int]:
        """As announced."""
        return self.client.said().noise_shape or (self.pred_horizon, self.spec.action.size)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Texts as they are, for policies that build on this one: UTF-8 `[B, 512]`, filled up with zeros.

        Raises:
            ConfigError: a longer text.
        """
        encoded = [text.encode() for text in texts]
        if longest := max((text for text in encoded if len(text) > TEXT_BYTES), key=len, default=b""):
            raise ConfigError(f"A text has {len(longest)} bytes, at most {TEXT_BYTES} can be steered with.")
        padded = b"".join(text.ljust(TEXT_BYTES, b"\0") for text in encoded)
        rows = torch.frombuffer(bytearray(padded), dtype=torch.uint8).view(len(encoded), TEXT_BYTES)
        return rows.to(self.device)

    def require(self, *capabilities: str) -> None:
        """Raise unless the server has them.

        Raises:
            MissingCapability: for noise, says what the server has to announce.
        """
        if "noise" in capabilities:
            self.client.require("noise")
        super().require(*capabilities)

    @torch.no_grad()
    def sample(
        self,
        observation: Mapping[str, Any],
        *,
        n: int = 1,
        noise: Any | None = None,
        generator: Generators = None,
        record: bool = False,
        executed: Any | None = None,
    ) -> RemoteSample:
        """As `Policy.sample`; `RemoteSample.requests` says how many requests it took.

        What was executed is not sent: no server asks for it.

        Raises:
            MissingCapability: a chain; or noise, which the server does not take.
            ServerError: the server could not answer, or has other weights by now.
        """
        del executed
        if record:
            self.require("chain")
        is_numpy = not any(isinstance(value, Tensor) for value in observation.values())
        batch = self._check(observation)
        said = self.client.said()
        latent, seeds = None, None
        shape = (batch, n, *self.noise_shape)
        if noise is not None:
            self.require("noise")
            latent = _numpy(noise).astype(np.float32)
            if latent.shape != shape:
                raise ConfigError(f"noise must be {list(shape)}, got {list(latent.shape)}.")
        elif said.noise_is_all:
            latent = _numpy(draw(shape, generator, self.device))
        elif "seed" in said.accepts and generator is not None:
            seeds = _seeds(generator, batch)
        named = {
            self.config.keys.get(key, key): (_texts if o.kind == "text" else _numpy)(observation[key])
            for key, o in self.spec.observations.items()
        }
        reply = self.client.sample(named, n=n, noise=latent, seeds=seeds)
        wanted = (batch, n, self.pred_horizon, self.spec.action.size)
        if reply.actions.shape != wanted:
            raise SpecMismatch(
                f"{self.config.address} replied with chunks {list(reply.actions.shape[2:])}, expected "
                f"{list(wanted[2:])}: [pred_horizon, size of the action]."
            )
        found: dict[str, Any] = {
            "latent": latent,
            "log_prob": None,
            "energy": None,
            **reply.arrays,
            "actions": reply.actions,
        }
        if not is_numpy:
            found = {
                k: None if v is None else torch.as_tensor(v, device=self.device) for k, v in found.items()
            }
        return RemoteSample(**found, timing=reply.timing, calls=reply.calls, requests=reply.requests)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Encoded chunks, for policies that build on this one."""
        n = request.noise.shape[1]
        given = request.deterministic or self.client.said().noise_is_all
        made = self.sample(
            observation, n=n, noise=request.noise if given else None, generator=request.generator
        )
        rows = {key: value.repeat_interleave(n, 0) for key, value in observation.items()}
        return Generation(code=self.codec.encode_action(made.actions.flatten(0, 1), rows), calls=made.calls)

    def _check_announced(self, config: RemoteConfig) -> None:
        said = self.client.said()
        if said.spec is None:
            return
        found = [] if config.keys else said.spec.differences(self.spec)
        for name, value in config.horizons.items():
            if getattr(said, name) not in (None, value):
                found.append(f"{name}: {getattr(said, name)} on the server, {value} here")
        if found:
            raise SpecMismatch(f"The server at {config.address} does not fit:\n  - " + "\n  - ".join(found))


def connect(address: str, *, device: str | torch.device = "cpu") -> RemotePolicy:
    """The policy of a server that announces its spec; `robopolicy.load` does this with an address.

    Raises:
        ConfigError: it announces none.
    """
    from robopolicy.serving.client import PolicyClient

    with PolicyClient(address) as client:
        said = client.said()
    if said.spec is None or said.pred_horizon is None or said.action_horizon is None:
        raise ConfigError(
            f"{address} does not announce spec and horizons, as openpi's servers do not. Describe it once "
            "with RemotePolicy(RemoteConfig(...), spec=..., codec=...), save_checkpoint it, and use that "
            "checkpoint: docs/serving.md."
        )
    codec = Codec(CodecConfig(), said.spec)
    if said.codec is not None:
        codec = Codec(parse(CodecConfig, said.codec["config"], "codec"), said.spec)
        codec.load_state_dict({k: torch.tensor(v) for k, v in said.codec["statistics"].items()})
    config = RemoteConfig(
        address=address, obs_horizon=said.obs_horizon, pred_horizon=said.pred_horizon,
        action_horizon=said.action_horizon,
    )  # fmt: skip
    policy = RemotePolicy(config, spec=said.spec, codec=codec)
    if said.provenance is not None:
        policy.provenance = _provenance(said.provenance)
    return policy.to(device).eval()


def _provenance(said: Mapping[str, Any]) -> Provenance:
    task = said.get("task")
    seeds = np.asarray(said.get("used_seeds", ())).tolist()
    known = {**said, "used_seeds": seeds, "task": Task.from_dict(task) if task else None}
    return parse(Provenance, known, "provenance")


def _numpy(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _texts(value: Any) -> list[str]:
    """Texts, or what `RemotePolicy.tokens` made of them."""
    if isinstance(value, Tensor):
        return [bytes(row.tolist()).rstrip(b"\0").decode() for row in value.to(torch.uint8)]
    return list(value)


def _seeds(generator: Generators, batch: int) -> list[int]:
    """One for each row, from its own generator if it has one."""
    if isinstance(generator, torch.Generator):
        return torch.randint(2**62, (batch,), generator=generator, device=generator.device).tolist()
    assert generator is not None
    return [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generator]
