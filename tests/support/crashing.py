"""Running the client that crashes on demand."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "crashing_client.py"


def run_client(folder: Path, seed: int, *at: str, patience_s: float = 30.0) -> tuple[int, str]:
    """Run one session of the client, which dies *at* a state and side; return its exit status and what it said."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(seed), *at],
        stdout=subprocess.PIPE,
        text=True,
        timeout=patience_s,
        check=False,
    )
    return done.returncode, done.stdout.strip()
