"""`potluck personalize`, and what `try` and `export` do with --personal: an adapter of one's own, kept sealed here."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, final

import typer

from potluck.aggregation import LowRank
from potluck.aggregation.errors import BadSetting, PotluckError
from potluck.cli.report import say, show, table
from potluck.client import data
from potluck.client.flags import Flagger, sieve_of
from potluck.client.home import Home
from potluck.client.limits import UNKEEP, limits_at
from potluck.client.outbox.store import Outbox, joined
from potluck.client.personal import About, Losses, Personal, Wish
from potluck.client.records import Membership
from potluck.client.starts import adapter_at
from potluck.client.training import bases
from potluck.client.training.local import base_of
from potluck.client.training.personal import Ground, fitting, personalize
from potluck.client.vault import Key, Keyring, Passphrase, Seal, kind_of, system_keyring, unseal
from potluck.client.work import Stride, Word
from potluck.wire.recipe import Recipe

VARIABLE: Final = "POTLUCK_PASSPHRASE"
EVERY: Final = 10  # steps between two lines about them


class NoPersonal(PotluckError):
    """There is no personal adapter here."""


@final
@dataclass(frozen=True, slots=True)
class Personalizing:
    """What `potluck personalize` was asked for; None where the owner did not say."""

    data: Path | None
    wish: Mapping[str, Any]  # fields of Wish that were named
    passphrase: bool
    anew: bool


@final
@dataclass(frozen=True, slots=True)
class Here:
    """The run that this home is in, and the newest shared adapter that its session downloaded."""

    home: Home
    member: Membership
    recipe: Recipe
    base: bases.Base
    adapter: Mapping[str, LowRank]
    version: int

    @property
    def path(self) -> Path:
        """Where the personal adapter is."""
        return self.home.personal(self.member.run_id)


def here(*, quiet: bool) -> Here:
    """Return the run that the user's home is in.

    Raises:
        NotJoined: it is in none.
        BadSetting: no shared adapter was downloaded yet.
    """
    home = Home.of_user(os.environ)
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
    base = base_of(recipe, home.cache, (lambda _: None) if quiet else say)
    return Here(home, member, recipe, base, adapter, shared.version)


def run_personalize(asked: Personalizing, *, as_json: bool) -> None:
    """Train a personal adapter over the newest shared one, or train the one that is here on; seal it; say what it did.

    Raises:
        BadSetting: it is over the newest version already, or an option differs from what it was made with.
        BadPassphrase, NoKeyring, Locked: there is no key to keep it with, which is found out before training.
        HomeInUse: another process personalizes in this home.
    """
    with Home.of_user(os.environ).personalizing():
        _personalize(asked, as_json=as_json)


def _personalize(asked: Personalizing, *, as_json: bool) -> None:
    run = here(quiet=as_json)
    before = earlier(run, asked)
    key = key_for(run, before_path=run.path if before else None, passphrase=asked.passphrase)
    personal = personal_at(run, key) if before else None
    sealing = Seal.of(_sealed_with(key, asked))
    wish, path = wished(asked, personal, run)
    about = About(
        run_id=run.member.run_id,
        run_name=run.member.run_name,
        version=run.version,
        recipe_digest=run.recipe.digest().hex(),
        base_digest=run.base.digest,
        data_path=str(path),
        wish=wish,
    )
    made = personalize(ground_of(run, path, as_json=as_json), about, personal, _teller(as_json=as_json))
    sealing.close(made.to_bytes(), run.path)
    tell(made, run.path, as_json=as_json)


def earlier(run: Here, asked: Personalizing) -> bool:
    """Whether training goes on from what is here."""
    return run.path.exists() and not asked.anew


def wished(asked: Personalizing, personal: Personal | None, run: Here) -> tuple[Wish, Path]:
    """Return how to train, and on what: as asked, else as before, else as the run does.

    Raises:
        BadSetting: it contradicts what the adapter here was made with, or there is nothing to do.
    """
    if personal is None:
        return Wish(**asked.wish), (asked.data or Path(run.member.data_path)).absolute()
    about = personal.about
    shaped = {name for name in asked.wish if name in {"rank", "gated", "share_a"}}
    if odd := [name for name in shaped if asked.wish[name] != getattr(about.wish, name)]:
        raise BadSetting(
            f"the personal adapter here was made with another {' and '.join(sorted(odd))}",
            fix="leave the option out, or begin again with --anew",
        )
    path = (asked.data or Path(about.data_path)).absolute()
    if about.version == run.version and str(path) == about.data_path:
        raise BadSetting(
            f"the personal adapter is over version {run.version} already, the newest that is here",
            fix="wait for the next version, name other text with --data, or begin again with --anew",
        )
    return Wish(**(asdict(about.wish) | dict(asked.wish))), path


def personal_of(run: Here) -> Personal:
    """Return the owner's personal adapter over this run's shared one.

    Raises:
        NoPersonal: there is none.
        Locked: it cannot be opened.
        BadAdapter: it was made for another base model.
    """
    if not run.path.exists():
        raise NoPersonal(
            f"there is no personal adapter for {run.member.run_name!r} here",
            fix="make one: potluck personalize --data FOLDER",
        )
    return personal_at(run, key_for(run, before_path=run.path, passphrase=False))


def personal_at(run: Here, key: Key) -> Personal:
    """Open the personal adapter with *key*."""
    personal = Personal.of_bytes(unseal(run.path, key))
    fitting(personal, run.recipe)
    return personal


def kept_words(dataset: data.Dataset, *, keeps: bool) -> str:
    """Return what to say where samples are trained on although they are flagged, or nothing."""
    count = Flagger().sieve(dataset, keep=True).flagged if keeps else 0
    told = f"{count} of your samples look secret or personal and are trained on, as you wished; {UNKEEP}"
    return told if count else ""


def ground_of(run: Here, path: Path, *, as_json: bool) -> Ground:
    """Return what a personal adapter is trained on, and say where that holds flagged samples; loads the base model."""
    limits, kind = limits_at(run.home.limits), run.recipe.data
    dataset = data.read(path, kind.format)
    if told := kept_words(dataset, keeps=limits.keep_flagged):
        show({"event": "flagged", "human": told}, as_json=True) if as_json else say(told)
    samples = sieve_of(keep_flagged=limits.keep_flagged)(dataset).samples
    texts = data.split(samples, kind.held_out, data.SPLIT_SEED)
    return Ground.at(run.base, run.recipe, run.adapter, texts, limits.threads(os.cpu_count() or 1))


def key_for(run: Here, *, before_path: Path | None, passphrase: bool) -> Key:
    """Return the key of the file that is there, or of a new one: the system's keyring, unless told otherwise.

    Raises:
        NoKeyring: there is none, and no passphrase was asked for.
        BadSetting: nobody is here to type one.
    """
    kind = kind_of(before_path) if before_path else "passphrase" if passphrase else "keyring"
    if kind == "passphrase":
        return Passphrase(_typed(new=before_path is None))
    name = f"personal-{sha256(str(run.home.folder).encode()).hexdigest()[:16]}"
    return Keyring(system_keyring(), name)


def _sealed_with(key: Key, asked: Personalizing) -> Key:
    """Return what seals from now on: what opened, unless the owner asks for a passphrase in a keyring's place."""
    return Passphrase(_typed(new=True)) if asked.passphrase and key.kind == "keyring" else key


def tell(made: Personal, path: Path, *, as_json: bool) -> None:
    """Say what came out: losses by arm, before and after where training went on."""
    about = made.about
    after = about.losses
    if after is None:
        raise BadSetting("the personal adapter was not measured", fix="report this bug")
    facts = {"over": f"{about.run_name} version {about.version}", "kept": str(path), "sealed": "yes, AES-256-GCM"}
    if as_json:
        told = {"losses": asdict(after), "before": None if about.before is None else asdict(about.before)}
        show({"event": "personalized", "version": about.version, "kept": str(path), **told}, as_json=True)
        return
    show(facts)
    say("", "Nats per token on your held-out text, which nothing was trained on; less is better:")
    columns = ["", "base", "shared", "personal", "both", "exported"]
    before = [] if about.before is None else [["before", *_row(about.before)]]
    table(columns, [*before, ["now", *_row(after)]])
    if after.both >= after.shared:
        say("", "It is no better than the shared adapter on your held-out text: more text would help it most.")
    say("", 'use it: potluck try --personal "a prompt"        take it out: potluck export --personal --to FOLDER')


def rebased(run: Here, personal: Personal) -> str:
    """Return what to say where a newer shared version is under the adapter than it was trained over, or nothing."""
    made_over = personal.about.version
    if made_over == run.version:
        return ""
    return (
        f"your adapter was trained over version {made_over} and is used over version {run.version} now; "
        "`potluck personalize` trains it on"
    )


def _row(losses: Losses) -> list[str]:
    return [f"{value:.3f}" for value in asdict(losses).values()]


def _typed(*, new: bool) -> str:
    """Return the passphrase: from the environment, or typed."""
    found = os.environ.get(VARIABLE)
    if found:
        return found
    if not sys.stdin.isatty():
        raise BadSetting("nobody is here to type the passphrase", fix=f"set {VARIABLE} for this command")
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new))


def _teller(*, as_json: bool) -> Callable[[Stride], Word]:
    """Return what tells the owner how far training is."""

    def on_step(stride: Stride) -> Word:
        if stride.done % EVERY == 0 or stride.done == stride.total:
            loss = f"{stride.loss:.3f}" if stride.loss is not None else "?"
            if as_json:
                show({"event": "step", "done": stride.done, "total": stride.total, "loss": stride.loss}, as_json=True)
            else:
                say(f"step {stride.done} of {stride.total}, loss {loss}")
        return Word.GO

    return on_step
