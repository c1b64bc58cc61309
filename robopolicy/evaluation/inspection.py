"""A report on a store with pictures: what ``scripts/inspect_data.py`` runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from robopolicy.data.inspect import contact_sheet, format_report, inspect
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError
from robopolicy.evaluation.video import tile, write_mp4

__all__ = ["InspectConfig", "run_inspection"]


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """The root of ``configs/inspect_data.yaml``."""

    data: str
    control_hz: float | None = None
    video: bool = False
    episodes: int = 9
    """In the video, the first ones."""
    out: str | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"episodes must be at least 1, got {self.episodes}.")

    @property
    def directory(self) -> Path:
        """Where pictures go."""
        return Path(self.out or f"outputs/inspect/{Path(self.data.rstrip('/')).stem}")


def run_inspection(config: InspectConfig) -> tuple[str, list[Path]]:
    """The report as text, and the files written: the report, and pictures where the store has images.

    Raises:
        DataError: the store cannot be read or is empty.
        ConfigError: a video is asked for and there are no images.
    """
    store = EpisodeStore.open(config.data, control_hz=config.control_hz)
    images = [key for key, o in store.spec.observations.items() if o.kind == "image"]
    if config.video and not images:
        raise ConfigError(
            f"{store.where} has no images to make a video of (observations: "
            f"{', '.join(sorted(store.spec.observations))}). Where it records seeds, scripts/evaluate.py "
            f"policy=replay data={config.data} films its episodes."
        )
    text = format_report(inspect(store))
    config.directory.mkdir(parents=True, exist_ok=True)
    files = [config.directory / "report.txt"]
    files[0].write_text(text + "\n")
    for key in images:
        files.append(config.directory / f"{key}.png")
        Image.fromarray(contact_sheet(store, key)).save(files[-1])
        if config.video:
            files.append(config.directory / f"{key}.mp4")
            films = [list(store.episode(i)[key]) for i in range(min(config.episodes, len(store)))]
            write_mp4(files[-1], tile(films), store.spec.control_hz)
    return text, files
