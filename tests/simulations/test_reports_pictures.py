"""What the pictures of a report draw: the rows, and nothing else."""

import math

import numpy as np
import pytest

from potluck.simulations.reports.canvas import LIGHT
from potluck.simulations.reports.pictures import PICTURES
from simulated import client_row, round_row, run_of, update_row


def lines_of(axes) -> dict[str, tuple[list, list]]:
    return {line.get_label(): tuple(map(list, line.get_data())) for line in axes.get_lines()}


def test_the_picture_of_losses_draws_the_rows():
    """A round that was not measured is left out; the band needs three clients of a version."""
    before = [update_row("a", 1, 1, version=v, loss_before=x) for v in (0, 1) for x in (2.0, 3.0, 4.0)]
    few = update_row("a", 1, 1, version=2, loss_before=9.0)
    run = run_of(
        [
            round_row(1, 3.0, version=1, loss_worst_decile=3.5),
            round_row(2, math.nan, version=1),
            round_row(3, 2.5, version=2, loss_worst_decile=3.2),
        ],
        [*before, few],
        [client_row("a", loss_base=3.3)],
    )

    (axes,) = PICTURES["loss"].draw(run, LIGHT).axes

    drawn = lines_of(axes)
    assert drawn["all clients"] == ([1, 3], [3.0, 2.5])
    assert drawn["worst tenth of clients"] == ([1, 3], [3.5, 3.2])
    assert drawn["base model"][1] == pytest.approx([3.3, 3.3])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert set(corners[:, 0]) == {0, 1}
    assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((2.2, 3.8))


def test_the_picture_of_bytes_draws_both_ways():
    run = run_of([round_row(1, 3.0, bytes_up=10, bytes_down=1000), round_row(2, 3.0, bytes_up=30, bytes_down=500)])

    up, down = PICTURES["bytes"].draw(run, LIGHT).axes

    assert [bar.get_height() for bar in up.patches] == [10, 30]
    assert [bar.get_height() for bar in down.patches] == [1000, 500]
    assert up.get_title(loc="left") == "up, from clients: 40 B in all"


@pytest.mark.parametrize(
    ("last_h", "unit", "ends"),
    [
        (0.25, "minutes", [7.5, 15.0]),
        (10.0, "hours", [5.0, 10.0]),
        (96.0, "days", [2.0, 4.0]),
        (0.01, "seconds", [18.0, 36.0]),
    ],
)
def test_the_picture_of_hours_has_a_bar_from_begin_to_end(last_h: float, unit: str, ends: list[float]):
    run = run_of(
        [
            round_row(1, 3.0, ended="COMMITTED", ended_h=last_h / 2),
            round_row(2, 3.0, ended="ABANDONED", began_h=last_h / 2, ended_h=last_h),
        ]
    )

    (axes,) = PICTURES["hours"].draw(run, LIGHT).axes

    made, none = axes.collections
    assert [made.get_label(), none.get_label()] == ["made a version", "made none"]
    assert [each.get_segments()[0][1][0] for each in (made, none)] == pytest.approx(ends)
    assert unit in axes.get_xlabel()


def test_the_picture_of_leases_stacks_every_ending():
    endings = ["counted", "counted", "late", "dropped", "expired", "rejected"]
    run = run_of(updates=[update_row("a", 1, 1, round=n, outcome=each) for n in (1, 2) for each in endings])

    (axes,) = PICTURES["leases"].draw(run, LIGHT).axes

    found = {bars.get_label(): [(bar.get_y(), bar.get_height()) for bar in bars] for bars in axes.containers}
    assert found == {
        "counted, 4": [(0, 2)] * 2,
        "late, 2": [(2, 1)] * 2,
        "dropped, 2": [(3, 1)] * 2,
        "expired, 2": [(4, 1)] * 2,
        "rejected, 2": [(5, 1)] * 2,
    }


def test_the_picture_of_staleness_counts_combined_updates_only():
    run = run_of(
        updates=[update_row("a", 1, 1, staleness=n) for n in (0, 0, 2)]
        + [update_row("a", math.nan, math.nan, staleness=1, outcome="late")]
    )

    (axes,) = PICTURES["staleness"].draw(run, LIGHT).axes

    assert [bar.get_height() for bar in axes.patches] == [2, 0, 1]


def test_the_pictures_of_points_tell_the_hostile_apart():
    run = run_of(
        updates=[
            update_row("a", 0.6, 0.9),
            update_row("b", 0.4, 0.1, hostile=True),
            update_row("c", math.nan, math.nan),
        ],
        clients=[
            client_row("a", loss_base=3.0, loss=2.0),
            client_row("b", loss_base=3.5, loss=3.0, hostile=True),
            client_row("c", loss_base=3.5),
        ],
    )

    found = {
        name: [
            np.asarray(points.get_offsets()).tolist() for points in PICTURES[name].draw(run, LIGHT).axes[0].collections
        ]
        for name in ("weights", "clients")
    }

    assert found["weights"] == [[[60.0, 90.0]], [[40.0, pytest.approx(10.0)]]]
    assert found["clients"] == [[[3.0, -1.0]], [[3.5, -0.5]]]


def test_a_picture_of_very_many_points_shows_one_in_a_few_and_says_so():
    """A hundred thousand updates would make a page of many megabytes."""
    run = run_of(updates=[update_row("a", n / 9000, 0.5, hostile=n % 3 == 0) for n in range(9000)])

    (axes,) = PICTURES["weights"].draw(run, LIGHT).axes

    assert [len(points.get_offsets()) for points in axes.collections] == [2000, 1000]
    assert [points.get_label() for points in axes.collections] == ["update, one in 3", "hostile update, one in 3"]
