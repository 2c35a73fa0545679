"""A personal adapter by the commands that people type, beside a run at work, with all that leaves read along."""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from commands import PROGRAM, Done, Stage, calm_home, notes, potluck, recipe_at, stage
from potluck.client.personal import Personal
from potluck.client.training.export import read_peft
from potluck.client.vault import Passphrase, unseal
from potluck.wire import invites
from recorder import Recorded, recording
from scripted import Volunteer
from tiny import tiny_base

pytestmark = [pytest.mark.slow_privacy, pytest.mark.timeout(1_000)]  # eight processes, each of which loads torch
WORDS = "nine elderly teapots sing"
WATCHED = (sys.executable, str(Path(__file__).parents[1] / "support" / "watched_command.py"))
RECIPE = {
    "run": {"versions": 0},
    "aggregation": {"cohort": 1, "weights": ["examples"], "hostile": 0.0},
    "codec": {"name": "fp32", "lossless": False},  # so that what leaves can be read as it is
}


def diary(folder: Path) -> Path:
    """Write text that is for the personal adapter alone."""
    folder.mkdir(parents=True)
    told = [f"Quixotic zebra {i} kept my midnight secret number {7 * i} under the violet staircase. " for i in range(9)]
    (folder / "clandestine-diary.txt").write_text("\n\n".join(line * 5 for line in told), "utf-8")
    return folder


@dataclass(frozen=True)
class Kept:
    """What came of it: each command's words, the adapters, and everything that left."""

    base: Path
    folder: Path
    home: Path
    diary: Path
    said: dict[str, Done]
    first: Personal
    personal: Personal
    recorded: Recorded
    planted: Recorded

    @property
    def sealed(self) -> Path:
        (found,) = (self.home / "personal").iterdir()
        return found


def needles(kept: Kept) -> list[bytes]:
    """Return what must not leave: four numbers in a row of every tensor, in three formats, and pieces of the text."""
    arrays = [*kept.personal.gates.values(), *kept.first.gates.values()]
    for term in (*kept.personal.products.values(), *kept.first.products.values()):
        arrays += [term.b, term.a, term.b * term.scale]
    found = []
    for array in arrays:
        rows = np.ascontiguousarray(array.reshape(-1), np.float32)
        for start in range(0, len(rows) - 4, 4):
            four = rows[start : start + 4]
            if np.count_nonzero(four) == 4:  # a row of zeros says nothing
                found += [four.tobytes(), four.astype(np.float16).tobytes()]
                found.append(torch.from_numpy(four).bfloat16().view(torch.int16).numpy().tobytes())
    text = (kept.diary / "clandestine-diary.txt").read_bytes()
    found += [text[i : i + 12] for i in range(0, len(text) - 12, 12)]
    return [*found, b"clandestine", str(kept.diary).encode(), WORDS.encode()]


def plant(token: str, personal: Personal, text: bytes) -> None:
    """Send a personal adapter and a line of text as a client would that leaks them."""
    volunteer = Volunteer(token, name=text[:40].decode())
    volunteer.enroll()
    lease, data = volunteer.lease(), personal.to_bytes()
    volunteer.upload(volunteer.offer(lease.lease_id, data), data)
    volunteer.close()


@dataclass(frozen=True)
class Ann:
    """A volunteer: her home, the run's invite, and what she types."""

    at: Stage
    folder: Path
    token: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def stay(self, *words: object) -> None:
        """Take part until two updates have been accepted."""
        session = self.at.start("join", *words, home=self.home)
        session.told("received")
        session.told("received")
        session.send(signal.SIGINT)
        assert session.end().status == 0

    def command(self, *words: object, program: tuple[str, ...] = PROGRAM) -> Done:
        return potluck(*words, home=self.home, program=program, passphrase=WORDS)

    def adapter(self) -> Personal:
        (sealed,) = (self.home / "personal").iterdir()
        return Personal.of_bytes(unseal(sealed, Passphrase(WORDS)))


def lived(ann: Ann, text: Path) -> tuple[dict[str, Done], Personal, Personal]:
    """Take part, personalize, take part again, personalize over the newer version, use it, export it."""
    said = {}
    ann.stay(ann.token, "--data", notes(ann.folder / "notes"), "--yes")
    asked = ("--data", text, "--steps", 8, "--learning-rate", 0.01, "--rank", 2, "--passphrase", "--json")
    said["personalize"] = ann.command("personalize", *asked, program=WATCHED)
    first = ann.adapter()
    ann.stay()
    said["again"] = ann.command("personalize", program=WATCHED)
    said["try"] = ann.command("try", "cat", "--tokens", 4, "--personal", "--json")
    said["export"] = ann.command("export", "--personal", "--to", ann.folder / "out", "--json")
    return said, first, ann.adapter()


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Kept:
    """A run with one volunteer, before whose coordinator somebody reads along."""
    folder = tmp_path_factory.mktemp("personal")
    base, home, text = tiny_base(folder / "tiny"), calm_home(folder / "home"), diary(folder / "private")
    with stage(folder) as at:
        recipe = recipe_at(folder / "recipe.toml", base, **RECIPE)
        run = at.start("host", recipe, "--folder", folder / "run", "--listen", "127.0.0.1:0", home=folder)
        port = int(run.told("listening")["addresses"][0].rsplit(":", 1)[1])
        with recording(port, folder / "run" / "keys", folder) as recorder:
            invite = ("invite", "--folder", folder / "run", "--uses", 2, "--address", recorder.address)
            token = potluck(*invite, home=folder).out.strip()
            assert invites.read(token).addresses == (recorder.address,)
            said, first, personal = lived(Ann(at, folder, token), text)
            recorded = recorder.recorded()
            plant(token, personal, (text / "clandestine-diary.txt").read_bytes())
            planted = recorder.recorded()
    return Kept(base, folder, home, text, said, first, personal, recorded, planted)


def test_nothing_of_it_leaves(kept: Kept):
    """Over two stays, two trainings, a use and an export: no four of its numbers, no twelve letters of its text."""
    wanted = needles(kept)

    assert len(wanted) > 1_000
    assert not [needle for needle in wanted if kept.recorded.holds(needle)]
    assert max(kept.recorded.headers) < 400  # compressed, and too small to hide in


def test_the_search_finds_what_does_leave(kept: Kept):
    """The positive control: one client that leaks, through the same proxy, and the update that rightly left."""
    wanted = needles(kept)
    found = [needle for needle in wanted if kept.planted.holds(needle)]

    factor = next(iter(kept.personal.products.values())).a[0, :4].tobytes()
    assert factor in found
    assert next(iter(kept.personal.gates.values()))[:4].tobytes() in found
    assert any(needle.startswith(b"Quixotic zeb") for needle in found)
    assert len(found) > len(wanted) / 10
    names = b"model.layers.0.self_attn.q_proj"
    assert kept.recorded.holds(names)  # the updates are there, readable: four of them, in plain float32
    assert kept.recorded.size > 20_000


def test_the_sealed_file_is_all_there_is(kept: Kept):
    """In the whole home, nothing holds its numbers or its text in the clear; what was exported was asked for."""
    wanted = needles(kept)
    for path in kept.home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [needle for needle in wanted if needle in data], path
    assert kept.sealed.stat().st_size > 6_000


def test_training_it_opens_no_connection(kept: Kept):
    for name in ("personalize", "again"):
        done = kept.said[name]
        assert done.status == 0, done.err
        assert "SOCKET" not in done.err
        assert done.err.endswith("NO GRPC\n")


def test_a_command_that_talks_is_seen_to(kept: Kept):
    """The control of the test before: `join` loads gRPC."""
    done = potluck("join", "potluck1.x", "--data", kept.diary, home=kept.home, program=WATCHED)

    assert done.err.endswith("\nGRPC\n")


def test_it_reports_base_shared_personal_and_both(kept: Kept):
    told = kept.said["personalize"].lines[-1]
    losses = told["losses"]

    assert told["before"] is None
    assert set(losses) == {"base", "shared", "personal", "both", "exported"}
    assert losses["both"] < losses["shared"]
    assert losses["both"] < losses["base"]
    assert abs(losses["exported"] - losses["both"]) < 0.05


def test_it_is_rebased_on_the_newer_version(kept: Kept):
    first, again = kept.first.about, kept.personal.about

    assert again.version > first.version
    assert again.wish == first.wish
    assert again.data_path == first.data_path == str(kept.diary)
    assert again.before is not None
    assert again.losses is not None
    assert again.losses.both < again.before.both
    assert "before" in kept.said["again"].out


def test_try_answers_three_times(kept: Kept):
    answers = kept.said["try"].lines[0]

    assert kept.said["try"].status == 0, kept.said["try"].err
    assert [name.split(" ")[0] for name in answers] == ["prompt", "base", "shared", "personal"]


def test_peft_opens_what_was_exported_and_it_is_shared_plus_personal(kept: Kept):
    assert kept.said["export"].status == 0, kept.said["export"].err
    assert "is not encrypted" in kept.said["export"].err
    ids = torch.randint(3, 259, (2, 17), generator=torch.Generator().manual_seed(5))
    base = AutoModelForCausalLM.from_pretrained(kept.base, dtype=torch.float32)
    opened = PeftModel.from_pretrained(base, kept.folder / "out").eval()
    terms = read_peft(kept.folder / "out")

    for name, own in kept.personal.products.items():
        left = terms[name].dense() - kept.personal.constants[name] * own.dense()
        assert np.linalg.matrix_rank(left, tol=1e-5) <= terms[name].rank - 2  # what is left is the shared one
    with torch.inference_mode():
        assert opened(ids).logits.isfinite().all()
