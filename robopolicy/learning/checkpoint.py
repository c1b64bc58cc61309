"""Checkpoints: a directory of JSON and safetensors that loads without executing anything it contains.

step-00005000/
  policy.json            format, version, spec, codec, configuration, provenance, digest
  policy.safetensors     weights and codec statistics (the averaged weights, where training averages)
  training.json, training.safetensors    what resuming needs besides

A world model's files are called world.json and world.safetensors instead.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import robopolicy
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.model import Model, Provenance
from robopolicy.policies.policy import Policy
from robopolicy.registry import build, parse, plain, to_dict
from robopolicy.spec import Spec
from robopolicy.task import Task

__all__ = [
    "FORMAT",
    "STEP_PREFIX",
    "check_tensors",
    "codec_digest",
    "find_checkpoint",
    "is_address",
    "load",
    "load_model",
    "read_json",
    "read_tensors",
    "remove",
    "save_checkpoint",
    "steps",
]

FORMAT = 2
"""2: conditions are laid out by time, then key (1 was by key, then time)."""
STEP_PREFIX = "step-"
_DEEPEST_RUN, _MOST_FOLDERS = 5, 2000
"""How far an error message looks for runs: levels below, and folders in all."""


def save_checkpoint(
    directory: Path,
    model: Model,
    *,
    training: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint directory, whole or not at all."""
    directory = Path(directory)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    description = {
        "format": FORMAT,
        "library": robopolicy.__version__,
        model.kind: to_dict(model.kind, model),
        "codec": plain(model.codec.config),
        "codec_digest": codec_digest(tensors),
        "spec": model.spec.to_dict(),
        "provenance": plain(model.provenance),
    }
    (temporary / f"{model.kind}.json").write_text(json.dumps(description, indent=1))
    save_file(tensors, temporary / f"{model.kind}.safetensors")
    if training is not None:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in training.items()},
            temporary / "training.safetensors",
        )
        (temporary / "training.json").write_text(json.dumps(plain(state or {}), indent=1))
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    old = _set_aside(directory) if directory.exists() else None  # deleting takes longer than renaming
    os.replace(temporary, directory)
    if old is not None:
        shutil.rmtree(old)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Policy:
    """A policy from a checkpoint, a run directory, or any directory that contains just one run.

    ``ws://host:port`` is the policy of the server there, if it announces a spec (`policies.remote`).

    Raises:
        CheckpointError: nothing or more than one run there; damaged, changed or newer files.
    """
    if is_address(path):
        from robopolicy.policies.remote import connect

        return connect(str(path), device=device)
    policy = load_model(path, "policy", device=device)
    assert isinstance(policy, Policy)
    return policy


def load_model(path: str | Path, kind: str, *, device: str | torch.device = "cpu") -> Model:
    """A model of a kind; `load` says what of."""
    directory = find_checkpoint(path, kind)
    description = read_json(directory / f"{kind}.json")
    version = description.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(
            f"{directory} has checkpoint format {version}; robopolicy {robopolicy.__version__} reads up to "
            f"{FORMAT}. Install robopolicy >= {description.get('library', '?')}."
        )
    if version < FORMAT:
        raise CheckpointError(
            f"{directory} has checkpoint format {version}, whose networks read observations in another order "
            f"than this version's; train the {kind} again."
        )
    weights = directory / f"{kind}.safetensors"
    tensors = read_tensors(weights)
    try:
        spec = Spec.from_dict(description["spec"])
        codec = Codec(parse(CodecConfig, description["codec"], "codec"), spec)
        model = build(kind, description[kind], spec=spec, codec=codec)
        digest, provenance = description["codec_digest"], _provenance(description["provenance"])
    except KeyError as error:
        raise CheckpointError(f"{directory / f'{kind}.json'} lacks {error}.") from error
    except ConfigError as error:
        raise CheckpointError(f"{directory / f'{kind}.json'}: {error}") from error
    assert isinstance(model, Model)
    check_tensors(model.state_dict(), tensors, weights)
    if codec_digest(tensors) != digest:
        raise CheckpointError(
            f"{directory}: the codec statistics in {weights.name} are not those the {kind} was trained "
            "with. Restore both files from the same checkpoint."
        )
    model.load_state_dict(tensors)
    model.provenance = provenance
    return model.to(device).eval()


def is_address(path: str | Path) -> bool:
    """Whether this is a policy server's address instead of a path."""
    return str(path).startswith(("ws://", "wss://"))


def find_checkpoint(path: str | Path, kind: str = "policy") -> Path:
    """The newest checkpoint of a kind at or below `path`."""
    path = Path(path)
    if (path / f"{kind}.json").exists():
        return path
    if not path.exists():
        raise CheckpointError(f"No such checkpoint: {path}.{_nearby(path, kind)}")
    runs = sorted(
        found.parent for found in path.rglob("checkpoints") if found.is_dir() and steps(found.parent)
    )
    if not runs and steps(path.parent) and path.name == "checkpoints":
        runs = [path.parent]
    if not runs:
        raise CheckpointError(f"{path} contains no checkpoint.{_nearby(path, kind)}")
    if len(runs) > 1:
        raise CheckpointError(
            f"{path} contains {len(runs)} runs; name one:\n  " + "\n  ".join(map(str, runs))
        )
    newest = steps(runs[0])[-1]
    if not (newest / f"{kind}.json").exists():
        raise CheckpointError(f"{newest} is not the checkpoint of a {kind}.")
    return newest


def steps(run: Path) -> list[Path]:
    """A run's complete checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob(f"{STEP_PREFIX}*"))


def check_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: Path) -> None:
    """Raise, naming tensors, unless names and shapes agree.

    Raises:
        CheckpointError: lists what is missing, unexpected or of another shape.
    """
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {list(found[name].shape)}, the policy needs {list(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise CheckpointError(f"{where} does not fit its policy.json:\n  - " + "\n  - ".join(shown))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; anything else is refused."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing.")
    with path.open("rb") as file:
        head = file.read(9)  # of safetensors: the header's length, then its JSON
    if head[8:] != b"{" and (head[:1] == b"\x80" or head[:4] == b"PK\x03\x04"):
        raise CheckpointError(
            f"{path} is a pickle, not safetensors. Loading it would execute what it contains; it is refused. "
            "Save the tensors with safetensors.torch.save_file."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error


def codec_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of the codec's statistics."""
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if name.startswith("codec.")):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _provenance(values: Mapping[str, Any]) -> Provenance:
    task = values.get("task")
    rest = {key: value for key, value in values.items() if key != "task"}
    return parse(Provenance, {"task": Task.from_dict(task) if task else None, **rest}, "provenance")


def remove(directory: Path) -> None:
    """Delete a checkpoint; one that is half deleted is no longer found."""
    shutil.rmtree(_set_aside(directory))


def _set_aside(directory: Path) -> Path:
    """Where a checkpoint is now, under a name by which none is found."""
    aside = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(directory, aside)
    return aside


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return values


def _nearby(path: Path, kind: str) -> str:
    """Runs below the nearest directory that exists; a look, not a search of the whole disk."""
    parent = next((p for p in path.parents if p.exists()), Path())
    depth, found = len(parent.parts) + _DEEPEST_RUN, set()
    for folder, folders, _ in itertools.islice(os.walk(parent), _MOST_FOLDERS):
        here = Path(folder)
        if here.name == "checkpoints":
            if next(here.glob(f"*/{kind}.json"), None):
                found.add(str(here.parent))
            folders.clear()
        elif len(here.parts) > depth:
            folders.clear()
    return f" Runs below {parent}: {', '.join(sorted(found)[:8])}." if found else ""
