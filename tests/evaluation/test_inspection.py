from __future__ import annotations

from pathlib import Path

import imageio.v3
import numpy as np
import pytest

from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.inspection import InspectConfig, run_inspection
from tests.commands import failure, run


def make(path: Path, image: bool) -> Path:
    rng = np.random.default_rng(0)
    episodes = []
    for n in (12, 15, 9):
        episode = {"state": rng.random((n, 2)), "action": rng.random((n, 2))}
        if image:
            episode["cam"] = rng.integers(0, 255, (n, 16, 20, 3), dtype=np.uint8)
        episodes.append(episode)
    EpisodeStore.from_arrays(path, episodes, control_hz=10)
    return path


def test_images_become_a_contact_sheet_and_a_video(tmp_path: Path) -> None:
    data = make(tmp_path / "a.zarr", image=True)
    text, files = run_inspection(InspectConfig(data=str(data), video=True, out=f"{tmp_path}/out"))
    assert [file.name for file in files] == ["report.txt", "cam.png", "cam.mp4"]
    assert files[0].read_text() == text + "\n"
    assert imageio.v3.imread(files[1]).shape == (3 * 16, 8 * 20, 3)
    assert len(imageio.v3.imread(files[2], plugin="FFMPEG")) == 15


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.zarr", image=False)
    run("inspect_data", "data=a.zarr")
    printed = capsys.readouterr().out
    assert "3 episodes, 36 steps" in printed
    assert "action_1" in printed
    assert "outputs/inspect/a/report.txt" in printed
    code, message = failure(capsys, "inspect_data", "data=a.zarr", "video=true")
    assert code == 1
    assert "no images" in message
    assert "policy=replay" in message
