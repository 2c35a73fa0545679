"""Mistakes that a tired person makes, each through the real command: told, with what to do, and nothing broken.

The table is the test.  A case prepares the mistake and returns what is typed; a message and a fix must come back with
exit status 1, and what was there before must be there unchanged.
"""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commands import calm_home, notes, potluck, recipe_at
from coordinators import Hosted, hosting
from fakes import Client
from potluck.client.home import Home
from potluck.client.outbox.store import Outbox
from potluck.client.tasks import MembershipState
from potluck.client.training.completing import completed
from potluck.coordinator.desk import Desk
from potluck.coordinator.server import Coordinator
from potluck.wire.recipe import Recipe
from tiny import tiny_base

DATABASE = re.compile(r"coordinator\.(db(-wal|-shm)?|lock)$")  # compared by what it holds, not by its bytes


@dataclass
class Place:
    """Where a case happens: a folder, a home, a base model, and a coordinator that is as it should be."""

    folder: Path
    base: Path
    hosted: Hosted
    open: ExitStack
    coordinators: list[Hosted] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def notes(self) -> Path:
        return notes(self.folder / "notes")

    def text(self, name: str, content: str) -> Path:
        (self.folder / name).write_text(content, "utf-8")
        return self.folder / name

    def recipe(self, **tables) -> Path:
        return recipe_at(self.folder / "recipe.toml", self.base, **tables)

    def whole(self, **tables) -> Recipe:
        """Return a recipe that is filled in."""
        return completed(Recipe.read(self.recipe(**tables)), self.folder / "cache")

    def host(self, *words: object) -> tuple[object, ...]:
        """Return the command that hosts, in a folder and at a port that are free unless *words* say otherwise."""
        return ("host", *words, "--folder", self.run, *(() if "--listen" in words else ("--listen", "127.0.0.1:0")))

    def join(self, invite: str, data: Path | None = None) -> tuple[object, ...]:
        return ("join", invite, "--data", data or self.notes(), "--yes")

    def joined(self) -> None:
        """Make this home a member of the good run."""
        Client(self.folder).enrol(self.hosted.invite())

    def listening(self) -> socket.socket:
        """Listen at a port, as some other program does."""
        return self.open.enter_context(socket.create_server(("127.0.0.1", 0)))

    def coordinator(self, recipe: Recipe) -> Hosted:
        """Host another run."""
        made = self.open.enter_context(hosting(self.folder / "other", recipe))
        self.coordinators.append(made)
        return made


Words = tuple[object, ...]


@dataclass(frozen=True)
class Mistake:
    """What is typed, what must be said, and what the fix must be about; a pattern each."""

    typed: Callable[[Place], Words]
    said: str
    fix: str
    state: MembershipState | None = None  # of the home, afterwards
    asked: bool = False  # whether the coordinator was asked to let in, which takes a key of one's own


# -- the operator's -----------------------------------------------------------------------------------------------


def port_in_use(place: Place) -> Words:
    return place.host(place.recipe(), "--listen", f"127.0.0.1:{place.listening().getsockname()[1]}")


def second_host(place: Place) -> Words:
    recipe = place.text("recipe.json", place.hosted.coordinator.desk.site.plan.json)
    return ("host", recipe, "--folder", place.hosted.folder, "--listen", "127.0.0.1:0")


def another_rank(place: Place) -> Words:
    Coordinator.open(place.run, place.whole()).stop()
    changed = place.whole(adapter={"rank": 3})
    return place.host(place.text("changed.json", changed.to_json()))


def version_that_is_not_there(place: Place) -> Words:
    Coordinator.open(place.run, place.whole()).stop()
    return ("rollback", 7, "--folder", place.run)


# -- the volunteer's ----------------------------------------------------------------------------------------------


def expired(place: Place) -> Words:
    token = place.hosted.invite(expires_s=60)
    place.hosted.clock.time_s += 3_600 * 2
    return place.join(token)


def spent(place: Place) -> Words:
    token = place.hosted.invite(uses=1)
    place.hosted.volunteer(seed=1, token=token)
    return place.join(token)


def tampered(place: Place) -> Words:
    token = place.hosted.invite()
    middle = len(token) // 2
    return place.join(token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :])


def foreign(place: Place) -> Words:
    """The invite is A's, and B listens at the address: a coordinator that was set up anew, or somebody else's."""
    other = place.coordinator(place.whole())
    return place.join(place.hosted.coordinator.invite([other.address], 1))


def no_coordinator_at_all(place: Place) -> Words:
    port = place.listening().getsockname()[1]
    place.open.close()
    return place.join(place.hosted.coordinator.invite([f"127.0.0.1:{port}"], 1))


def empty_folder(place: Place) -> Words:
    (place.folder / "empty").mkdir()
    return place.join(place.hosted.invite(), place.folder / "empty")


def unreadable(place: Place) -> Words:
    """A link to a disk that is not plugged in: unreadable for root, too."""
    (place.folder / "text").mkdir()
    (place.folder / "text" / "diary.txt").symlink_to(place.folder / "unplugged" / "diary.txt")
    return place.join(place.hosted.invite(), place.folder / "text")


def junk(place: Place) -> Words:
    (place.folder / "text").mkdir()
    (place.folder / "text" / "photo.txt").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8)
    return place.join(place.hosted.invite(), place.folder / "text")


def photos(place: Place) -> Words:
    (place.folder / "text").mkdir()
    (place.folder / "text" / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return place.join(place.hosted.invite(), place.folder / "text")


def one_line(place: Place) -> Words:
    return place.join(place.hosted.invite(), place.text("note.txt", "Buy milk."))


def other_weights(place: Place) -> Words:
    """The base model here has the name and the size that it should have, and other numbers."""
    base = tiny_base(place.folder / "base", seed=1)
    recipe = completed(Recipe.read(recipe_at(place.folder / "recipe.toml", base)), place.folder / "cache")
    other = place.coordinator(recipe)
    tiny_base(base, seed=2)
    return place.join(other.invite())


def second_join(place: Place) -> Words:
    place.joined()
    place.open.enter_context(Home.at(place.home).occupied())
    return ("join",)


def second_join_elsewhere(place: Place) -> Words:
    """With another invite: the first one's membership must not be changed under its feet."""
    place.joined()
    place.open.enter_context(Home.at(place.home).occupied())
    return place.join(place.hosted.invite())


# -- anybody's ----------------------------------------------------------------------------------------------------


def nothing_yet(place: Place) -> Words:
    place.joined()
    return ("try", "Hello?")


def export_over_something(place: Place) -> Words:
    place.joined()
    return ("export", "--to", place.notes())


MISTAKES = {
    "a recipe that is no TOML": Mistake(
        lambda p: p.host(p.text("recipe.toml", "[run\nname = tiny")), r"recipe\.toml is not TOML", "correct that line"
    ),
    "a recipe with a key that does not exist": Mistake(
        lambda p: p.host(p.recipe(aggregation={"chort": 2})),
        r"no setting is called aggregation\.chort",
        "did you mean 'cohort'",
    ),
    "a recipe with a word for a number": Mistake(
        lambda p: p.host(p.recipe(adapter={"rank": "two"})), r"adapter\.rank is 'two'", "rank: Columns of B"
    ),
    "a recipe that asks for what is not there": Mistake(
        lambda p: p.host(p.recipe(privacy={"secure_aggregation": True})),
        "a sum needs a cohort that meets",
        'set mode = "synchronous"',
    ),
    "a recipe that is not there": Mistake(
        lambda p: p.host(p.folder / "recipee.toml"), r"recipee\.toml cannot be read", "check the path"
    ),
    "a folder for a recipe": Mistake(lambda p: p.host(p.notes()), "cannot be read: Is a directory", "check the path"),
    "a base model that is nowhere": Mistake(
        lambda p: p.host(p.recipe(model={"base": "./models/tniy"})),
        "'./models/tniy' is no folder here",
        "check the name",
    ),
    "a target that the model lacks": Mistake(
        lambda p: p.host(p.recipe(adapter={"targets": ["q_proj", "c_attn"]})),
        "no linear module called c_attn",
        r"use down_proj, .*q_proj",
    ),
    "a port that is in use": Mistake(port_in_use, r"cannot listen on 127\.0\.0\.1:\d+: .*in use", "choose another"),
    "an address to listen on without a port": Mistake(
        lambda p: p.host(p.recipe(), "--listen", "localhost"), "'localhost' is no address", "write HOST:PORT"
    ),
    "an address for volunteers without a port": Mistake(
        lambda p: p.host(p.recipe(), "--address", "example.org"), r"'example\.org' is no address", "write HOST:PORT"
    ),
    "a second coordinator in one folder": Mistake(
        second_host, "a coordinator is at work in .* already", "stop it first, or use another folder"
    ),
    "another rank for a run that began": Mistake(
        another_rank, r"cannot go on with the recipe: adapter\.rank: 2 became 3", "set these back as they were"
    ),
    "going back to a version that never was": Mistake(
        version_that_is_not_there, "version 7 does not exist", "wait for the first version"
    ),
    "an invite that expired": Mistake(expired, r"the invite expired 2\.0 hours ago", "a new invite", asked=True),
    "an invite that is used up": Mistake(spent, "the invite was good for 1, all used", "a new invite", asked=True),
    "an invite with one wrong letter": Mistake(tampered, "the invite is damaged", "copy the whole line again"),
    "half an invite": Mistake(
        lambda p: p.join(p.hosted.invite()[:200]), "the invite is damaged: it is cut off", "copy the whole line again"
    ),
    "something else for an invite": Mistake(
        lambda p: p.join("https://example.org/join"), r"an invite begins with 'potluck1\.'", "copy the whole line again"
    ),
    "an invite of another coordinator": Mistake(
        foreign, "is not the one that made this invite; nothing was sent", "check the address with whoever invited you"
    ),
    "a coordinator that is down": Mistake(no_coordinator_at_all, "nobody listens at", "ask the operator to start"),
    "a folder without a file": Mistake(empty_folder, "empty holds no files", r"put files ending in \.txt"),
    "a folder that is not there": Mistake(
        lambda p: p.join(p.hosted.invite(), p.folder / "ntoes"), "ntoes does not exist", "name a file, or a folder"
    ),
    "a file that cannot be read": Mistake(
        unreadable, r"diary\.txt: unreadable: No such file", "name a file or folder with text"
    ),
    "a photo that is called .txt": Mistake(junk, r"photo\.txt: not UTF-8 at byte 0", "text in UTF-8"),
    "a folder of photos": Mistake(photos, r"photo\.jpg: unknown suffix '\.jpg'", r"ending in \.txt"),
    "one line of text": Mistake(one_line, "1 different sample is too little", "add more text"),
    "no text at all": Mistake(
        lambda p: ("join", p.hosted.invite(), "--yes"),
        "it is not said what to train on",
        "name your text: --data FOLDER",
    ),
    "nobody there to say yes": Mistake(
        lambda p: ("join", p.hosted.invite(), "--data", p.notes()), "nobody is here to agree", "with --yes"
    ),
    "another base model than the run's": Mistake(
        other_weights, "has digest .*…, the run's is", "use the base model and revision", MembershipState.READY
    ),
    "a second session in one home": Mistake(
        second_join, "potluck already runs in", "look at it with `potluck status`", MembershipState.READY
    ),
    "a second session for another invite": Mistake(
        second_join_elsewhere, "potluck already runs in", "look at it with `potluck status`", MembershipState.READY
    ),
    "a prompt before the first version": Mistake(
        nothing_yet, "'tiny' has no shared adapter here yet", "until the first version", MembershipState.READY
    ),
    "an export over something else": Mistake(
        export_over_something, "notes exists and is not empty", "name a new folder", MembershipState.READY
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def hosted(base: Path, tmp_path_factory) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("coordinator")
    recipe = completed(Recipe.read(recipe_at(folder / "recipe.toml", base)), folder / "cache")
    with hosting(folder / "run", recipe) as made:
        yield made


@pytest.fixture
def place(base: Path, hosted: Hosted, tmp_path: Path) -> Iterator[Place]:
    calm_home(tmp_path / "home")
    with ExitStack() as opened:
        yield Place(tmp_path, base, hosted, opened)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_fix_and_breaks_nothing(place: Place, name: str):
    mistake = MISTAKES[name]
    words = mistake.typed(place)
    files, runs, home = files_of(place), runs_of(place), home_of(place)

    done = potluck(*words, home=place.home, cwd=place.folder)

    assert done.status == 1, done.said
    assert "Traceback" not in done.said
    assert re.search(mistake.said, done.said), done.said
    assert any(re.search(mistake.fix, fix) for fix in done.fixes), done.said
    assert done.err.startswith("error: ")
    assert files_of(place) == files
    assert runs_of(place) == runs
    if mistake.state is None:
        assert home_of(place) == home == (None, (), 0)
        assert (place.home / "identity.key").exists() is mistake.asked
    assert home_of(place)[:2] == (mistake.state, ())
    assert not [*(place.home / "blobs").iterdir(), *(place.home / "tasks").iterdir()]


def files_of(place: Place) -> dict[str, bytes]:
    """Return every file outside the home, where nothing may change: recipes, text, runs."""
    found = {}
    for path in sorted([*place.folder.rglob("*"), *place.hosted.folder.rglob("*")]):
        inside = path.is_relative_to(place.home) or any(path.is_relative_to(c.folder) for c in place.coordinators)
        if not inside and not DATABASE.search(path.name) and "log." not in path.name:
            found[str(path)] = path.read_bytes() if path.is_file() else b""
    return found


def runs_of(place: Place) -> list[tuple[str, str, int, int]]:
    """Return what the databases say: run, recipe, version and members of each run that is here."""
    found = []
    for folder in (place.run, place.hosted.folder):
        if (folder / "coordinator.db").exists():
            desk = Desk.open(folder)
            now = desk.status()
            found.append((now.run_id, desk.site.plan.json, now.version, now.members))
            desk.close()
    return found


def home_of(place: Place) -> tuple[MembershipState | None, tuple[object, ...], int]:
    """Return what the home holds: its membership, open tasks and receipts."""
    outbox = Outbox.open(Home.at(place.home).outbox)
    try:
        member = outbox.membership()
        return None if member is None else member.state, outbox.open_tasks(), outbox.credit()[0]
    finally:
        outbox.close()
