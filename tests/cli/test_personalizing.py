"""What `potluck personalize` makes of its options, before any model is loaded."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from potluck.aggregation import LowRank
from potluck.aggregation.errors import BadSetting
from potluck.cli.personalizing import Here, NoPersonal, Personalizing, earlier, key_for, personal_of, rebased, wished
from potluck.client.home import Home
from potluck.client.personal import About, Personal, Wish
from potluck.client.records import Membership
from potluck.client.tasks import MembershipState
from potluck.client.training.bases import Base
from potluck.client.training.errors import BadAdapter
from potluck.client.vault import Locked, Passphrase, seal
from scripted import recipe

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
