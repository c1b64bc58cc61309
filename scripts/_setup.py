"""Set-up of a clone: finds Python, makes .venv, installs into it, and runs the calling script there.

    import _setup; _setup.ensure()              first statement of a script
    python3 scripts/_setup.py [module args]     the same, then `python -m module args`

Standard library only, and parses under any Python 3.8 or newer. ROBOPOLICY_NO_VENV=1 turns it off.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "robopolicy-setup"  # "unfinished", then a fingerprint of what is installed
LOG = VENV / "install.log"
WINDOWS = os.name == "nt"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
EXTRAS = ("dev", "metaworld", "ros", "ur")
SUPPORTED = ((3, 12), (3, 11))
TORCH_CPU = "https://download.pytorch.org/whl/cpu"

# What a candidate interpreter can do; evdev, a dependency of robosuite, compiles against Python.h.
PROBE = """
import importlib.util, json, os, sys, sysconfig
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
print(json.dumps({"version": sys.version_info[:2], "header": os.path.exists(header),
                  "pip": importlib.util.find_spec("ensurepip") is not None}))
"""


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def ensure() -> None:
    """Return inside a complete .venv: make it if needed, then run this script again with its Python.

    With --help nothing is installed: without an environment the script goes on in the running Python.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Two threads that wait for each other by spinning are 40 times slower than one where other programs run;
    # waiting this briefly they are as fast alone, and 2 times slower there.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if os.environ.get("ROBOPOLICY_NO_VENV") == "1":
        return
    if not ready():
        if {"-h", "--help"} & set(sys.argv[1:]):
            return
        install()
    if Path(sys.prefix).resolve() != VENV.resolve():
        line = [str(PYTHON), *sys.argv]
        sys.stdout.flush()
        if WINDOWS:
            sys.exit(subprocess.call(line))
        os.execv(line[0], line)


def ready() -> bool:
    """Whether .venv holds exactly what this clone asks for."""
    try:
        return PYTHON.exists() and STAMP.read_text() == fingerprint()
    except OSError:
        return False


def fingerprint() -> str:
    """Changes with what is to be installed, the interpreter, and the place of the clone."""
    parts = [ROOT / "pyproject.toml", ROOT / "constraints.txt", VENV / "pyvenv.cfg"]
    content = b"\0".join(
        [path.read_bytes() for path in parts] + [str(ROOT).encode(), " ".join(EXTRAS).encode()]
    )
    return hashlib.sha256(content).hexdigest()


def install() -> None:
    """Create or update .venv. The stamp is written last, so an interrupted installation starts over."""
    start = time.time()
    python, facts = _find_python()
    previous = STAMP.read_text() if STAMP.exists() else ""
    if VENV.exists() and (previous == "unfinished" or not _runs(PYTHON)):
        if not previous:
            sys.exit(f"{VENV} is not a working environment and was not made by this script: move it away.")
        say("removing an unfinished or broken .venv")
        shutil.rmtree(VENV)
    if not VENV.exists():
        say(f"making .venv with {python} (Python {'.'.join(map(str, facts['version']))})")
        made = subprocess.run(
            [python, "-m", "venv", str(VENV)], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if made.returncode:
            shutil.rmtree(VENV, ignore_errors=True)
            sys.exit(f"{made.stdout.decode(errors='replace')}\nCould not make {VENV}.")
    STAMP.write_text("unfinished")
    LOG.write_text("")
    pip = ["-c", str(ROOT / "constraints.txt"), *_torch_index()]
    target = f"{ROOT}[{','.join(EXTRAS)}]"
    missing = _missing_for_robosuite(facts)
    if not missing:
        _pip(*pip, "-e", target)
    else:
        say(f"no {', no '.join(missing)}: leaving out robosuite's keyboard and window support")
        _pip(*pip, "--no-deps", "robosuite")
        _pip(*pip, *json.loads(_output(str(PYTHON), __file__, "--requirements")))
        _pip("--no-deps", "-e", target)
    STAMP.write_text(fingerprint())
    say(f"ready after {time.time() - start:.0f} s")


def _find_python() -> tuple:
    """A supported interpreter, the running one if possible, and what it can do."""
    names = [sys.executable]
    for major, minor in SUPPORTED:
        names += [f"python{major}.{minor}"]
    names += ["python3", "python"]
    found = [shutil.which(name) for name in names]
    for base in (os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv")):
        if base:
            found += [
                str(path) for path in sorted(Path(base).glob("versions/3.1[12]*/bin/python"), reverse=True)
            ]
    without_pip = None
    for python in dict.fromkeys(found):
        facts = json.loads(_output(python, "-c", PROBE) or "{}") if python else {}
        if tuple(facts.get("version", ())) in SUPPORTED:
            if facts["pip"]:
                return python, facts
            without_pip = without_pip or (python, facts)
    if without_pip:
        package = "python{}.{}-venv".format(*without_pip[1]["version"])
        if apt(package):
            return without_pip
        sys.exit(
            f"{without_pip[0]} cannot make environments: sudo apt-get install {package}, then run this again."
        )
    sys.exit(
        "robopolicy needs Python 3.11 or 3.12 and found neither (this is {}.{}).\n".format(*sys.version_info)
        + "Install one, then run this again:\n"
        "  Debian 12, Ubuntu 24.04   sudo apt-get install python3 python3-venv\n"
        "  macOS                     brew install python@3.12\n"
        "  anywhere                  https://docs.astral.sh/uv: uv python install 3.12"
    )


def _missing_for_robosuite(facts: dict) -> list:
    """Parts of the system that robosuite's pynput (compiles evdev) and opencv-python (windows) need."""
    if not sys.platform.startswith("linux"):
        return []
    compiler = any(shutil.which(name) for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name)
    header = Path("/usr/include/linux/input.h").exists() and facts["header"]
    libraries = _output("/sbin/ldconfig", "-p") or _output("ldconfig", "-p")
    window = "libGL.so.1" in libraries and "libgthread-2.0.so.0" in libraries
    parts = {"C compiler": compiler, "Python and kernel headers": header, "libGL and GLib": window}
    return [name for name, present in parts.items() if not present]


def _requirements() -> list:
    """What to install beside a robosuite without pynput, which it never needs, and without windows."""
    import importlib.metadata
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    wanted = [text for text in wanted if not text.startswith("robosuite")]
    for text in importlib.metadata.requires("robosuite") or []:
        if not text.startswith("pynput"):
            wanted.append(re.sub(r"^opencv-python\b", "opencv-python-headless", text))
    return wanted


def _torch_index() -> list:
    """pip arguments that find torch without CUDA, where there is no NVIDIA device."""
    if sys.platform == "darwin" or shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        return []
    answered = []

    def probe() -> None:
        try:
            request = urllib.request.Request(TORCH_CPU + "/torch/", method="HEAD")
            with urllib.request.urlopen(request, timeout=3):
                answered.append(True)
        except Exception:  # noqa: BLE001 - whatever is wrong, the default index remains
            pass

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(3.5)  # a name server that does not answer has a timeout of its own, and a longer one
    if answered:
        say("no NVIDIA device: torch for the CPU (about 600 MB of downloads in all)")
        return ["--extra-index-url", TORCH_CPU]
    say(f"no NVIDIA device, but {TORCH_CPU} does not answer: torch comes from pip's own index, and if that")
    say("has only the CUDA build, with its libraries: about 3.3 GB of downloads, 6.5 GB on disk")
    return []


def _pip(*arguments: str) -> None:
    line = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--progress-bar",
        "off",
        "--disable-pip-version-check",
        *arguments,
    ]
    start, shown, tty = time.time(), 0.0, sys.stdout.isatty()
    with open(str(LOG), "a", errors="replace") as log:
        log.write("$ " + " ".join(line) + "\n")
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
        try:
            for text in process.stdout or ():
                log.write(text)
                log.flush()
                step = re.match(r"\s*(Collecting|Downloading|Building|Installing)\b.*", text)
                # A terminal has one line that changes; elsewhere every tenth second is enough.
                if step and (tty or time.time() - shown > 10):
                    shown = time.time()
                    status = f"[setup] {shown - start:4.0f} s  {step.group(0).strip()}"
                    width = shutil.get_terminal_size().columns - 1
                    print(
                        f"\r{status[:width]:<{width}}" if tty else status[:110],
                        end="" if tty else "\n",
                        flush=True,
                    )
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            print("\nInterrupted: run the same command again to go on.", file=sys.stderr)
            sys.exit(130)
        finally:
            if tty:
                print("\r\033[K", end="", flush=True)
        code = process.wait()
    if code:
        tail = "".join(LOG.read_text(errors="replace").splitlines(keepends=True)[-20:])
        sys.exit(
            f"{tail}\nThe installation failed. The whole log is {LOG}; to retry, run the same command again."
        )


def ensure_rendering() -> str:
    """The MuJoCo rendering backend to use, after installing one where that is possible ("" if none works)."""
    import _rendering

    return _rendering.ensure()


def apt(*packages: str) -> bool:
    """Install Debian packages, if this is root on Debian or Ubuntu; whether that worked."""
    if not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    say(f"installing {' '.join(packages)} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
    # Package lists may be absent (containers) or old; a failing update does not rule out the installation.
    for line, limit in (
        (["apt-get", "update", "-q", *wait], 180),
        (["apt-get", "install", "-q", "-y", "--no-install-recommends", *wait, *packages], 300),
    ):
        try:
            run = subprocess.run(
                line,
                check=False,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            say(f"{' '.join(line[:2])} took more than {limit} s")
            return False
    if run.returncode:
        say("that did not work: " + run.stdout.decode(errors="replace").strip()[-300:])
    return run.returncode == 0


def _runs(python: Path) -> bool:
    return bool(_output(str(python), "-m", "pip", "--version"))


def _output(*line: str) -> str:
    try:
        run = subprocess.run(
            line, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.decode(errors="replace") if run.returncode == 0 else ""


if __name__ == "__main__":
    if sys.argv[1:] == ["--requirements"]:
        print(json.dumps(_requirements()))
    elif sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
    else:
        ensure()
        if sys.argv[1:]:
            os.chdir(str(ROOT))
            sys.exit(subprocess.call([sys.executable, "-m", *sys.argv[1:]]))
