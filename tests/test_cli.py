from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from robopolicy.cli import command
from robopolicy.compose import choices, compose, config_directory, options, sweep
from robopolicy.errors import ConfigError, DataError

FILES = {
    "train.yaml": """
        defaults:
          - task: null
          - policy: diffusion
          - trainer: default
          - _self_
        # where training
        # examples come from
        data: null
        seed: 0  # of everything random
        out: runs/${seed}
        loader:
          workers: 2  # processes
        """,
    "evaluate.yaml": """
        checkpoint: ???
        """,
    "task/lift.yaml": "name: lift\nhorizon: 80\n",
    "task/meta/reach.yaml": "name: reach\n",
    "policy/diffusion.yaml": "defaults: [{/network: mlp}, _self_]\nname: diffusion\nnoise: {levels: 100}\n",
    "policy/zero.yaml": "name: zero\n",
    "network/mlp.yaml": "name: mlp\nwidth: 512\n",
    "network/unet.yaml": "# @package policy.network\nname: unet\nchannels: [64, 128]  # at each level\n",
    "trainer/default.yaml": "steps: 10\nrate: 0.1\n",
}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    import textwrap

    for name, text in FILES.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "configs"


Main = Callable[[Sequence[str]], None]


@pytest.fixture
def main(configs: Path) -> tuple[Main, list[dict[str, Any]]]:
    """A command, and the configurations it was called with."""
    calls: list[dict[str, Any]] = []

    @command(config="train", purpose="Train something.", examples=["train.py task=lift"], directory=configs)
    def run(config: dict[str, Any]) -> None:
        calls.append(config)
        if config["seed"] == 13:
            raise DataError("this seed is unlucky")
        if config["seed"] == 14:
            raise KeyboardInterrupt
        if config["seed"] == 15:
            signal.raise_signal(signal.SIGTERM)

    return run, calls


def failure(main: Main, argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err


def test_plain_values_with_interpolations_resolved(configs: Path) -> None:
    config = compose("train", ["task=lift", "seed=3", "policy.noise.levels=50"], directory=configs)
    assert config == {
        "task": {"name": "lift", "horizon": 80},
        "policy": {"name": "diffusion", "noise": {"levels": 50}, "network": {"name": "mlp", "width": 512}},
        "trainer": {"steps": 10, "rate": 0.1},
        "data": None,
        "seed": 3,
        "out": "runs/3",
        "loader": {"workers": 2},
    }
    assert type(config["policy"]["noise"]) is dict


@pytest.mark.parametrize(
    "overrides",
    [
        ["network=unet"],
        ["policy=diffusion", "network=unet"],
        ["network=unet", "policy=diffusion"],
        ["network@policy.network=unet"],
    ],
)
def test_a_network_is_chosen_by_its_own_name(configs: Path, overrides: list[str]) -> None:
    config = compose("train", overrides, directory=configs)
    assert config["policy"]["network"] == {"name": "unet", "channels": [64, 128]}
    changed = compose("train", [*overrides, "policy.network.channels=[8]"], directory=configs)
    assert changed["policy"]["network"]["channels"] == [8]
    assert compose("train", [*overrides, "network.channels=[8]"], directory=configs) == changed
    with pytest.raises(ConfigError, match=r"Unknown key of policy\.network 'chanels'.*'channels'"):
        compose("train", [*overrides, "network.chanels=[8]"], directory=configs)


def test_what_was_composed_is_not_kept_beyond_its_files(configs: Path) -> None:
    first = compose("train", ["task=lift", "policy=null"], directory=configs)
    first["trainer"]["steps"] = 0  # belongs to the caller
    assert compose("train", ["task=lift", "policy=null"], directory=configs)["trainer"]["steps"] == 10
    (configs / "trainer" / "default.yaml").write_text("steps: 20\nrate: 0.1\n")
    assert compose("train", ["task=lift", "policy=null"], directory=configs)["trainer"]["steps"] == 20


def test_groups_can_be_left_empty(configs: Path) -> None:
    assert compose("train", directory=configs)["task"] is None
    assert compose("train", ["task=null"], directory=configs)["task"] is None
    assert compose("train", ["policy=null"], directory=configs).get("policy") is None


def test_new_keys_need_a_plus(configs: Path) -> None:
    assert compose("train", ["+loader.pin=true"], directory=configs)["loader"] == {"workers": 2, "pin": True}


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("policy=difusion", ["policy 'difusion'", "Did you mean 'diffusion'", "diffusion, zero"]),
        ("task=lfit", ["task 'lfit'", "'lift'", "lift, meta/reach"]),
        ("network=unett", ["network 'unett'", "Did you mean 'unet'", "mlp, unet"]),
        ("trainer.stepz=3", ["'stepz'", "trainer", "Did you mean 'steps'", "rate, steps"]),
        ("policy.network.widht=3", ["'widht'", "policy.network", "Did you mean 'width'"]),
        (
            "tsk=lift",
            ["'tsk'", "Did you mean 'task'", "data, loader, network, out, policy, seed, task, trainer"],
        ),
        ("task.horizon=5", ["task.horizon", "no task is chosen", "lift, meta/reach"]),
        ("seed.deeper=5", ["seed.deeper", "seed is 0"]),
        ("seed", ["'seed'", "key=value"]),
        ("seed=[", ["'seed=['", "key=value"]),
        ("seed=1,2", ["'seed=1,2'", "-m"]),
        ("out=${nothing}", ["nothing"]),
        ("--steps=3", ["'--steps=3'", "--help", "steps=3"]),
        ("--jobs=0", ["--jobs", "0"]),
    ],
)
def test_a_wrong_command_line_is_one_clear_message(
    main: tuple[Main, list[dict[str, Any]]],
    override: str,
    fragments: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, message = failure(main[0], [override], capsys)
    assert code == 2
    assert not main[1]
    assert "Traceback" not in message
    assert all(fragment in message for fragment in fragments), message


def test_a_group_the_policy_does_not_have(configs: Path) -> None:
    with pytest.raises(ConfigError, match=r"group 'network'.*policy, task, trainer.*policy=zero"):
        compose("train", ["policy=zero", "network=unet"], directory=configs)


def test_required_values(configs: Path) -> None:
    with pytest.raises(ConfigError, match=r"give checkpoint="):
        compose("evaluate", directory=configs)
    assert compose("evaluate", ["checkpoint=a/b"], directory=configs) == {"checkpoint": "a/b"}
    with pytest.raises(ConfigError, match="evaluate, train"):
        compose("evaluat", directory=configs)


def test_failures_of_the_command(
    main: tuple[Main, list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, message = failure(main[0], ["seed=13"], capsys)
    assert (code, "this seed is unlucky" in message, "Traceback" in message) == (1, True, False)
    assert failure(main[0], ["seed=14"], capsys)[0] == 130
    assert failure(main[0], ["seed=15"], capsys)[0] == 130
    monkeypatch.setenv("ROBOPOLICY_TRACEBACK", "1")
    with pytest.raises(DataError):
        main[0](["seed=13"])


def test_help_lists_groups_choices_and_settings(
    main: tuple[Main, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    main[0](["--help", "network=unet"])
    text = capsys.readouterr().out
    assert not main[1]
    for fragment in (
        "Train something.",
        "train.py task=lift",
        "diffusion*, zero",
        "mlp, unet*",
        "(none)*, lift, meta/reach",
        "where training examples come from",
        "of everything random",
        "loader.workers=2",
        "policy.network.channels=[64, 128]",
        "at each level",
    ):
        assert fragment in text
    assert "@package" not in text


def test_print_shows_and_stops(
    main: tuple[Main, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    main[0](["--print", "task=lift", "network=unet"])
    printed = yaml.safe_load(capsys.readouterr().out)
    main[0](["task=lift", "network=unet"])
    assert main[1] == [printed]


@pytest.mark.parametrize("traceback", ["0", "1"])
def test_warnings_come_without_the_line_of_code(
    configs: Path, monkeypatch: pytest.MonkeyPatch, traceback: str
) -> None:
    monkeypatch.setenv("ROBOPOLICY_TRACEBACK", traceback)
    before, told = warnings.formatwarning, []

    @command(config="train", purpose="Warn.", directory=configs)
    def run(config: dict[str, Any]) -> None:
        told.append(warnings.formatwarning(UserWarning("slow"), UserWarning, "a.py", 3, "code()"))
        told.append(warnings.formatwarning(FutureWarning("old"), FutureWarning, "a.py", 3, "code()"))

    run([])
    located = "a.py:3: UserWarning: slow\n  code()\n"
    expected = located if traceback == "1" else "\nwarning: slow\n"
    assert told == [expected, "a.py:3: FutureWarning: old\n  code()\n"]
    assert warnings.formatwarning is before


def test_a_reader_may_have_seen_enough() -> None:
    program = "from scripts.train import main; main(['--help'])"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_sweeps_are_products_in_order(configs: Path) -> None:
    assert sweep(["seed=1,2", "policy=zero", "trainer.steps=range(0,4,2)"]) == [
        ["seed=1", "policy=zero", "trainer.steps=0"],
        ["seed=1", "policy=zero", "trainer.steps=2"],
        ["seed=2", "policy=zero", "trainer.steps=0"],
        ["seed=2", "policy=zero", "trainer.steps=2"],
    ]
    assert sweep(["policy=glob(*)"], configs) == [["policy=diffusion"], ["policy=zero"]]
    assert sweep(["a=[1,2]"]) == [["a=[1,2]"]]
    for wrong in ("seed=interval(0,1)", "policy=glob(x*)"):
        with pytest.raises(ConfigError):
            sweep([wrong], configs)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_multirun_goes_on_after_a_failure(configs: Path, tmp_path: Path, jobs: int) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "from pathlib import Path\n"
        "from robopolicy.cli import command\n"
        "from robopolicy.errors import DataError\n"
        f"@command(config='train', purpose='p', directory=Path({str(configs)!r}))\n"
        "def main(config):\n"
        "    if config['seed'] == 1: raise DataError('no')\n"
        "    Path(f\"{config['policy']['name']}{config['seed']}\").touch()\n"
        "main()\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(script), *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("-m", "seed=1,2", "policy=zero,diffusion", "--jobs", str(jobs))
    assert done.returncode == 1
    assert "2 of 4 runs succeeded" in done.stdout
    assert done.stdout.count("failed (1)") >= 2
    assert {path.name for path in tmp_path.glob("*2")} == {"zero2", "diffusion2"}
    if jobs == 1:
        typo = run("-m", "seed=3,4", "policy=zeero,zero")
        assert typo.returncode == 2
        assert not list(tmp_path.glob("*[34]"))  # nothing starts when anything is misspelt


@pytest.mark.slow
def test_the_shipped_configurations_compose() -> None:
    tried = set()
    for root in sorted(path.stem for path in config_directory().glob("*.yaml")):
        for group in {key.partition("@")[0] for key in choices(root)} - tried:
            tried.add(group)
            for name in options(group):
                assert f"{group}={name}" in {
                    f"{k.partition('@')[0]}={v}" for k, v in choices(root, [f"{group}={name}"]).items()
                }
