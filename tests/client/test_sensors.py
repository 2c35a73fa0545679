import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from fakes import FakeClock
from potluck.client.clock import SystemClock
from potluck.client.gate import Power
from potluck.client.records import Control
from potluck.client.sensors import MachineSensors, total_ram_bytes


def test_this_machine_can_be_read_without_waiting(tmp_path):
    sensors = MachineSensors(tmp_path, SystemClock())

    first = sensors.read(Control())

    assert first.power in Power
    assert first.other_cpu_share is None  # one look says nothing; unknown, and not "idle"
    assert 0 < first.free_ram_bytes < total_ram_bytes()
    assert first.free_disk_bytes > 0
    assert not first.paused


def test_our_own_work_is_not_the_work_of_others(tmp_path):
    """This process burns every core it can get; what is left of the machine's time bounds what others used."""
    cores, sensors = os.cpu_count(), MachineSensors(tmp_path, SystemClock())
    sensors.read(Control())
    started_s, own_s = time.monotonic(), sum(os.times()[:2])
    with ThreadPoolExecutor(cores) as pool:  # hashing lets go of Python's lock
        list(pool.map(lambda _: [sha256(bytes(1 << 22)) for _ in range(200)], range(cores)))

    share = sensors.read(Control()).other_cpu_share

    took_s, own_s = time.monotonic() - started_s, sum(os.times()[:2]) - own_s
    assert own_s > 0.1 * cores
    assert share * cores * took_s <= cores * took_s - own_s + 0.1 * cores


def test_what_another_program_uses_is_measured_between_two_looks(tmp_path):
    """It burns a second of one core, within two seconds by the test's clock."""
    clock = FakeClock()
    sensors = MachineSensors(tmp_path, clock)
    sensors.read(Control())
    burn = "import os\nwhile sum(os.times()[:2]) < 1.0: sum(range(10000))"
    other = subprocess.Popen([sys.executable, "-c", burn])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # one that was waited for would count as ours
    clock.time_s += 2.0

    share = sensors.read(Control()).other_cpu_share

    assert share >= 0.9 * 1.0 / (2.0 * os.cpu_count())
    other.wait()


def test_two_looks_at_once_say_what_the_first_said(tmp_path):
    clock = FakeClock()
    sensors = MachineSensors(tmp_path, clock)
    sensors.read(Control())
    clock.time_s += 10
    share = sensors.read(Control()).other_cpu_share
    clock.time_s += 0.01

    assert sensors.read(Control()).other_cpu_share == share


def test_stepping_back_lowers_this_process_and_never_raises_it():
    script = (
        "import os\nfrom potluck.client.limits import Limits\nfrom potluck.client.sensors import step_back\n"
        "step_back(Limits(nice=7)); print(os.nice(0)); step_back(Limits(nice=3)); print(os.nice(0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before = os.nice(0)

    assert done.stdout.split() == [str(max(7, before))] * 2
