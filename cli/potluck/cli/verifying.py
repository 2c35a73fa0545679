"""`potluck verify`: is this release, or this log, whole, and whose is it?"""

from dataclasses import fields
from pathlib import Path

from potluck.aggregation.errors import BadSetting
from potluck.cli.report import show
from potluck.cli.watch import plain
from potluck.wire.audit import verify_log
from potluck.wire.releases import verify_release


def run_verify(path: Path, coordinator: str, *, as_json: bool) -> None:
    """Verify *path*; with *coordinator*, also that it is that coordinator's."""
    if not path.exists():
        raise BadSetting(f"{path} does not exist", fix="name a release folder, or a log.jsonl")
    found = verify_release(path) if path.is_dir() else verify_log(path)
    if coordinator not in ("", found.coordinator_id):
        raise BadSetting(
            f"it is signed by {found.coordinator_id}, not by {coordinator}",
            fix="get it from the coordinator that you trust",
        )
    facts = {field.name: plain(getattr(found, field.name)) for field in fields(found) if field.name != "facts"}
    show({"whole": str(path), **facts}, as_json=as_json)
