from dataclasses import replace

import pytest

from fakes import IDLE, FakeClock, FakeSensors
from potluck.client.errors import Interrupted, Leaving
from potluck.client.events import GateTurned, Slept, Trouble
from potluck.client.gate import Reason
from potluck.client.limits import Limits
from potluck.client.lookout import Lookout
from potluck.client.outbox.store import Outbox
from potluck.client.records import Control


class Post:
    """A lookout with everything around it."""

    def __init__(self, folder) -> None:
        self.outbox = Outbox.open(folder / "client.sqlite")
        self.sensors, self.clock, self.told = FakeSensors(), FakeClock(), []
        self.limits = folder / "limits.toml"
        self.lookout = Lookout(self.outbox, self.sensors, self.limits, self.clock, self.told.append)


@pytest.fixture
def post(tmp_path):
    made = Post(tmp_path)
    yield made
    made.outbox.close()


def test_a_sleep_is_noticed_by_the_clocks_and_told_once(post):
    post.lookout.look()
    post.clock.time_s += 2
    post.clock.sleep(3 * 3_600)
    post.lookout.look()
    post.lookout.look()

    assert post.lookout.wakes == 1
    assert post.told == [Slept(pytest.approx(3 * 3_600))]


@pytest.mark.parametrize("jump_s", [4.0, -3_600.0, -1.7e9], ids=["small", "an hour back", "to 1970"])
def test_a_clock_that_is_set_is_no_sleep(post, jump_s):
    post.lookout.look()
    post.clock.sleep(jump_s)
    post.lookout.look()

    assert post.lookout.wakes == 0


def test_it_looks_once_a_tick_however_often_it_is_asked(post):
    post.lookout.pulse()
    post.outbox.ask(Control(paused=True))
    post.lookout.pulse()
    assert not post.lookout.control.paused

    post.clock.time_s += 1.0
    post.lookout.pulse()
    assert post.lookout.control.paused
    assert post.lookout.gate.network == {Reason.PAUSED_BY_USER}


def test_a_pause_with_an_end_is_over_by_itself(post):
    """The sensors of the machine do the comparing; here the wall clock is the test's."""
    from potluck.client.sensors import MachineSensors  # noqa: PLC0415 - only here

    sensors = MachineSensors(post.limits.parent, post.clock)
    control = Control(paused=True, paused_until_unix_s=post.clock.wall_s() + 60)
    assert sensors.read(control).paused

    post.clock.time_s += 61
    assert not sensors.read(control).paused
    assert sensors.read(replace(control, paused_until_unix_s=None)).paused


def test_the_owner_is_obeyed_at_the_next_pulse(post):
    post.outbox.ask(Control(leave=True))
    with pytest.raises(Leaving):
        post.lookout.pulse()
    assert post.lookout.wants_end
    post.lookout.heeds_leave = False
    post.lookout.pulse()

    post.lookout.stop()
    with pytest.raises(Interrupted):
        post.lookout.pulse()
    with pytest.raises(Interrupted):
        post.lookout.wait(3_600)


def test_a_wait_ends_when_what_it_waits_for_happened(post):
    looks = []

    def done() -> bool:
        looks.append(post.clock.time_s)
        post.clock.time_s += 1
        return len(looks) == 3

    post.lookout.tick_s = 0.001
    post.lookout.wait_until(None, done)

    assert len(looks) == 3


def test_a_nudge_ends_a_tick_early(post):
    looks = []

    def done() -> bool:
        looks.append(1)
        post.lookout.nudge()
        return len(looks) == 50

    post.lookout.tick_s = 3_600
    post.lookout.wait_until(None, done)

    assert len(looks) == 50


def test_limits_are_read_again_when_their_file_changes(post):
    post.sensors.reading = replace(IDLE, free_ram_bytes=2**30)
    post.lookout.look()
    assert post.lookout.limits == Limits()

    Limits(min_free_ram_gib=4.0).write(post.limits)
    for _ in range(2):
        post.lookout.look()
        post.clock.time_s += 5
    assert post.lookout.limits.min_free_ram_gib == 4.0
    assert post.lookout.gate.computing == {Reason.RAM_LOW}
    assert isinstance(post.told[-1], GateTurned)


def test_a_slip_in_the_limits_keeps_the_old_ones_and_is_told_once(post):
    Limits(nice=5).write(post.limits)
    post.lookout.look()
    post.limits.write_text("core_shar = 0.5\n")
    post.lookout.look()
    post.lookout.look()

    assert post.lookout.limits.nice == 5
    assert [happening for happening in post.told if isinstance(happening, Trouble)] == post.told[-1:]
    assert "no setting is called core_shar" in post.told[-1].message


def test_what_goes_on_is_written_down_for_status(post):
    post.outbox.ask(Control(paused=True))
    post.lookout.look()
    post.lookout.say("waiting: no work", 123.0)

    now = post.outbox.now()
    assert (now.activity, now.reasons, now.next_check_in_unix_s) == ("waiting: no work", ("PAUSED_BY_USER",), 123.0)
