"""Everything by the commands that people type: real processes, TLS on loopback, a real model that trains."""

import json
import shutil
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from commands import Done, Running, Stage, calm_home, notes, potluck, recipe_at, stage
from potluck.wire import invites
from tiny import tiny_base

LONG = {"steps": 400, "batch": 2, "learning_rate": 1e-3, "checkpoint_steps": 10}  # seconds, so that one can step in
IDS = torch.randint(3, 259, (2, 17), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@dataclass(frozen=True)
class Hosted:
    """A run that is hosted by a real process."""

    process: Running
    folder: Path
    invite: str
    address: str
    coordinator_id: str


def host(at: Stage, recipe: Path, *, listen: str = "127.0.0.1:0") -> Hosted:
    """Host *recipe* beside it, and wait until it listens."""
    folder = recipe.with_name("run")
    process = at.start("host", recipe, "--folder", folder, "--listen", listen, home=recipe.parent)
    told = process.told("listening")
    return Hosted(process, folder, told["invite"], told["addresses"][0], told["coordinator_id"])


def join(at: Stage, run: Hosted, name: str, seed: int = 0) -> Running:
    """Let a volunteer of that *name* join, from a home of its own."""
    home, data = home_of(at, name), notes(at.folder / name / "notes", seed)
    return at.start("join", run.invite, "--data", data, "--name", name, "--yes", home=home)


def home_of(at: Stage, name: str) -> Path:
    return calm_home(at.folder / name / "home")


def training(volunteer: Running, more_than: int = 0) -> int:
    """Wait until it has taken more than so many steps; return how many."""
    event = volunteer.until(
        lambda event: event["event"] == "progressed" and event["phase"] == "TRAIN" and event["done"] > more_than
    )
    return int(event["done"])


def ended(volunteer: Running, ending: str) -> Done:
    """Wait until it has ended in good order, and so."""
    done = volunteer.end()
    assert done.status == 0, done.err
    assert done.lines[-1]["event"] == "end"
    assert done.lines[-1]["ending"] == ending
    return done


def receipts(home: Path) -> list[Mapping[str, object]]:
    return potluck("history", "--json", home=home).lines


# -- a run from its beginning to its end, and what one does with what came out ---------------------------------------


@dataclass(frozen=True)
class Finished:
    """A run of two versions and two volunteers; its coordinator is still there."""

    run: Hosted
    base: Path
    homes: tuple[Path, Path]
    said: tuple[Done, Done]

    @property
    def release(self) -> Path:
        return self.run.folder / "releases" / "v0002"


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with stage(folder) as at:
        run = host(at, recipe_at(folder / "recipe.toml", base))
        volunteers = [join(at, run, "ann", 1), join(at, run, "bob", 2)]
        said = [ended(volunteer, "RUN_DONE") for volunteer in volunteers]
        assert run.process.told("version", version=1)["contributors"] == 2
        assert Path(run.process.told("version", version=2)["release"]) == run.folder / "releases" / "v0002"
        yield Finished(run, base, (folder / "ann" / "home", folder / "bob" / "home"), (said[0], said[1]))
        run.process.send(signal.SIGINT)
        assert run.process.end().status == 0


def test_volunteers_of_a_run_that_is_done_are_told_and_thanked(finished: Finished):
    """Each saw the card, trained twice, and got a receipt for each update."""
    for said in finished.said:
        kinds = [line["event"] for line in said.lines]
        assert kinds.index("check") < kinds.index("card") < kinds.index("moved") < kinds.index("received")
        assert all(line["verdict"] == "ok" for line in said.lines if line["event"] == "check")
        verdicts = [line["receipt"]["verdict"] for line in said.lines if line["event"] == "received"]
        assert verdicts == ["ACCEPTED", "ACCEPTED"]


def test_the_operator_sees_where_it_stands(finished: Finished):
    words = potluck("status", "--folder", finished.run.folder, home=finished.homes[0])
    facts = potluck("status", "--folder", finished.run.folder, "--json", home=finished.homes[0]).lines[0]

    assert words.status == 0
    assert "2 of 2, the run is done" in words.out
    assert (facts["version"], facts["done"], facts["members"], facts["leases"]) == (2, True, 2, 0)
    assert facts["coordinator_id"] == finished.run.coordinator_id
    assert facts["bytes_in"] > 0


def test_the_operator_sees_who_gave_what(finished: Finished):
    words = potluck("history", "--folder", finished.run.folder, home=finished.homes[0])
    lines = potluck("history", "--folder", finished.run.folder, "--json", home=finished.homes[0]).lines

    assert "ann" in words.out
    versions = [line for line in lines if "adapter_digest" in line]
    given = {line["name"]: line for line in lines if "client_id" in line}
    assert [line["version"] for line in versions] == [2, 1, 0]
    assert all(line["loss_after"] < line["loss_before"] for line in versions[:2])
    assert {name: line["counted"] for name, line in given.items()} == {"ann": 2, "bob": 2}
    credit = {
        name: sum(r["credit"] for r in receipts(home))
        for name, home in zip(("ann", "bob"), finished.homes, strict=True)
    }
    assert {name: line["credit"] for name, line in given.items()} == credit


def test_a_volunteer_sees_where_it_stands(finished: Finished):
    words = potluck("status", home=finished.homes[0])
    facts = potluck("status", "--json", home=finished.homes[0]).lines[0]

    assert words.status == 0
    assert "none of them ever sent" in words.out
    assert facts["membership"]["state"] == "STOPPED"
    assert (facts["updates"], facts["running"], facts["tasks"]) == (2, False, [])
    assert facts["traffic"]["sent"] > 0
    assert finished.run.invite not in json.dumps(facts)  # it is a key to the run


def test_what_a_volunteer_sent_has_none_of_its_text(finished: Finished):
    """What the coordinator keeps of a volunteer is numbers: no line of anybody's notes is in its folder."""
    texts = [path.read_bytes() for home in finished.homes for path in (home.parent / "notes").iterdir()]
    lines = {line for text in texts for line in text.split(b". ") if len(line) > 20}

    for path in finished.run.folder.rglob("*"):
        if path.is_file():
            kept = path.read_bytes()
            assert not [line for line in lines if line in kept], path


def test_an_invite_made_beside_the_coordinator_at_work_lets_in(finished: Finished, tmp_path: Path):
    made = potluck("invite", "--folder", finished.run.folder, "--uses", 2, "--expires", "12h", home=tmp_path)
    token = made.out.strip()

    invitation = invites.read(token)
    assert invitation.addresses == (finished.run.address,)
    assert invitation.max_uses == 2
    assert invitation.coordinator_id == finished.run.coordinator_id
    looked = potluck("join", token, "--data", notes(tmp_path / "notes"), home=calm_home(tmp_path / "home"))
    assert "its key is the invite's" in looked.out
    assert looked.status == 1  # all is well, and nobody is here to say yes
    assert "error: nobody is here to agree to the card" in looked.err


def test_release_and_log_are_whole_and_of_this_coordinator(finished: Finished):
    release = potluck("verify", finished.release, "--coordinator", finished.run.coordinator_id, home=finished.homes[0])
    log = potluck("verify", finished.run.folder / "log.jsonl", "--json", home=finished.homes[0])
    foreign = potluck("verify", finished.release, "--coordinator", "a" * 32, home=finished.homes[0])

    assert release.status == 0
    assert finished.run.coordinator_id in release.out
    assert (log.status, log.lines[0]["version"], log.lines[0]["members"]) == (0, 2, 2)
    assert foreign.status == 1
    assert f"it is signed by {finished.run.coordinator_id}, not by {'a' * 32}" in foreign.err


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "README.md", "release.json", "release.sig"])
def test_a_release_with_one_changed_byte_is_refused(finished: Finished, tmp_path: Path, file: str):
    altered = shutil.copytree(finished.release, tmp_path / "altered")
    data = bytearray((altered / file).read_bytes())
    data[len(data) // 2] ^= 1
    (altered / file).write_bytes(data)

    done = potluck("verify", altered, home=tmp_path / "home")

    assert done.status == 1
    assert len(done.fixes) == 1


def test_an_edited_log_is_refused(finished: Finished, tmp_path: Path):
    for name in ("log.jsonl", "log.head.json"):
        shutil.copy(finished.run.folder / name, tmp_path / name)
    text = (tmp_path / "log.jsonl").read_text("utf-8")
    (tmp_path / "log.jsonl").write_text(text.replace('"examples":', '"examples":1', 1), "utf-8")

    done = potluck("verify", tmp_path / "log.jsonl", home=tmp_path / "home")

    assert done.status == 1
    assert "was edited" in done.err


@pytest.fixture(scope="module")
def used(finished: Finished, tmp_path_factory) -> dict[str, Done]:
    """What `try` and `export` made of it; two at a time, for each starts torch."""
    out = tmp_path_factory.mktemp("exports")
    asked = {
        "try": ("try", "the cat", "--tokens", 12, "--json"),
        "peft": ("export", "--to", out / "peft", "--json"),
        "merged": ("export", "--to", out / "merged", "--format", "merged", "--adapter", finished.release, "--json"),
    }
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda words: potluck(*words, home=finished.homes[0]), asked.values())
        return dict(zip(asked, made, strict=True))


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits


@pytest.fixture(scope="module")
def released(finished: Finished) -> torch.Tensor:
    """Logits of the release, as PEFT opens it."""
    model = AutoModelForCausalLM.from_pretrained(finished.base, dtype=torch.float32)
    before = logits(model)
    after = logits(PeftModel.from_pretrained(model, finished.release))
    assert not torch.allclose(before, after, atol=1e-3)
    return after


def test_try_answers_twice(finished: Finished, used: dict[str, Done]):
    done = used["try"]

    assert done.status == 0, done.err
    answers = done.lines[0]
    assert answers.pop("prompt") == "the cat"
    assert list(answers) == [f"base ({finished.base})", "shared (tiny version 2)"]


def test_peft_opens_the_export_and_computes_the_same(finished: Finished, used: dict[str, Done], released: torch.Tensor):
    assert used["peft"].status == 0, used["peft"].err
    folder = used["peft"].lines[0]["wrote"]

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(finished.base, dtype=torch.float32), folder)

    torch.testing.assert_close(logits(model), released, atol=1e-5, rtol=1e-5)


def test_the_merged_model_computes_the_same_without_peft(used: dict[str, Done], released: torch.Tensor):
    assert used["merged"].status == 0, used["merged"].err
    folder = used["merged"].lines[0]["wrote"]

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    torch.testing.assert_close(logits(model), released, atol=1e-4, rtol=1e-4)


def test_an_earlier_version_comes_back_as_a_new_one(finished: Finished, tmp_path: Path):
    """Beside a coordinator at work, which writes the release; nothing of what was there is lost."""
    shutil.copytree(finished.run.folder, tmp_path / "run")
    shutil.copy(finished.run.folder.with_name("recipe.toml"), tmp_path / "recipe.toml")
    with stage(tmp_path) as at:
        run = host(at, tmp_path / "recipe.toml")
        undone = potluck("rollback", 1, "--folder", run.folder, "--json", home=tmp_path)
        told = run.process.told("version", version=3)
        again = potluck("rollback", 3, "--folder", run.folder, home=tmp_path)
        verified = potluck("verify", told["release"], "--json", home=tmp_path)
        run.process.send(signal.SIGTERM)
        assert run.process.end().status == 0

    assert run.invite == ""  # the second start makes no second invite
    assert undone.lines[0]["version"] == 3
    first, third = (run.folder / "releases" / name / "adapter_model.safetensors" for name in ("v0001", "v0003"))
    assert first.read_bytes() == third.read_bytes()
    assert verified.lines[0]["version"] == 3
    assert (run.folder / "releases" / "v0002").exists()
    assert again.status == 1
    assert "version 3 is the present one" in again.err


# -- what the owner of a machine says to a session at work ------------------------------------------------------------


def test_a_session_hears_its_owner_from_other_processes(base: Path, tmp_path: Path):
    """Pause, resume, finish, and later leave: each by a command of its own, while the session trains."""
    with stage(tmp_path) as at:
        recipe = recipe_at(
            tmp_path / "recipe.toml", base, run={"versions": 0}, training=LONG, aggregation={"cohort": 1}
        )
        run, home = host(at, recipe), tmp_path / "ann" / "home"
        session = join(at, run, "ann")
        training(session, 2)

        assert "until you say `potluck resume`" in potluck("pause", home=home).out
        session.told("gateturned", sentence="you paused it, until: potluck resume")
        session.told("moved", state="SUSPENDED")
        paused = potluck("status", "--json", home=home).lines[0]
        assert (paused["running"], paused["control"]["paused"]) == (True, True)
        assert paused["reasons"] == ["you paused it"]
        (task,) = paused["tasks"]
        assert (task["state"], task["steps_total"]) == ("SUSPENDED", LONG["steps"])

        assert potluck("resume", home=home).out == "resumed\n"
        session.told("moved", state="TRAINING")
        assert training(session) == task["steps_done"] + 1

        assert potluck("finish", home=home).status == 0
        done = ended(session, "FINISHED")
        assert [line["receipt"]["verdict"] for line in done.lines if line["event"] == "received"] == ["ACCEPTED"]
        run.process.told("version", version=1)

        again = at.start("join", home=home)
        training(again, 2)
        assert "leaves at its next step" in potluck("leave", "--yes", home=home).out
        assert ended(again, "LEFT").lines[-1]["counted"] == 1
        assert potluck("status", "--json", home=home).lines[0]["membership"] is None
        assert potluck("status", "--folder", run.folder, "--json", home=home).lines[0]["members"] == 0
        assert len(receipts(home)) == 1  # they are the owner's to keep
        assert not list((home / "tasks").iterdir())


def test_training_goes_on_after_ctrl_c_and_after_a_power_cut(base: Path, tmp_path: Path):
    """Ctrl-C keeps every step, a kill all but those since the last checkpoint; the update counts once."""
    with stage(tmp_path) as at:
        recipe = recipe_at(
            tmp_path / "recipe.toml", base, run={"versions": 1}, training=LONG, aggregation={"cohort": 1}
        )
        run, home = host(at, recipe), tmp_path / "ann" / "home"
        first = join(at, run, "ann")
        training(first, 20)
        first.send(signal.SIGINT)
        stopped = ended(first, "INTERRUPTED")
        reached = max(line["done"] for line in stopped.lines if line["event"] == "progressed")
        assert "stopping at the next step, with a checkpoint" in stopped.err

        second = at.start("join", home=home)
        assert training(second) == reached + 1
        reached = training(second, reached + 20)
        second.kill()

        third = at.start("join", home=home)
        every = LONG["checkpoint_steps"]
        assert reached - every < training(third) <= reached + every  # it ran on a little until the kill
        ended(third, "RUN_DONE")

        assert [receipt["verdict"] for receipt in receipts(home)] == ["ACCEPTED"]
        history = potluck("history", "--folder", run.folder, "--json", home=home).lines
        assert [line["counted"] for line in history if "client_id" in line] == [1]


def test_a_coordinator_killed_in_the_middle_of_a_round_comes_back_to_it(base: Path, tmp_path: Path):
    """One update is in, another is being made.  Both count once, and nobody has to do anything but start it again."""
    with stage(tmp_path) as at:
        run = host(at, recipe_at(tmp_path / "recipe.toml", base, training=LONG))
        ann = join(at, run, "ann", 1)
        ann.told("received")
        bob = join(at, run, "bob", 2)
        training(bob, 2)

        # A closed lid: were ann to notice the outage, it would wait up to half a minute, as its patience says.
        ann.send(signal.SIGSTOP)
        run.process.kill()
        again = host(at, tmp_path / "recipe.toml", listen=run.address)
        ann.send(signal.SIGCONT)

        assert (again.address, again.coordinator_id, again.invite) == (run.address, run.coordinator_id, "")
        for volunteer in (ann, bob):
            ended(volunteer, "RUN_DONE")
        again.process.told("version", version=2)
        homes = [tmp_path / name / "home" for name in ("ann", "bob")]
        assert_counted_once(run.folder, homes)
        assert potluck("verify", run.folder / "log.jsonl", home=tmp_path).status == 0


def assert_counted_once(folder: Path, homes: list[Path]) -> None:
    """Two versions of two updates: just those that the volunteers have receipts for."""
    entries = [json.loads(line)["entry"] for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    rounds = [entry for entry in entries if entry["kind"] == "round_committed"]
    counted = [one["digest"] for entry in rounds for one in entry["inputs"]]
    held = [receipt for home in homes for receipt in receipts(home)]
    assert [len(entry["inputs"]) for entry in rounds] == [2, 2]
    assert len(set(counted)) == 4
    assert sorted(counted) == sorted(receipt["digest"] for receipt in held)
    history = potluck("history", "--folder", folder, "--json", home=homes[0]).lines
    given = {line["name"]: (line["counted"], line["credit"]) for line in history if "client_id" in line}
    credit = [sum(receipt["credit"] for receipt in receipts(home)) for home in homes]
    assert given == {"ann": (2, credit[0]), "bob": (2, credit[1])}
