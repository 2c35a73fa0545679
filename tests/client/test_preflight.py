"""The preflight and enrolling, against real coordinators."""

import ssl
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from chaos import chaos
from coordinators import hosting
from fakes import IDLE, Client, NoFit
from potluck.aggregation.errors import BadSetting
from potluck.client.checks import Check, Verdict
from potluck.client.consent import NEVER_LEAVES, Estimate, kept_bytes, update_bytes
from potluck.client.errors import NotReady, OverBudget
from potluck.client.identity import display, identity_at
from potluck.client.join import enrol
from potluck.client.link import Alone
from potluck.client.outbox.store import Outbox, joined
from potluck.client.preflight import STEPS, Preflight, check_coordinator, check_protocol, check_recipe
from potluck.client.probe import explained
from potluck.client.tasks import MembershipState, Step
from potluck.wire import invites
from potluck.wire.refusals import Refusal
from potluck.wire.tensors import Manifest
from potluck.wire.v1.enrollment_pb2 import AboutReply
from potluck.wire.v1.envelope_pb2 import Protocol
from scripted import recipe
from summing import summed_recipe


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    with hosting(tmp_path_factory.mktemp("coordinator"), recipe()) as made:
        yield made


@pytest.fixture
def client(tmp_path):
    return Client(tmp_path)


def looked(client: Client, token: str, **changed) -> Preflight:
    """Return a preflight that has run, with parts of its site changed."""
    found = Preflight(token, replace(client.site(), **changed))
    list(found)
    return found


def errors(found: Preflight) -> list[Check]:
    return [check for check in found.checks if check.verdict is Verdict.ERROR]


def test_all_is_well_and_each_thing_was_looked_at_once(hosted, client):
    found = looked(client, hosted.invite())

    assert found.ok
    assert [check.name for check in found.checks] == [
        "invite",
        "coordinator",
        "protocol",
        "recipe",
        "memory",
        "disk",
        "text",
        "base model",
    ]
    assert {check.verdict for check in found.checks} == {Verdict.OK}
    assert found.examples == 37


def test_a_damaged_invite_is_found_before_anything_is_dialled(client):
    found = looked(client, "potluck1.AAAA", link=lambda _: pytest.fail("it dialled"))

    assert [check.name for check in found.checks] == ["invite"]
    assert "copy the whole line again" in errors(found)[0].fix


def test_another_coordinator_at_the_address_gets_nothing(hosted, client, tmp_path):
    """Scenario 16: the invite is for A, and B answers."""
    with hosting(tmp_path / "other", recipe()) as other, chaos(other.port) as proxy:
        token = hosted.coordinator.invite([proxy.address], 1)
        found = looked(client, token)

    assert errors(found)[0].message == (
        f"the coordinator at {proxy.address} is not the one that made this invite; nothing was sent"
    )
    assert other.coordinator.status().members == 0
    assert token.encode()[20:60] not in proxy.seen
    assert found.about is None


def test_nobody_at_the_address_is_told_as_that(client, tmp_path):
    with hosting(tmp_path / "gone", recipe()) as gone:
        token = gone.invite()

    found = looked(client, token)

    assert errors(found)[0].message == f"nobody listens at {invites.read(token).addresses[0]}"
    assert "ask the operator" in errors(found)[0].fix


def test_our_own_clock_only_warns_and_the_coordinators_decides(hosted, client):
    token = hosted.invite(expires_s=60)
    client.clock = Ahead(7_200)
    found = looked(client, token)
    assert found.ok
    assert found.checks[0].verdict is Verdict.WARNING
    assert "by this machine's clock the invite expired 2.0 hours ago" in found.checks[0].message

    hosted.clock.time_s += 61
    client.clock = Ahead(0)
    warnings = [check.message for check in looked(client, token).checks if check.verdict is Verdict.WARNING]
    assert any("used up or expired" in message for message in warnings)


class Ahead:
    """A clock that is so many seconds ahead of the machine's."""

    def __init__(self, seconds: float) -> None:
        from potluck.client.clock import SystemClock  # noqa: PLC0415 - only here

        self._real, self._seconds = SystemClock(), seconds

    def monotonic_s(self) -> float:
        return self._real.monotonic_s()

    def wall_s(self) -> float:
        return self._real.wall_s() + self._seconds


def test_what_is_short_on_the_machine_is_said_with_numbers(hosted, client):
    poor = replace(IDLE, free_ram_bytes=1_000_000, free_disk_bytes=0)
    found = looked(
        client,
        hosted.invite(),
        reading=poor,
        estimate=lambda _: Estimate(download_bytes=2**30, ram_bytes=2**31, minutes=3.0),
        base_problem=lambda _: "nobody/nothing is not here yet",
    )

    told = {check.name: check for check in found.checks}
    assert told["memory"].verdict is Verdict.WARNING
    assert told["memory"].message == "0.0 GiB of memory free, about 2.0 GiB needed"
    assert told["disk"].verdict is Verdict.ERROR
    assert told["disk"].message == "0.0 GiB of disk free, 1.0 GiB needed"
    assert told["base model"].verdict is Verdict.WARNING
    assert "a base model of 1074 MB is downloaded" in told["base model"].fix
    with pytest.raises(NotReady, match="disk free"):
        found.card()


def test_a_folder_without_text_is_an_error_with_its_fix(hosted, client):
    def refused(_path, _recipe):
        raise NoFit("no text in /nowhere", fix="name another folder")

    empty = looked(client, hosted.invite(), count_examples=lambda _path, _recipe: 0)
    broken = looked(client, hosted.invite(), count_examples=refused)

    assert errors(empty)[0].name == "text"
    assert (errors(broken)[0].message, errors(broken)[0].fix) == ("no text in /nowhere", "name another folder")


@pytest.mark.parametrize(("oldest", "newest", "fix"), [(2, 3, "update potluck"), (0, 0, "ask the operator")])
def test_a_coordinator_of_another_time_is_told_who_has_to_update(client, oldest, newest, fix):
    found = Preflight("t", client.site(), about=AboutReply(protocol=Protocol(oldest=oldest, newest=newest)))

    (check,) = check_protocol(found)

    assert check.verdict is Verdict.ERROR
    assert check.fix.startswith(fix)


@pytest.mark.parametrize(
    ("json", "digest", "words"),
    [
        (recipe().to_json(), b"x" * 32, "digest is not the one"),
        ("{}", b"", "missing"),
        (recipe(run={"name": "a b"}).to_json().replace('"rank":2', '"rankk":2'), b"", "no setting is called"),
        (recipe(model={"digest": ""}).to_json(), recipe(model={"digest": ""}).digest(), "does not pin its base model"),
    ],
    ids=["another digest", "no recipe", "a setting we do not know", "incomplete"],
)
def test_a_recipe_that_cannot_be_consented_to_is_refused(client, json, digest, words):
    found = Preflight("t", client.site(), about=AboutReply(recipe_json=json, recipe_digest=digest))

    (check,) = check_recipe(found)

    assert check.verdict is Verdict.ERROR
    assert words in check.message
    assert found.recipe is None


def test_the_card_says_what_leaves_exactly_and_claims_no_protection_that_is_not_there(hosted, client):
    card = looked(client, hosted.invite()).card()
    text = dict(card.lines())

    assert (card.tensors, card.numbers) == (4, 2 * 2 * (16 + 12))
    assert card.update_bytes == update_bytes(recipe())
    assert 448 <= card.update_bytes - 0 <= 2_000  # 112 float32 numbers and their names
    assert card.coordinator == display(invites.read(hosted.invite()).coordinator_id)
    assert "4 tensors with 112 numbers" in text["What leaves, each round"]
    assert "no secure aggregation and no differential privacy" in text["Mind"]
    assert "IP address" in text["What they also see"]
    assert all(word in text["What never leaves"] for word in NEVER_LEAVES)
    assert "potluck leave" in text["Withdraw"]
    everything = " ".join(text.values()).lower()
    assert not [claim for claim in ("anonym", "gdpr", "ε", "epsilon", "cannot be read") if claim in everything]


def test_the_card_of_a_run_with_sums_names_what_leaves_as_part_of_one(tmp_path):
    with hosting(tmp_path / "run", summed_recipe()) as summed:
        text = dict(looked(Client(tmp_path / "client", seed=1), summed.invite()).card().lines())

    assert "changed the adapter; as part of the sum: that it is one, how many tokens" in text["What leaves, each round"]


def test_the_size_on_the_card_is_that_of_a_real_update(hosted, client):
    """Within a tenth: the numbers differ, the tensors do not."""
    client.enrol(hosted.invite())
    other = hosted.volunteer(seed=1)
    real = len(other.train(other.lease()))

    assert abs(update_bytes(recipe()) - real) <= real / 10


HUGE = {f"layers.{n}.q_proj": [1_000_000, 1_000_000] for n in range(6)}


def test_the_disk_that_error_feedback_needs_is_asked_for():
    """An update of 112 numbers, a rest and the start that it is expressed in, each of them twice."""
    feedback = {"name": "int4", "error_feedback": True}

    assert kept_bytes(recipe(codec=feedback)) == 112 * 6 * 2
    assert kept_bytes(recipe()) == 0


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"modules": HUGE}, "adapter": {"rank": 256}}, "3,072,000,000 numbers; this program takes up to 2,"),
        ({"limits": {"max_update_bytes": 400}}, "bytes, and the recipe allows 400"),
        ({"model": {"modules": HUGE}, "adapter": {"rank": 100}}, "and the recipe allows 268,435,456"),
    ],
)
def test_a_recipe_whose_updates_are_absurd_is_refused_without_making_one(client, tables, words):
    whole = recipe(**tables)
    found = Preflight("t", client.site(), about=AboutReply(recipe_json=whole.to_json(), recipe_digest=whole.digest()))

    tracemalloc.start()
    (check,) = check_recipe(found)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert check.verdict is Verdict.ERROR
    assert words in check.message
    assert most < 20_000_000


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8", "nf4", "int4", "levels", "topk", "sparse2bit"])
def test_the_estimated_size_is_that_of_noise_through_the_codec(codec):
    whole = recipe(
        codec={"name": codec, "may_forget": True}, model={"modules": {"a.q_proj": [400, 300], "b.q_proj": [40, 3_000]}}
    )
    manifest = Manifest.of_update(whole.modules(), whole.adapter.rank)
    rng = np.random.default_rng(1)
    packing = whole.codec.choose((codec,))
    real = len(packing.encode({name: rng.standard_normal(shape, dtype=np.float32) for name, shape in manifest.entries}))

    assert update_bytes(whole) == pytest.approx(real, rel=0.1)


def test_a_model_that_no_closed_program_makes_room_for_is_refused(hosted, client):
    need = Estimate(download_bytes=0, ram_bytes=300 * 2**30, minutes=None)
    found = looked(client, hosted.invite(), estimate=lambda _: need, reading=replace(IDLE, free_ram_bytes=2**34))

    assert errors(found)[0].message == "16.0 GiB of memory free, about 300.0 GiB needed"


def test_enrolling_twice_is_enrolling_once(hosted, client):
    token = hosted.invite(uses=1)
    members = hosted.coordinator.status().members

    first = client.enrol(token)
    assert first.state is MembershipState.READY
    assert first.recipe_digest == recipe().digest()
    preflight = looked(client, hosted.invite())
    outbox = Outbox.open(client.home.outbox)
    second = enrol(preflight, preflight.card(), "again", outbox, identity_at(client.home.key))
    outbox.close()

    assert second.state is MembershipState.READY
    assert hosted.coordinator.status().members == members + 1


def test_a_used_up_invite_is_a_warning_and_the_refusal_is_left_to_enrolling(hosted, client):
    class Answering(Alone):
        address = "here"

        def patiently(self, _call, _request):
            return AboutReply(uses_left=0)

        def close(self):
            pass

    found = Preflight(hosted.invite(), replace(client.site(), link=lambda _: Answering()))
    found.invitation = invites.read(found.token)

    coordinator, uses = check_coordinator(found)

    assert coordinator.verdict is Verdict.OK
    assert (uses.verdict, "used up" in uses.message) == (Verdict.WARNING, True)
    assert "ask for a new invite" in uses.fix


def test_a_crash_before_the_answer_was_kept_is_mended_by_joining_again(hosted, client):
    """The coordinator let it in and the invite is spent; this machine knows nothing of it yet."""
    members = hosted.coordinator.status().members
    preflight = looked(client, hosted.invite(uses=1))
    outbox = Outbox.open(client.home.outbox)
    enrol(preflight, preflight.card(), "", outbox, identity_at(client.home.key))
    outbox.step(Step.CHANGED)  # as it was before the answer
    assert joined(outbox).state is MembershipState.ENROLLING

    assert enrol(preflight, preflight.card(), "", outbox, identity_at(client.home.key)).state is MembershipState.READY
    outbox.close()
    assert hosted.coordinator.status().members == members + 1


def test_consent_to_another_recipe_is_not_consent(hosted, client):
    preflight = looked(client, hosted.invite())
    outbox = Outbox.open(client.home.outbox)
    card = replace(preflight.card(), recipe_digest=b"x" * 32)

    with pytest.raises(NotReady, match="changed while you read it"):
        enrol(preflight, card, "", outbox, identity_at(client.home.key))

    assert outbox.membership() is None
    outbox.close()


def test_a_refused_enrolment_leaves_nothing_behind(hosted, client, tmp_path):
    token = hosted.invite(uses=1)
    late = looked(client, token)
    Client(tmp_path / "quicker").enrol(token)
    outbox = Outbox.open(client.home.outbox)

    with pytest.raises(Refusal) as caught:
        enrol(late, late.card(), "", outbox, identity_at(client.home.key))

    assert caught.value.code == "invite_spent"
    assert caught.value.fix
    assert outbox.membership() is None
    outbox.close()


def test_the_steps_go_from_cheap_to_dear():
    assert [step.__name__ for step in STEPS] == [
        "check_invite",
        "check_coordinator",
        "check_protocol",
        "check_recipe",
        "check_machine",
        "check_data",
        "check_privacy",
        "check_base",
    ]


@pytest.mark.parametrize(
    ("code", "words"), [(9, "out of its time"), (10, "out of its time"), (19, "not the one that made")]
)
def test_a_certificate_out_of_its_time_is_not_told_as_another_coordinator(code: int, words: str):
    error = ssl.SSLCertVerificationError("no")
    error.verify_code = code

    assert words in explained(error, "somewhere:1")[0]


def test_a_download_of_unknown_size_is_not_told_as_none(client, hosted):
    site = replace(
        client.site(),
        estimate=lambda _: Estimate(download_bytes=None, ram_bytes=2**20, minutes=None),
        base_problem=lambda _: "it is not here yet",
    )
    found = Preflight(hosted.invite(), site)
    list(found)

    assert "unknown size" in dict(found.card().lines())["This machine"]
    assert any("not known before it is asked for" in check.fix for check in found.checks)


def private(**terms: object):
    return recipe(privacy={"differential": {"unit": "example", **terms}})


@pytest.mark.parametrize(
    ("terms", "verdict", "fix"),
    [({}, Verdict.ERROR, "name more with --data"), ({"delta": 9e-4}, Verdict.OK, ""), (None, None, "")],
)
def test_what_a_private_round_would_cost_is_tried_before_joining(tmp_path, terms, verdict, fix: str):
    """With as many records as were counted; in a run that is not private nothing is asked."""
    asked = []

    def afford(_recipe: object, run_id: str, records: int) -> None:
        asked.append((run_id, records))
        if verdict is Verdict.ERROR:
            raise OverBudget("one more round would bring epsilon too far", fix="this run is over: potluck finish")

    with hosting(tmp_path / "run", recipe() if terms is None else private(**terms)) as hosted:
        token = hosted.invite()
        found = looked(Client(tmp_path), token, afford=afford)

    checks = [check for check in found.checks if check.name == "privacy"]
    assert asked == ([] if terms is None else [(invites.read(token).run_id, 37)])
    assert [check.verdict for check in checks] == ([] if verdict is None else [verdict])
    assert found.ok is (verdict is not Verdict.ERROR)
    assert all(fix in check.fix for check in checks)


def test_more_samples_than_delta_is_for_may_be_few_enough_records(tmp_path):
    def afford(_recipe: object, _run_id: str, _records: int) -> None:
        raise BadSetting("delta is too large", fix="take part with less text")

    with hosting(tmp_path / "run", private(delta=9e-4)) as hosted:
        found = looked(Client(tmp_path), hosted.invite(), afford=afford, count_examples=lambda _path, _recipe: 200)

    assert found.ok
    assert [check.fix for check in found.checks if check.name == "privacy"] == ["take part with less text"]
