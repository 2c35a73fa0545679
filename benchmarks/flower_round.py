"""Flower's side of transport.py: rounds of its deployment runtime with one SuperNode, on loopback, without TLS.

Flower keeps its own environment, because its pins differ.  A SuperLink and a SuperNode are started on free ports, and
`flwr run` gives them the app in flower_echo.py.  The ServerApp times each round from arrays to arrays.  Telemetry, the
update check and the installation of dependencies are off, and Flower's home is a temporary folder.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from timed import Timed, used_by_trees

WAIT_S = 120
ROUND_WAIT_S = 700
ASK = "import importlib.metadata as m, sysconfig; print(m.version('flwr')); print(sysconfig.get_path('scripts'))"
APP = """
[project]
name = "echo"
version = "1.0.0"
description = "Arrays there and back"
dependencies = []

[tool.flwr.app]
publisher = "potluck"

[tool.flwr.app.components]
serverapp = "flower_echo:server"
clientapp = "flower_echo:client"

[tool.flwr.app.config]
port = 0
"""

Shapes = list[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Flower:
    """An environment in which Flower is installed."""

    version: str
    programs: Path

    @classmethod
    def of(cls, python: str) -> "Flower":
        """Ask *python* which Flower it has.

        Raises:
            SystemExit: it has none.
        """
        try:
            asked = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            raise SystemExit(
                f"--flower {python}: flwr is not installed there ({type(problem).__name__})\n"
                f"  fix: {python} -m pip install 'flwr>=1.41,<1.43'"
            ) from problem
        version, programs = asked.stdout.splitlines()
        return cls(version, Path(programs))

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables of a process of Flower's that keeps its things in *home*."""
        kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        return kept | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            "PATH": os.pathsep.join([str(self.programs), os.environ.get("PATH", "")]),  # it starts its own by name
        }


@dataclass(frozen=True, slots=True)
class Site:
    """A folder in which Flower runs."""

    flower: Flower
    folder: Path

    @property
    def home(self) -> Path:
        """Flower's home, which also marks the processes that are ours to end."""
        return self.folder / "home"

    def start(self, program: str, *arguments: str) -> psutil.Popen:
        """Start a program of Flower's, with its output in a log."""
        with (self.folder / f"{program}.log").open("ab") as log:
            return psutil.Popen(
                [self.flower.programs / program, *arguments],
                env=self.flower.environment(self.home),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def logs(self) -> str:
        """Return the ends of all logs."""
        ends = [
            f"-- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in sorted(self.folder.glob("*.log"))
        ]
        return "\n".join(ends)

    def write_app(self, superlink: str) -> Path:
        """Write the app, and the configuration that points `flwr run` at *superlink*; return the app's folder."""
        app = self.folder / "app"
        app.mkdir()
        self.home.mkdir()
        shutil.copy(Path(__file__).with_name("flower_echo.py"), app)
        (app / "pyproject.toml").write_text(APP)
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "loopback"\n[superlink.loopback]\naddress = "{superlink}"\ninsecure = true\n'
        )
        return app

    def end(self) -> None:
        """End every process whose FLWR_HOME is ours: the SuperExecs and apps are detached from what started them."""
        for _attempt in range(5):
            ours = [one for one in psutil.process_iter() if is_at(one, self.home)]
            if not ours:
                return
            for one in ours:
                with_care(one.terminate)
            for one in psutil.wait_procs(ours, timeout=10)[1]:
                with_care(one.kill)
            psutil.wait_procs(ours, timeout=10)
        raise RuntimeError(f"processes of Flower's are left: {ours}")


def is_at(process: psutil.Process, home: Path) -> bool:
    """Tell whether *process* runs with this Flower home."""
    try:
        return process.environ().get("FLWR_HOME") == str(home)
    except (psutil.Error, OSError):
        return False


def with_care(signal: Callable[[], None]) -> None:
    """Send *signal* to a process that may have ended meanwhile."""
    try:
        signal()
    except psutil.NoSuchProcess:
        return


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def wait_for(port: int, process: psutil.Popen) -> None:
    """Wait until *process* listens on *port*."""
    pause, deadline = threading.Event(), time.monotonic() + WAIT_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
        pause.wait(0.1)


@contextmanager
def runtime(site: Site) -> Iterator[tuple[Path, list[psutil.Process]]]:
    """Run a SuperLink and a SuperNode; give the app's folder and both processes."""
    link_port, node_port = map(str, free_ports(2))
    superlink = f"127.0.0.1:{link_port}"
    app = site.write_app(superlink)
    try:
        link = site.start(
            "flower-superlink",
            *("--insecure", "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", link_port),
        )
        wait_for(int(link_port), link)
        node = site.start("flower-supernode", "--insecure", "--superlink", superlink, "--port", node_port)
        yield app, [link, node]
    except BaseException:
        print(site.logs(), file=sys.stderr)
        raise
    finally:
        site.end()


def flower_rounds(flower: Flower, shapes: Shapes, rounds: int) -> list[Timed]:
    """Return what *rounds* rounds took, with the processor time of every process of Flower's."""
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as listening,
        runtime(site := Site(flower, Path(folder))) as (app, roots),
    ):
        listening.settimeout(WAIT_S)
        asked = site.start("flwr", "run", str(app), "--run-config", f"port={listening.getsockname()[1]}")
        if status := asked.wait(WAIT_S):
            raise RuntimeError(f"flwr run ended with {status}")
        line, _ = listening.accept()
        line.settimeout(ROUND_WAIT_S)
        with line, line.makefile("rw", encoding="utf-8") as talk:
            print(json.dumps(shapes), file=talk, flush=True)
            for _ in range(rounds):
                told(talk.readline(), "ready")
                before = used_by_trees(roots)
                print(file=talk, flush=True)
                wall_s = told(talk.readline(), "wall_s")
                found.append(Timed(wall_s, used_by_trees(roots) - before))
    return found


def told(line: str, word: str) -> float:
    """Return what the ServerApp said under *word*."""
    if not line:
        raise RuntimeError("the ServerApp ended")
    return json.loads(line)[word]
