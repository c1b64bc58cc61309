"""What a server serves: it reads requests, makes chunks for several at once, and words the replies.

A request is a map from observation keys to arrays, as openpi's is. Without the key "robopolicy" it is one
observation, `[To, ...]` for every key (`[...]` where To is 1), and the reply's "actions" are the rows from
now on, `[Tp-To+1, Da]`. With ``{"robopolicy": {"n": ..., "noise": ..., "seed": ...}}``, all three optional,
there may be B observations, `[B, To, ...]`, and "actions" is everything that was predicted, `[B, n, Tp, Da]`,
without the axes that the request does not have.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.errors import ConfigError, RobopolicyError, unknown
from robopolicy.serving.announcement import KEY, Announcement
from robopolicy.spec import ObservationSpec

__all__ = ["MAX_TEXT", "OPTIONS", "Chunks", "Query", "RequestError", "Served"]

OPTIONS = ("n", "noise", "seed")
MAX_TEXT = 10_000


class RequestError(RobopolicyError, ValueError):
    """A request that cannot be answered; its sender is told why."""


@dataclass(frozen=True)
class Query:
    """A request that has been read."""

    observation: dict[str, Any]
    """`[B, To, ...]`, or B texts."""
    rows: int
    n: int
    noise: np.ndarray | None
    """`[B, n, Tp, Dz]`."""
    seeds: tuple[int | None, ...]
    """One a row; None leaves it to the server."""
    whole: bool
    """Reply with all that was predicted, not only from now on."""
    single: tuple[int, ...]
    """Axes that the request does not have, of B and n."""

    @property
    def chunks(self) -> int:
        """B * n."""
        return self.rows * self.n


@dataclass(frozen=True)
class Chunks:
    """What `Served.sample` makes."""

    arrays: Mapping[str, np.ndarray]
    """Each `[B, n, ...]`; "actions" `[B, n, Tp, Da]` is one of them."""
    calls: int = 1
    """Network evaluations behind each chunk, one after the other."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds by stage."""


class Served(abc.ABC):
    """A model behind a server; whatever its framework is, it lives in `sample`."""

    def __init__(self, announcement: Announcement) -> None:
        if announcement.spec is None or announcement.max_chunks is None:
            raise ConfigError("What is served announces its spec and how many chunks it makes at once.")
        self.announcement, self.spec = announcement, announcement.spec
        self.limit = announcement.max_chunks

    @abc.abstractmethod
    def sample(
        self, observation: dict[str, Any], n: int, noise: np.ndarray | None, seeds: Sequence[int | None]
    ) -> Chunks:
        """n chunks for each of B observations `[B, To, ...]`; a row depends on its seed or noise alone."""

    def read(self, request: Any) -> Query:
        """A request as it came.

        Raises:
            RequestError: says what is missing, unknown or of another shape.
        """
        if not isinstance(request, dict):
            raise RequestError(f"A request is a map of observations, got {type(request).__name__}.")
        options = request.get(KEY)
        given = {key: value for key, value in request.items() if key != KEY}
        wanted = self.spec.observations
        for key in given:
            if key not in wanted:
                raise RequestError(unknown("observation", str(key)[:80], wanted))
        if missing := sorted(wanted.keys() - given.keys()):
            raise RequestError(f"The request lacks {missing}; given: {sorted(map(str, given))}.")
        read = {key: self._observation(key, value, wanted[key]) for key, value in given.items()}
        if len(batches := {batch for _, batch in read.values()}) > 1:
            raise RequestError(f"Observations differ in batch size: {sorted(map(str, batches))}.")
        batch = batches.pop()
        rows = 1 if batch is None else batch
        if options is None:
            if batch is not None:
                raise RequestError(
                    f"Several observations at once need the key {KEY!r}, e.g. {{{KEY!r}: {{}}}}."
                )
            observation = {key: value for key, (value, _) in read.items()}
            return Query(observation, 1, 1, None, (None,), whole=False, single=(0, 1))
        if not isinstance(options, dict) or (extra := options.keys() - set(OPTIONS)):
            what = f"unknown {sorted(map(str, extra))}" if isinstance(options, dict) else f"{options!r:.40}"
            raise RequestError(f"{KEY!r} is a map with, at most, {', '.join(OPTIONS)}; got {what}.")
        n = options.get("n", 1)
        if type(n) is not int or n < 1 or rows < 1 or rows * n > self.limit:
            raise RequestError(
                f"{rows} observations with n={n!r:.40} are not between 1 and {self.limit} chunks; "
                "ask in several requests."
            )
        single = tuple(axis for axis, there in enumerate((batch is not None, "n" in options)) if not there)
        return Query(
            {key: value for key, (value, _) in read.items()},
            rows,
            n,
            self._noise(options.get("noise"), (rows, n), single),
            _seeds(options.get("seed"), rows),
            whole=True,
            single=single,
        )

    def answer(self, queries: Sequence[Query]) -> list[dict[str, Any] | Exception]:
        """A reply to each, or why there is none; queries alike go through the model together."""
        replies: list[dict[str, Any] | Exception] = [RequestError("not answered")] * len(queries)
        groups: dict[tuple[int, bool], list[int]] = {}
        for index, query in enumerate(queries):
            groups.setdefault((query.n, query.noise is None), []).append(index)
        for indices in groups.values():
            found = self._together([queries[index] for index in indices])
            for index, reply in zip(indices, found, strict=True):
                replies[index] = reply
        return replies

    def _together(self, queries: Sequence[Query]) -> list[dict[str, Any] | Exception]:
        first = queries[0]
        noise = [query.noise for query in queries if query.noise is not None]
        seeds = [seed for query in queries for seed in query.seeds]
        try:
            observation = {
                key: _joined([query.observation[key] for query in queries]) for key in first.observation
            }
            made = self.sample(observation, first.n, np.concatenate(noise) if noise else None, seeds)
            return list(self._replies(queries, made))
        except Exception as error:  # noqa: BLE001 - whatever the model raises is its callers' to know
            if len(queries) == 1:
                return [error]
            return [reply for query in queries for reply in self._together([query])]

    def _replies(self, queries: Sequence[Query], made: Chunks) -> Iterator[dict[str, Any]]:
        begin, past = 0, self.announcement.obs_horizon - 1
        for query in queries:
            rows = {key: value[begin : begin + query.rows] for key, value in made.arrays.items()}
            begin += query.rows
            rows = {key: value.squeeze(query.single) for key, value in rows.items()}
            if not query.whole:
                rows = {"actions": rows["actions"][past:]}
            said = {"version": self.announcement.version, "calls": made.calls}
            yield {**rows, KEY: said, "policy_timing": dict(made.timing)}

    def _observation(self, key: str, value: Any, wanted: ObservationSpec) -> tuple[Any, int | None]:
        """As `[B, To, ...]` or B texts, and B, which is None where the request has no such axis."""
        if wanted.kind == "text":
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(
                isinstance(t, str) and len(t) <= MAX_TEXT for t in texts
            ):
                raise RequestError(
                    f"{key!r} is a text, or a list of texts, of at most {MAX_TEXT} characters."
                )
            return texts, None if isinstance(value, str) else len(texts)
        shape = (self.announcement.obs_horizon, *wanted.shape)
        kinds = "u" if wanted.kind == "image" else "biuf"
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
            dtype = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise RequestError(f"{key!r} is an array of {wanted.dtype} {list(shape)}, got {dtype}.")
        if shape[0] == 1 and value.shape == wanted.shape:
            value = value[None]
        batch = len(value) if value.ndim == len(shape) + 1 else None
        if value.shape[value.ndim - len(shape) :] != shape or value.ndim - len(shape) not in (0, 1):
            raise RequestError(f"{key!r} must be {list(shape)}, or B of them; got {list(value.shape)}.")
        return value.astype(wanted.dtype).reshape(-1, *shape), batch

    def _noise(self, value: Any, sizes: tuple[int, int], single: tuple[int, ...]) -> np.ndarray | None:
        if value is None:
            return None
        shape = self.announcement.noise_shape
        if shape is None or "noise" not in self.announcement.accepts:
            raise RequestError("This model takes no noise.")
        wanted = (*(size for axis, size in enumerate(sizes) if axis not in single), *shape)
        if not isinstance(value, np.ndarray) or value.shape != wanted or value.dtype.kind != "f":
            got = list(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
            raise RequestError(f"noise must be an array of floats {list(wanted)}, got {got}.")
        return value.astype(np.float32).reshape(*sizes, *shape)


def _seeds(value: Any, rows: int) -> tuple[int | None, ...]:
    if value is None:
        return (None,) * rows
    seeds = value.tolist() if isinstance(value, np.ndarray) else value
    seeds = seeds if isinstance(seeds, list) else [seeds]
    if len(seeds) != rows or any(type(seed) is not int or not 0 <= seed < 2**63 for seed in seeds):
        raise RequestError(f"seed must be {rows} integers in [0, 2^63), one for each observation.")
    return tuple(seeds)


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
        return [text for value in values for text in value]
    return np.concatenate(values)
