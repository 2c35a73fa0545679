"""What came out, used: `potluck try` and `potluck export`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from potluck.aggregation import LowRank
from potluck.aggregation.errors import BadSetting
from potluck.cli.report import say, show
from potluck.client.home import Home
from potluck.client.outbox.store import Outbox, joined
from potluck.client.readers import Part
from potluck.client.starts import adapter_at
from potluck.client.training import bases
from potluck.client.training.adapters import mount
from potluck.client.training.export import CONFIG, read_peft, write_merged, write_peft
from potluck.client.training.generate import Sampling, reply
from potluck.client.training.gguf_lora import write_gguf
from potluck.client.training.local import base_of
from potluck.wire.recipe import Recipe

FORMATS: Final = ("peft", "merged", "gguf")


@final
@dataclass(frozen=True, slots=True)
class Asking:
    """What `potluck try` was asked for."""

    prompt: str
    adapter: Path | None
    tokens: int
    temperature: float


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """A shared adapter and the base model that it is for."""

    base: bases.Base
    adapter: Mapping[str, LowRank]
    name: str


def try_both(asked: Asking, *, as_json: bool) -> None:
    """Put one prompt to the base and to the base with the adapter."""
    if not asked.prompt.strip():
        raise BadSetting("the prompt is empty", fix='say something: potluck try "What is love?"')
    shared = shared_adapter(asked.adapter, quiet=as_json)
    device = bases.pick_device()
    model, tokenizer = bases.load(shared.base, device, bases.pick_dtype(device))
    adapted = mount(model, shared.adapter)
    turns = (Part(role="user", text=asked.prompt, trained=False),)
    sampling = Sampling(max_new_tokens=asked.tokens, temperature=asked.temperature)
    answers = {}
    for name, on in ((f"base ({shared.base.name})", False), (f"shared ({shared.name})", True)):
        answers[name] = reply(adapted, tokenizer, turns, sampling, adapters=on)
        if not as_json:
            say(f"── {name}", *answers[name].split("\n"), "")
    if as_json:
        show({"prompt": asked.prompt, **answers}, as_json=True)


def export_to(to: Path, form: str, adapter: Path | None, *, as_json: bool) -> None:
    """Write the shared adapter for other programs."""
    if form not in FORMATS:
        raise BadSetting(f"there is no format {form!r}", fix=f"use one of {', '.join(FORMATS)}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadSetting(f"{to} exists and is not empty", fix="name a new folder: --to FOLDER")
    shared = shared_adapter(adapter, quiet=as_json)
    if form == "peft":
        write_peft(shared.adapter, to, base=shared.base.name)
    elif form == "gguf":
        to.mkdir(parents=True, exist_ok=True)
        write_gguf(shared.base, shared.adapter, to / "adapter.gguf")
    else:
        write_merged(shared.base, shared.adapter, to)
    show({"wrote": str(to), "format": form, "adapter": shared.name, "base": shared.base.name}, as_json=as_json)


def shared_adapter(folder: Path | None, *, quiet: bool) -> Shared:
    """Return the adapter in a release *folder*, or the newest one that this home's session downloaded.

    Raises:
        BadSetting: there is none yet.
    """
    home = Home.of_user(os.environ)
    told = (lambda _: None) if quiet else say
    if folder is not None:
        config = read_config(folder)
        name, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision") or "main"
        return Shared(
            bases.resolve(name, revision=revision, cache=home.cache, progress=told), read_peft(folder), str(folder)
        )
    outbox = Outbox.open(home.outbox)
    try:
        member = joined(outbox)
        shared = outbox.shared(member.run_id)
    finally:
        outbox.close()
    if shared is None:
        raise BadSetting(
            f"{member.run_name!r} has no shared adapter here yet",
            fix="let `potluck join` run until the first version is there, or name a release: --adapter FOLDER",
        )
    recipe = Recipe.offered(member.recipe_json)
    adapter = adapter_at(home.blob(shared.digest), recipe)
    return Shared(base_of(recipe, home.cache, told), adapter, f"{member.run_name} version {shared.version}")


def read_config(folder: Path) -> dict[str, Any]:
    """Return a PEFT folder's configuration.

    Raises:
        BadSetting: there is none.
    """
    try:
        found = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadSetting(f"{folder} is no release: {error}", fix=f"name a folder that holds {CONFIG}") from None
    if not isinstance(found, dict):
        raise BadSetting(f"{folder / CONFIG} is no JSON object", fix="get the release again")
    return found
