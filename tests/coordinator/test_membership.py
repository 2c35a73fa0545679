"""An invite lets in as many as it says, for as long as it says, and only here."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from coordinators import Hosted, hosting, refused
from potluck.aggregation.errors import BadSetting
from potluck.coordinator.desk import Desk
from potluck.wire.envelopes import Purpose
from potluck.wire.invites import read
from potluck.wire.refusals import Refusal
from potluck.wire.v1 import enrollment_pb2 as pb
from potluck.wire.v1 import enrollment_pb2_grpc
from scripted import Volunteer, called, recipe


def test_one_learns_what_one_would_join_and_changes_nothing(hosted: Hosted):
    volunteer = hosted.volunteer(token=hosted.invite(uses=3), enroll=False)

    about = volunteer.about()

    assert (about.recipe_json, about.recipe_digest) == (recipe().to_json(), recipe().digest())
    assert (about.version, about.members, about.uses_left, about.adapter_bytes) == (0, 0, 3, 0)
    assert volunteer.about().uses_left == 3


def test_enrolling_twice_counts_one_use(hosted: Hosted):
    """The first answer may have been lost."""
    volunteer = hosted.volunteer(token=hosted.invite(uses=2))

    again = volunteer.enroll()

    assert (again.client_id, again.membership) == (volunteer.client_id, pb.MEMBERSHIP_ACTIVE)
    assert volunteer.about().uses_left == 1


def test_forty_at_the_door_and_exactly_seven_get_in(hosted: Hosted):
    token = hosted.invite(uses=7)
    digest = recipe().digest()
    crowd = [hosted.volunteer(seed, token=token, enroll=False) for seed in range(40)]

    def knock(volunteer: Volunteer) -> str:
        try:
            volunteer.stubbornly(lambda: volunteer.enroll(recipe_digest=digest))
        except Refusal as refusal:
            return refusal.code
        return "in"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(knock, crowd))

    assert sorted(answers) == ["in"] * 7 + ["invite_spent"] * 33
    assert hosted.coordinator.status().members == 7


def test_an_invite_that_is_used_up_says_so(hosted: Hosted):
    token = hosted.invite(uses=1)
    hosted.volunteer(token=token)

    with refused("invite_spent"):
        hosted.volunteer(1, token=token)


def test_an_invite_expires_by_the_coordinators_clock(hosted: Hosted):
    token = hosted.invite(expires_s=60)
    hosted.clock.time_s += 59
    hosted.volunteer(token=token)

    hosted.clock.time_s += 1
    with refused("invite_expired"):
        hosted.volunteer(1, token=token)


def test_a_revoked_invite_lets_nobody_else_in(hosted: Hosted):
    token = hosted.invite()
    inside = hosted.volunteer(token=token)
    hosted.coordinator.desk.invites.revoke(read(token).invite_id)

    with refused("invite_revoked"):
        hosted.volunteer(1, token=token)
    assert inside.lease()


def test_an_invite_of_another_coordinator_is_foreign(hosted: Hosted, tmp_path: Path):
    """It was signed by somebody, so it is whole; it is just not ours."""
    with hosting(tmp_path / "other", recipe()) as other:
        foreign = other.invite()
    volunteer = hosted.volunteer(enroll=False)
    request = pb.EnrollRequest(invite=foreign, recipe_digest=recipe().digest())
    request.protocol.oldest = request.protocol.newest = 1

    with refused("invite_foreign"):
        send(volunteer, request)


def test_a_tampered_invite_is_refused_by_the_coordinator_too(hosted: Hosted):
    volunteer = hosted.volunteer(enroll=False)
    token = volunteer.token
    place = len(token) - 40
    broken = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    request = pb.EnrollRequest(invite=broken, recipe_digest=recipe().digest())
    request.protocol.oldest = request.protocol.newest = 1

    with refused("bad_invite"):
        send(volunteer, request)


def test_a_fake_coordinator_gets_no_connection(hosted: Hosted, tmp_path: Path):
    """The invite pins the authority; a server with another one fails the handshake, and nothing is sent."""
    with hosting(tmp_path / "fake", recipe()) as fake:
        token = hosted.coordinator.invite([fake.address], 1)
        volunteer = Volunteer(token)
        with refused("unavailable"):
            volunteer.about()
        volunteer.close()


def send(volunteer: Volunteer, request: pb.EnrollRequest) -> None:
    stub = enrollment_pb2_grpc.EnrollmentStub(volunteer.channel())
    called(stub.Enroll, volunteer.signed(Purpose.ENROLL, request))


def test_consent_to_another_recipe_is_no_consent(hosted: Hosted):
    with refused("wrong_consent"):
        hosted.volunteer(enroll=False).enroll(recipe_digest=bytes(32))


@pytest.mark.parametrize("name", ["x" * 65, "two\nlines", "\x1b[31mred"])
def test_a_name_cannot_drive_the_operators_terminal(hosted: Hosted, name: str):
    volunteer = hosted.volunteer(enroll=False)
    volunteer.name = name

    with refused("bad_request"):
        volunteer.enroll()


def test_an_old_program_is_told_to_update(hosted: Hosted):
    volunteer = hosted.volunteer(enroll=False)
    request = pb.EnrollRequest(invite=volunteer.token, recipe_digest=recipe().digest())
    request.protocol.oldest = request.protocol.newest = 99

    with refused("upgrade_required"):
        send(volunteer, request)


def test_a_signature_for_one_call_is_void_for_another(hosted: Hosted):
    volunteer = hosted.volunteer()
    envelope = volunteer.signed(Purpose.CHECKIN, pb.LeaveRequest(run_id=volunteer.invitation.run_id))

    with refused("bad_signature"):
        called(enrollment_pb2_grpc.EnrollmentStub(volunteer.channel()).Leave, envelope)


def test_a_run_takes_as_many_members_as_its_recipe_says(tmp_path: Path):
    with hosting(tmp_path / "run", recipe(admission={"max_members": 2})) as hosted:
        hosted.cohort(2)

        with refused("run_full"):
            hosted.volunteer(9)


def test_who_leaves_takes_along_what_was_not_combined(hosted: Hosted):
    """Its update leaves the round that still takes updates; what a version contains stays, and is told."""
    first, *others = hosted.cohort(3)
    for volunteer in (first, *others):
        volunteer.contribute()
    assert hosted.coordinator.wait_for_version(1, 10)
    first.contribute()
    assert hosted.coordinator.status().received == 1

    left = first.leave()

    assert left.counted == 1
    assert hosted.coordinator.status().received == 0
    assert first.leave().counted == 1
    with refused("not_a_member"):
        first.check_in()


def test_who_left_may_join_again_with_an_invite(hosted: Hosted):
    volunteer = hosted.volunteer(token=hosted.invite(uses=2))
    volunteer.leave()

    volunteer.enroll()

    assert volunteer.lease()
    with refused("invite_spent"):
        hosted.volunteer(1, token=volunteer.token)


def test_who_was_removed_does_not_come_back(hosted: Hosted):
    volunteer = hosted.volunteer()
    hosted.coordinator.desk.remove(volunteer.client_id)

    with refused("not_a_member"):
        volunteer.check_in()
    with refused("not_a_member"):
        volunteer.enroll()


def test_a_stranger_is_told_nothing(hosted: Hosted):
    stranger = hosted.volunteer(enroll=False)
    stranger.recipe = recipe()

    for call in (stranger.check_in, stranger.leave, lambda: stranger.read(bytes(32))):
        with refused("not_a_member"):
            call()


def test_another_process_makes_and_lists_invites_while_the_coordinator_works(hosted: Hosted):
    desk = Desk.open(hosted.folder)

    token = desk.invites.make([hosted.address], uses=1)
    hosted.volunteer(token=token)

    assert [(one.uses, one.max_uses) for one in desk.invites.all()] == [(1, 1)]
    desk.close()


@pytest.mark.parametrize(
    ("addresses", "uses", "expires_s"),
    [([], 1, 60), (["a:1"] * 5, 1, 60), (["nowhere"], 1, 60), (["a:99999"], 1, 60), (["a:1"], 0, 60), (["a:1"], 1, 0)],
)
def test_an_invite_that_nobody_could_use_is_not_made(hosted: Hosted, addresses, uses, expires_s):
    with pytest.raises(BadSetting):
        hosted.coordinator.invite(addresses, uses, expires_s)


def test_receipts_and_identities_do_not_depend_on_the_invite(hosted: Hosted):
    """One key is one member, whatever invite it comes with."""
    first = hosted.volunteer(token=hosted.invite(uses=1))
    second = replace(first, token=hosted.invite(uses=5), _channel=None)
    hosted.volunteers.append(second)

    second.enroll()

    assert second.client_id == first.client_id
    assert hosted.coordinator.status().members == 1
    assert second.about().uses_left == 5
