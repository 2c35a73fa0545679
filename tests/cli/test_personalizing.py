"""What `potluck personalize` makes of its options, before any model is loaded."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from potluck.aggregation import LowRank, encode, to_tensors
from potluck.aggregation.errors import BadSetting
from potluck.cli.personalizing import (
    Here,
    NoPersonal,
    Personalizing,
    earlier,
    key_for,
    personal_of,
    rebased,
    run_personalize,
    wished,
)
from potluck.client.errors import HomeInUse
from potluck.client.home import Home
from potluck.client.limits import Limits
from potluck.client.outbox.store import Outbox
from potluck.client.personal import About, Personal, Wish
from potluck.client.records import Membership, Shared
from potluck.client.tasks import MembershipState
from potluck.client.training.bases import Base, resolve
from potluck.client.training.completing import completed
from potluck.client.training.errors import BadAdapter
from potluck.client.vault import BadPassphrase, Locked, Passphrase, kind_of, seal, unseal
from potluck.wire.recipe import Recipe
from scripted import recipe
from tiny import random_adapter, tiny_base

WORDS = "nine elderly teapots sing"
WISH = Wish(rank=2, proximal=0.5)
NOTHING = Personalizing(None, {}, passphrase=False, anew=False)


@pytest.fixture
def run(tmp_path: Path) -> Here:
    member = Membership(MembershipState.READY, "", "run-1", "a run", "c", "{}", b"", "", "/home/ann/notes", 3)
    base = Base("tiny", tmp_path, "ab" * 32, "MIT")
    return Here(Home.at(tmp_path / "home"), member, recipe(), base, {}, 5)


def personal(version: int = 3) -> Personal:
    modules = recipe().modules()
    products = {name: LowRank(np.ones((d, 2), "f4"), np.ones((2, k), "f4"), 2.0) for name, (d, k) in modules.items()}
    return Personal(About("run-1", "a run", version, "", "ab" * 32, "/home/ann/mail", WISH), products)


def test_personalizing_loads_nothing_that_could_send():
    """Neither gRPC nor the client's link is so much as loaded; tests/end_to_end/test_personal.py reads the wire."""
    code = "import sys, potluck.cli.personalizing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert "potluck.client.training.personal" in loaded
    assert not {"grpc", "potluck.client.link", "potluck.client.session", "potluck.client.delivery"} & set(loaded)


def test_a_first_one_is_as_asked_on_what_the_owner_takes_part_with(run: Here):
    asked = dataclasses.replace(NOTHING, wish={"rank": 8})

    assert wished(asked, None, run) == (Wish(rank=8), Path("/home/ann/notes"))


def test_a_further_one_is_as_before_unless_asked(run: Here):
    assert wished(NOTHING, personal(), run) == (WISH, Path("/home/ann/mail"))
    asked = dataclasses.replace(NOTHING, wish={"steps": 9}, data=Path("/elsewhere"))
    assert wished(asked, personal(), run) == (Wish(rank=2, proximal=0.5, steps=9), Path("/elsewhere"))


def test_another_shape_needs_a_new_beginning(run: Here):
    with pytest.raises(BadSetting, match="made with another rank") as caught:
        wished(dataclasses.replace(NOTHING, wish={"rank": 4, "gated": True}), personal(), run)
    assert "--anew" in str(caught.value.__notes__)


def test_over_the_newest_version_and_the_same_text_there_is_nothing_to_do(run: Here):
    with pytest.raises(BadSetting, match="over version 5 already"):
        wished(NOTHING, personal(version=5), run)
    wished(dataclasses.replace(NOTHING, data=Path("/elsewhere")), personal(version=5), run)


def test_it_says_when_it_is_used_over_a_newer_version(run: Here):
    assert "trained over version 3 and is used over version 5" in rebased(run, personal())
    assert rebased(run, personal(version=5)) == ""


def test_the_file_says_how_it_is_opened(run: Here, monkeypatch):
    """A passphrase comes from the environment where nobody is at the terminal; without one it is said how."""
    monkeypatch.setenv("POTLUCK_PASSPHRASE", WORDS)
    seal(personal().to_bytes(), Passphrase(WORDS), run.path)

    opened = personal_of(run)

    assert opened.about == personal().about
    assert earlier(run, NOTHING)
    assert not earlier(run, dataclasses.replace(NOTHING, anew=True))
    monkeypatch.setenv("POTLUCK_PASSPHRASE", "something else")
    with pytest.raises(Locked, match="does not open"):
        personal_of(run)
    monkeypatch.delenv("POTLUCK_PASSPHRASE")
    with pytest.raises(BadSetting, match="nobody is here to type"):
        key_for(run, before_path=run.path, passphrase=False)


@pytest.fixture
def member(tmp_path: Path, monkeypatch) -> Home:
    """A home that is in a run of a tiny model, with text and a shared adapter."""
    base = resolve(str(tiny_base(tmp_path / "tiny")), cache=tmp_path / "cache")
    written = {
        "run": {"name": "a run"},
        "model": {"base": str(base.folder)},
        "adapter": {"rank": 2, "targets": ["q_proj"]},
        "data": {"max_tokens": 32, "held_out": 0.2},
    }
    wanted = completed(Recipe.parse(json.dumps(written)), tmp_path / "cache")
    text = tmp_path / "notes"
    text.mkdir()
    for i in range(10):
        (text / f"{i}.txt").write_text(f"note {i} about {i * i} hens and a fox that saw them", "utf-8")
    home = Home.at(tmp_path / "home", tmp_path / "cache")
    adapter = encode(to_tensors(random_adapter(wanted.modules(), 2, seed=1)), "fp32")
    digest = sha256(adapter).digest()
    home.blob(digest).write_bytes(adapter)
    outbox = Outbox.open(home.outbox)
    of_run = Membership(
        MembershipState.READY, "", "run-1", "a run", "c", wanted.to_json(), wanted.digest(), "", str(text), 10
    )
    outbox.consent(of_run)
    outbox.share(Shared("run-1", 1, digest))
    outbox.close()
    monkeypatch.setenv("POTLUCK_HOME", str(home.folder))
    monkeypatch.setenv("POTLUCK_CACHE", str(home.cache))
    return home


def test_a_passphrase_that_will_not_do_is_refused_before_anything_is_trained(member: Home, monkeypatch, capsys):
    asked = Personalizing(None, {"rank": 2, "steps": 2}, passphrase=True, anew=False)
    monkeypatch.setenv("POTLUCK_PASSPHRASE", "short")

    with pytest.raises(BadPassphrase, match="has 5 characters"):
        run_personalize(asked, as_json=False)
    assert "step" not in capsys.readouterr().out

    monkeypatch.setenv("POTLUCK_PASSPHRASE", WORDS)
    run_personalize(asked, as_json=False)
    assert "step 2 of 2" in capsys.readouterr().out
    assert member.personal("run-1").exists()


def test_one_for_another_base_model_is_not_used(run: Here, monkeypatch):
    monkeypatch.setenv("POTLUCK_PASSPHRASE", WORDS)
    foreign = dataclasses.replace(personal(), about=dataclasses.replace(personal().about, base_digest="cd" * 32))
    seal(foreign.to_bytes(), Passphrase(WORDS), run.path)

    with pytest.raises(BadAdapter, match="another base model"):
        personal_of(run)


def test_where_there_is_none_it_is_said_how_to_make_one(run: Here):
    with pytest.raises(NoPersonal, match="no personal adapter for 'a run'") as caught:
        personal_of(run)
    assert "potluck personalize" in str(caught.value.__notes__)


def test_it_says_when_it_trains_on_flagged_samples(member: Home, monkeypatch, capsys):
    monkeypatch.setenv("POTLUCK_PASSPHRASE", WORDS)
    asked = Personalizing(None, {"rank": 2, "steps": 1}, passphrase=True, anew=True)
    (member.folder.parent / "notes" / "card.txt").write_text("My card is 4111 1111 1111 1111.", "utf-8")

    run_personalize(asked, as_json=False)
    assert "look secret or personal" not in capsys.readouterr().out  # left out

    Limits(keep_flagged=True).write(member.limits)
    run_personalize(asked, as_json=False)
    assert "1 of your samples look secret or personal and are trained on, as you wished" in capsys.readouterr().out


@pytest.fixture
def system_ring() -> Iterator[None]:
    """A keyring of the system's that keeps things in memory."""
    keyring = pytest.importorskip("keyring")

    class InMemory(keyring.backend.KeyringBackend):
        priority = 5
        kept: ClassVar[dict[tuple[str, str], str]] = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del self.kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    yield
    keyring.set_keyring(before)


@pytest.mark.usefixtures("system_ring")
def test_one_that_the_keyring_sealed_is_sealed_with_a_passphrase_where_that_is_asked_for(member: Home, monkeypatch):
    """It is opened with the old key, trained on, and needs the passphrase from then on."""
    path, other = member.personal("run-1"), member.folder.parent / "other"
    shutil.copytree(member.folder.parent / "notes", other)
    monkeypatch.setenv("POTLUCK_PASSPHRASE", WORDS)
    run_personalize(Personalizing(None, {"rank": 2, "steps": 1}, passphrase=False, anew=False), as_json=True)
    assert kind_of(path) == "keyring"

    run_personalize(Personalizing(other, {"steps": 1}, passphrase=True, anew=False), as_json=True)

    assert kind_of(path) == "passphrase"
    again = Personal.of_bytes(unseal(path, Passphrase(WORDS)))
    assert again.about.before is not None  # training went on from the first one


def test_two_do_not_train_at_once_and_a_purge_waits_for_neither(member: Home, monkeypatch):
    monkeypatch.setenv("POTLUCK_PASSPHRASE", WORDS)
    asked = Personalizing(None, {"rank": 2, "steps": 1}, passphrase=True, anew=False)

    with member.personalizing():
        with pytest.raises(HomeInUse, match="`potluck personalize` works in") as refused:
            run_personalize(asked, as_json=True)
        with pytest.raises(HomeInUse, match="`potluck personalize` works in"):
            member.purge()
        with member.occupied():  # a session goes on beside it
            pass
    assert "wait until it has ended" in str(refused.value.__notes__)
    assert member.outbox.exists()
    run_personalize(asked, as_json=True)
    member.purge()
    assert list(member.folder.iterdir()) == []
