"""What came out, used: `potluck try` and `potluck export`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from potluck.aggregation import LowRank
from potluck.aggregation.errors import BadSetting
from potluck.cli.personalizing import Here, here, personal_of, rebased
from potluck.cli.report import say, show, warn
from potluck.client.data import Split
from potluck.client.home import Home
from potluck.client.readers import Part
from potluck.client.training import bases
from potluck.client.training.adapters import detach, mount
from potluck.client.training.export import CONFIG, read_peft, write_merged, write_peft
from potluck.client.training.generate import Sampling, reply
from potluck.client.training.gguf_lora import write_gguf
from potluck.client.training.personal import Ground, carrying

FORMATS: Final = ("peft", "merged", "gguf")


@final
@dataclass(frozen=True, slots=True)
class Asking:
    """What `potluck try` was asked for."""

    prompt: str
    adapter: Path | None
    tokens: int
    temperature: float
    personal: bool = False


@final
@dataclass(frozen=True, slots=True)
class Exporting:
    """What `potluck export` was asked for."""

    to: Path
    form: str
    adapter: Path | None
    personal: bool = False


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """A shared adapter and the base model that it is for."""

    base: bases.Base
    adapter: Mapping[str, LowRank]
    name: str


def try_all(asked: Asking, *, as_json: bool) -> None:
    """Put one prompt to the base, to the base with the shared adapter, and to both with the personal one on it."""
    if not asked.prompt.strip():
        raise BadSetting("the prompt is empty", fix='say something: potluck try "What is love?"')
    if asked.personal:
        _only_one(asked.adapter)
        run = here(quiet=as_json)
        personal = personal_of(run)  # before the base model is loaded: a wrong passphrase is told at once
        shared = _shared_of(run)
    else:
        shared, personal = shared_adapter(asked.adapter, quiet=as_json), None
    device = bases.pick_device()
    model, tokenizer = bases.load(shared.base, device, bases.pick_dtype(device))
    speaker = _Speaker(asked, tokenizer, as_json=as_json)
    adapted = mount(model, shared.adapter)
    speaker.hear(f"base ({shared.base.name})", adapted, adapters=False)
    speaker.hear(f"shared ({shared.name})", adapted)
    detach(adapted)
    if personal is not None:
        name = f"personal (over {shared.name})"
        with carrying(Ground(model, tokenizer, run.recipe, run.adapter, Split((), ())), personal) as both:
            speaker.hear(name, both)
        if rest := rebased(run, personal):
            warn(rest)
    if as_json:
        show({"prompt": asked.prompt, **speaker.answers}, as_json=True)


@final
@dataclass(slots=True)
class _Speaker:
    """Puts the prompt to one model after the other."""

    asked: Asking
    tokenizer: Any
    as_json: bool = field(kw_only=True)
    answers: dict[str, str] = field(default_factory=dict)

    def hear(self, name: str, model: Any, *, adapters: bool = True) -> None:  # noqa: ANN401 - torch's
        """Keep what *model* answers, and say it."""
        turns = (Part(role="user", text=self.asked.prompt, trained=False),)
        sampling = Sampling(max_new_tokens=self.asked.tokens, temperature=self.asked.temperature)
        self.answers[name] = reply(model, self.tokenizer, turns, sampling, adapters=adapters)
        if not self.as_json:
            say(f"── {name}", *self.answers[name].split("\n"), "")


def export_to(asked: Exporting, *, as_json: bool) -> None:
    """Write the shared adapter for other programs; with the personal one in it, if that was asked for."""
    to, form = asked.to, asked.form
    if form not in FORMATS:
        raise BadSetting(f"there is no format {form!r}", fix=f"use one of {', '.join(FORMATS)}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadSetting(f"{to} exists and is not empty", fix="name a new folder: --to FOLDER")
    shared = _with_personal(asked, quiet=as_json) if asked.personal else shared_adapter(asked.adapter, quiet=as_json)
    if form == "peft":
        write_peft(shared.adapter, to, base=shared.base.name)
    elif form == "gguf":
        to.mkdir(parents=True, exist_ok=True)
        write_gguf(shared.base, shared.adapter, to / "adapter.gguf")
    else:
        write_merged(shared.base, shared.adapter, to)
    show({"wrote": str(to), "format": form, "adapter": shared.name, "base": shared.base.name}, as_json=as_json)


def _with_personal(asked: Exporting, *, quiet: bool) -> Shared:
    """Return shared + personal as one adapter, and say what that means."""
    _only_one(asked.adapter)
    run = here(quiet=quiet)
    personal = personal_of(run)
    losses = personal.about.losses
    if personal.gates and losses is not None:
        warn(
            "no other program has this adapter's gate: each module counts by the one number that comes closest; "
            f"on your held-out text {losses.exported:.3f} nats per token instead of {losses.both:.3f}"
        )
    warn("what is written holds your personal adapter, and is not encrypted")
    if rest := rebased(run, personal):
        warn(rest)
    shared = _shared_of(run)
    return Shared(shared.base, personal.beside(run.adapter), f"{shared.name} with your personal adapter")


def _only_one(adapter: Path | None) -> None:
    """Refuse a release beside --personal."""
    if adapter is not None:
        raise BadSetting("--adapter and --personal cannot go together", fix="leave --adapter out")


def _shared_of(run: Here) -> Shared:
    return Shared(run.base, run.adapter, f"{run.member.run_name} version {run.version}")


def shared_adapter(folder: Path | None, *, quiet: bool) -> Shared:
    """Return the adapter in a release *folder*, or the newest one that this home's session downloaded.

    Raises:
        BadSetting: there is none yet.
    """
    if folder is None:
        return _shared_of(here(quiet=quiet))
    home = Home.of_user(os.environ)
    config = read_config(folder)
    name, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision") or "main"
    base = bases.resolve(name, revision=revision, cache=home.cache, progress=(lambda _: None) if quiet else say)
    return Shared(base, read_peft(folder), str(folder))


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
