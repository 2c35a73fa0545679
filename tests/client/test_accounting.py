"""What rounds cost: the numbers of three accountants, and how rounds add up."""

import subprocess
import sys

import pytest

from potluck.aggregation.errors import BadSetting
from potluck.client.accounting import Spending, accountant, epsilon, noise_for

dp = pytest.importorskip("dp_accounting")

REFERENCE = [  # N, B, sigma, steps, delta; epsilon by RDP and PLD of dp-accounting 0.6.0, by PRV of Opacus 1.6.0
    (60_000, 256, 1.12, 14_062, 1e-5, 2.5186, 2.3102, 2.3202),
    (60_000, 256, 1.1, 14_062, 1e-5, 2.5966, 2.3817, 2.3917),
    (60_000, 250, 1.3, 3_600, 1e-5, 0.9422, 0.8530, 0.8630),
    (60_000, 256, 0.7, 10_546, 1e-5, 6.3195, 5.6394, 5.6498),
    (50_000, 500, 1.0, 3_000, 1e-5, 3.5108, 3.1923, 3.2025),
    (1_000, 32, 1.0, 93, 1e-4, 2.1501, 1.7449, 1.7551),
]


@pytest.mark.parametrize(("records", "batch", "noise", "steps", "delta", "rdp", "pld", "prv"), REFERENCE)
def test_epsilon_agrees_with_three_accountants(  # noqa: PLR0913, PLR0917 - a row of the table
    records, batch, noise, steps, delta, rdp, pld, prv
):
    ours = epsilon([Spending(records, batch, noise, steps)], delta)
    counter = dp.rdp.RdpAccountant()
    counter.compose(dp.PoissonSampledDpEvent(batch / records, dp.GaussianDpEvent(noise)), steps)

    assert ours == pytest.approx(pld, abs=1e-3)
    assert counter.get_epsilon(delta) == pytest.approx(rdp, abs=1e-3)
    assert 0.009 < prv - ours < 0.0115  # Opacus reports the upper end of its error of 0.01


@pytest.mark.parametrize(
    ("noise", "steps", "exact"), [(1.0, 1, 4.3771781), (4.0, 10, 3.3414095)], ids=["one round", "ten rounds"]
)
def test_without_sampling_it_is_the_gaussian_mechanism(noise: float, steps: int, exact: float):
    assert epsilon([Spending(100, 100, noise, steps)], 1e-5) == pytest.approx(exact, abs=1e-3)


def test_a_cap_costs_what_is_known_of_it():
    free, capped = Spending(1_000, 64, 1.0, 75), Spending(1_000, 64, 1.0, 75, cap=96)

    assert epsilon([free], 1e-4) == pytest.approx(3.254, abs=1e-3)
    assert epsilon([capped], 1e-4) == pytest.approx(3.274, abs=1e-3)


@pytest.mark.parametrize(
    ("records", "batch", "steps", "known"),
    [(200, 32, 10, (2.75, 5.95, 13.2)), (1_000, 64, 15, (1.72, 3.25, 6.49))],
)
def test_rounds_compose(records: int, batch: int, steps: int, known: tuple[float, ...]):
    one = Spending(records, batch, 1.0, steps)

    found = [epsilon([one] * rounds, 1 / (10 * records)) for rounds in (1, 5, 20)]

    assert found == pytest.approx(known, rel=5e-3)


def test_different_rounds_add_up_in_any_order():
    rounds = [Spending(200, 32, 1.5, 3), Spending(220, 32, 1.5, 3), Spending(200, 32, 2.0, 2)]

    assert epsilon(rounds, 1e-5) == pytest.approx(epsilon(rounds[::-1], 1e-5), abs=1e-6)
    assert epsilon(rounds, 1e-5) > max(epsilon([one], 1e-5) for one in rounds)


def test_nothing_told_costs_nothing():
    assert epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize(("records", "batch", "steps", "known"), [(200, 32, 10, 1.333)])
def test_noise_is_as_much_as_the_budget_takes(records: int, batch: int, steps: int, known: float):
    delta, kind = 1 / (10 * records), Spending(records, batch, 1.0, steps)
    noise = noise_for(8.0, delta, kind, 20)

    assert noise == pytest.approx(known, abs=3e-3)
    assert epsilon([Spending(records, batch, noise, steps)] * 20, delta) <= 8.0


def test_the_accountant_is_named_with_its_version():
    assert accountant() == f"dp-accounting {dp.__version__ if hasattr(dp, '__version__') else '0.6.0'} PLD"


def test_what_is_no_delta_is_refused():
    with pytest.raises(BadSetting, match=r"delta is 1\.5"):
        epsilon([Spending(10, 5, 1.0, 1)], 1.5)


def test_nothing_is_loaded_to_count_nothing():
    """`potluck status` asks in runs without privacy, too, and the library takes a second."""
    code = "import sys; from potluck.client.accounting import epsilon; epsilon([], 1e-5); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    assert "dp_accounting" not in loaded
