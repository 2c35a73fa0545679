"""Runs beside each other: the three questions by hand, and which runs are not of one task."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.cbook import is_math_text

from potluck.simulations.reports.beside import PAGE, PICTURE, draw, quality_table, target_table, write_comparison
from potluck.simulations.reports.canvas import LIGHT, to_png
from potluck.simulations.reports.comparison import Asked, Comparison, compare, names_of
from potluck.simulations.reports.ground import NotComparable, check_comparable, what_differs
from potluck.simulations.reports.protocols import (
    common_target,
    cost_to_target,
    quality_under_budget,
    robustness,
    trajectory,
)
from potluck.simulations.reports.runs import NotARun, Run, read_run
from potluck.wire.recipe import Recipe
from simulated import MadeUp, client_row, round_row, run_of, write_run

NAN = math.nan


def spending(*rounds: tuple[float, int], **made) -> Run:
    """Return a run of rounds with these losses, each of so many bytes up; an hour and ten tokens a round."""
    rows = [
        round_row(n, loss, bytes_up=size, bytes_down=1, ended_h=float(n), tokens=10, leases=4, updates=2)
        for n, (loss, size) in enumerate(rounds, 1)
    ]
    return run_of(rows, clients=[client_row("a", loss_base=4.0)], made=MadeUp(**made))


FRUGAL = spending((3.5, 9), (NAN, 9), (3.0, 9), (3.2, 9))
LAVISH = spending((3.0, 99), (2.5, 99), rule="fedit")


def test_a_round_without_a_version_costs_too():
    """By hand: 10 bytes a round; the second was not measured, and its bytes count for the third."""
    points = trajectory(FRUGAL)

    assert [(p.round, p.loss, p.bytes, p.hours, p.tokens) for p in points] == [
        (1, 3.5, 10, 1, 10),
        (3, 3.0, 30, 3, 30),
        (4, 3.2, 40, 4, 40),
    ]


def test_quality_under_a_budget_by_hand():
    """The best version within it: a later, worse one does not undo it; exactly the budget is within it."""
    found = quality_under_budget([FRUGAL, LAVISH], {"bytes": 40, "hours": 1.5, "tokens": 5})

    assert [(each.cost, each.budget) for each in found] == [("bytes", 40), ("hours", 1.5), ("tokens", 5)]
    assert found[0].losses == pytest.approx((3.0, NAN), nan_ok=True)
    assert found[1].losses == (3.5, 3.0)
    assert found[2].losses == pytest.approx((NAN, NAN), nan_ok=True)


def test_budgets_that_nobody_named_are_what_every_run_could_afford():
    """The thriftiest spent 40 bytes; the shortest took 2 hours and 20 tokens."""
    found = quality_under_budget([FRUGAL, LAVISH], {})

    assert [(each.cost, each.budget) for each in found] == [
        *(("bytes", value) for value in (10, 20, 40)),
        *(("hours", value) for value in (0.5, 1, 2)),
        *(("tokens", value) for value in (5, 10, 20)),
    ]
    assert found[5].losses == (3.5, 2.5)


def test_cost_to_a_target_by_hand():
    """The lowest loss that both reached is 3.0; the first version that good counts, and nobody reached 2."""
    assert common_target([FRUGAL, LAVISH]) == 3.0

    frugal, lavish = cost_to_target(("f", "l"), [FRUGAL, LAVISH], 3.0)
    nobody = cost_to_target(("f", "l"), [FRUGAL, LAVISH], 2.0)

    assert (frugal.run, frugal.reached.round, frugal.reached.bytes) == ("f", 3, 30)
    assert (lavish.run, lavish.reached.round, lavish.reached.bytes) == ("l", 1, 100)
    assert [each.reached for each in nobody] == [None, None]


def test_there_is_no_common_target_where_a_run_was_never_measured():
    assert math.isnan(common_target([FRUGAL, spending((NAN, 9))]))
    assert math.isnan(common_target([FRUGAL, spending((math.inf, 9))]))
    assert math.isnan(common_target([]))


def test_robustness_by_hand():
    """Base 4.0; clean 2.0, attacked 2.5, half of its leases lost 3.0: three quarters and half of the gain are kept."""
    clean, attacked, leaving = spending((2.0, 9)), spending((2.5, 9)), spending((3.0, 9))
    attacked = replace(attacked, rounds=tuple(replace(row, hostile=1) for row in attacked.rounds))
    leaving = replace(leaving, rounds=tuple(replace(row, dropped=2) for row in leaving.rounds))
    other = spending((1.0, 9), rule="fedit")

    found = robustness(("a", "b", "c", "d"), [attacked, leaving, clean, other])

    assert [(each.run, each.beside, each.hostile, each.lost, each.loss, each.clean_loss) for each in found] == [
        ("a", "c", 0.5, 0.0, 2.5, 2.0),
        ("b", "c", 0.0, 0.5, 3.0, 2.0),
    ]
    assert [each.kept for each in found] == pytest.approx([0.75, 0.5])
    assert [each.worse for each in found] == pytest.approx([0.25, 0.5])
    assert math.isnan(replace(found[0], clean_loss=0.0).worse)


def test_robustness_takes_the_last_version_not_the_best():
    """What an attack breaks stays broken, however good a version was before."""
    clean, broken = spending((3.0, 9), (2.0, 9)), spending((3.0, 9), (5.0, 9))
    broken = replace(broken, rounds=tuple(replace(row, hostile=1) for row in broken.rounds))

    (found,) = robustness(("clean", "broken"), [clean, broken])

    assert found.loss == 5.0
    assert found.kept == -0.5


def changed(run: Run, case: str) -> Run:
    """Return *run*, as a run of another task."""
    table = json.loads(run.recipe.to_json())
    clients = list(run.clients)
    match case:
        case "another base":
            table["model"] |= {"digest": "cd" * 32, "base": "another"}
        case "more held out":
            table["data"]["held_out"] = 0.2
        case "longer rows":
            table["data"]["max_tokens"] = 99
        case "fewer clients":
            clients = clients[1:]
        case "other text":
            clients[0] = replace(clients[0], bytes_of_text=7)
        case "others measured":
            clients[0] = replace(clients[0], loss_base=NAN)
        case "another loss of the base":
            clients[3] = replace(clients[3], loss_base=1.01 * clients[3].loss_base)
        case _:
            raise KeyError(case)
    return replace(run, recipe=Recipe.parse(json.dumps(table)), clients=tuple(clients))


REFUSED = {
    "another base": "their base models are 'a tiny base' and 'another'",
    "more held out": "data.held_out is 0.1 and 0.2",
    "longer rows": "data.max_tokens is 256 and 99",
    "fewer clients": "they have 40 and 39 clients, of whom 39 are the same",
    "other text": "they have 40 and 40 clients, of whom 39 are the same",
    "others measured": "40 and 39 clients were measured",
    "another loss of the base": "differs for 1 clients, for client-003",
}


@pytest.mark.parametrize("case", REFUSED)
def test_runs_of_another_task_are_refused_with_the_numbers(tmp_path: Path, case: str):
    """A loss on other text, or over another base, says nothing beside this one."""
    run = read_run(write_run(tmp_path / "run"))
    check_comparable(("a", "b"), [run, run])

    with pytest.raises(NotComparable, match=REFUSED[case]) as refused:
        check_comparable(("a", "b"), [run, changed(run, case)])
    assert str(refused.value).startswith("a and b cannot be compared: ")
    assert refused.value.__notes__


def test_the_base_s_loss_may_differ_by_its_last_digits(tmp_path: Path):
    """Other batches and threads add in another order."""
    run = read_run(write_run(tmp_path / "run"))
    clients = tuple(replace(row, loss_base=row.loss_base * (1 + 1e-6)) for row in run.clients)

    check_comparable(("a", "b"), [run, replace(run, clients=clients)])


def test_who_took_part_may_differ(tmp_path: Path):
    """How many examples a client has is known once it has trained, which is another one's turn in another run."""
    run = read_run(write_run(tmp_path / "run"))
    clients = tuple(replace(row, examples=0, leases=9, counted=3, hostile=True, rank=2) for row in run.clients)

    check_comparable(("a", "b"), [run, replace(run, clients=clients)])


def test_one_run_alone_is_not_compared(tmp_path: Path):
    folder = write_run(tmp_path / "run")

    with pytest.raises(NotComparable, match="1 run is given"):
        compare([folder], Asked({}))
    with pytest.raises(NotARun, match="nowhere is no folder"):
        compare([folder, tmp_path / "nowhere"], Asked({}))


def test_what_differs_is_named_with_each_run_s_value(tmp_path: Path):
    runs = [
        read_run(write_run(tmp_path / "a")),
        read_run(write_run(tmp_path / "b", MadeUp(rule="fedit", attack="ipm"))),
    ]

    assert what_differs(runs) == [("recipe.aggregation.rule", ("mean", "fedit")), ("scenario.attack", ("", "ipm"))]
    assert what_differs([runs[0], runs[0]]) == []


def test_what_differs_inside_lists_of_tables_is_named_alone():
    """One of many settings of one of several kinds of machines; what the scenario is about changes nothing."""
    devices = [{"name": "laptop", "share": 0.5}, {"name": "phone", "share": 0.5}]
    other = [devices[0], devices[1] | {"share": 0.7}]
    runs = [
        replace(FRUGAL, scenario={"about": text, "devices": machines, "zones": [1, 2]})
        for text, machines in (("one", devices), ("two", other))
    ]

    assert what_differs(runs) == [("scenario.devices.2.share", ("0.5", "0.7"))]


def test_names_are_as_short_as_they_may_be():
    paths = [Path("/x/one/seed-1"), Path("/x/two/seed-1"), Path("/x/two/seed-2"), Path("/x/two/seed-2")]

    assert names_of(paths) == ("one/seed-1", "two/seed-1", "seed-2", "seed-2 (2)")


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "clean", MadeUp(rounds=8)),
        write_run(tmp_path / "attacked", MadeUp(rounds=8, hostile=0.2, harm=0.4, attack="sign_flip", seed=1)),
        write_run(tmp_path / "other<rule>", MadeUp(rounds=5, rule="fedit", gain=0.6, seed=2)),
    ]


def test_a_comparison_is_whole_and_strict_json(three: list[Path]):
    """No NaN: a program reads it with any parser."""
    comparison = compare(three, Asked({"bytes": 1.0}))

    text = json.dumps(comparison.to_json(), allow_nan=False)

    told = json.loads(text)
    assert [run["run"] for run in told["runs"]] == ["clean", "attacked", "other<rule>"]
    assert told["quality_under_budget"][0] == {"cost": "bytes", "budget": 1.0, "losses": [None, None, None]}
    assert told["cost_to_target"]["target"] == comparison.target == max(run.best_loss for run in comparison.runs)
    assert all(each["reached"]["loss"] <= comparison.target for each in told["cost_to_target"]["runs"])
    (robust,) = told["robustness"]
    assert (robust["run"], robust["beside"]) == ("attacked", "clean")
    assert 0.4 < robust["kept"] < 0.7  # 0.5 of 0.9 nats
    assert told["settings"]["recipe.aggregation.rule"] == ["mean", "mean", "fedit"]


def test_a_target_that_somebody_names_is_taken(three: list[Path]):
    comparison = compare(three, Asked({}, target=0.0))

    assert comparison.target == 0
    assert [row[1:] for row in target_table(comparison)[1]] == [("–",) * 4] * 3


def test_the_page_and_the_picture_show_every_run(three: list[Path], tmp_path: Path):
    comparison = compare(three, Asked({}))

    page = write_comparison(comparison, tmp_path / "new" / "folder")

    text = page.read_text("utf-8")
    assert page == tmp_path / "new" / "folder" / PAGE
    assert (page.parent / PICTURE).stat().st_size > 10_000
    assert "other&lt;rule&gt;" in text
    assert "other<rule>" not in text
    assert "http" not in text
    assert all(cell in text for row in quality_table(comparison)[1] for cell in map(str, row))


def test_the_picture_has_a_line_for_each_run_and_cost(three: list[Path]):
    comparison = compare(three, Asked({}))

    panels = draw(comparison, LIGHT).axes

    assert len(panels) == 3
    for axes, cost in zip(panels, ("bytes", "hours", "tokens"), strict=True):
        *lines, target = axes.get_lines()
        assert [line.get_label() for line in lines] == list(comparison.names)
        assert target.get_ydata() == [comparison.target] * 2
        for line, run in zip(lines, comparison.runs, strict=True):
            assert list(line.get_xdata()) == [point.spent(cost) for point in trajectory(run)]
            assert list(line.get_ydata()) == [row.loss for row in run.rounds]


@pytest.mark.parametrize("name", ["_hidden", "a$b$c", "\u5b9f\u9a13", "tab\there"])
def test_a_run_of_any_name_is_in_the_legend(tmp_path: Path, name: str):
    """Matplotlib hides labels that begin with _, sets $b$ as a formula, and warns of scripts that its font lacks."""
    runs = [write_run(tmp_path / each, MadeUp(rounds=2)) for each in (name, "plain")]
    comparison = compare(runs, Asked({}))

    drawn = draw(comparison, LIGHT)

    assert to_png(drawn)
    shown = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert [each.replace("\\$", "$").strip() for each in shown] == [name.replace("\t", "\ufffd"), "plain", "target"]
    assert not any(map(is_math_text, shown))


@pytest.mark.parametrize(("hours", "said"), [(0.02, "40 s"), (0.08, "2 min"), (3.3, "2 h"), (70.0, "2 days")])
def test_marks_of_time_stand_at_whole_units(hours: float, said: str):
    """What a mark says is where it stands, not rounded to it."""
    run = spending((3.0, 9))
    run = replace(run, rounds=tuple(replace(row, ended_h=hours) for row in run.rounds))

    axes = draw(Comparison(("a",), (run,), (), 3.0, (), (), ()), LIGHT).axes[1]

    marks = {axes.xaxis.get_major_formatter()(mark, 0): mark for mark in axes.get_xticks()}
    seconds = {"s": 1, "min": 60, "h": 3600, "days": 86_400}
    assert said in marks
    for text, mark in marks.items():
        number, unit = text.split()
        assert float(number) * seconds[unit] == pytest.approx(3600 * mark)


def test_a_run_that_diverged_is_shown_beside_one_that_did_not(tmp_path: Path):
    """An infinite loss is a measurement: the line ends there, and nothing of the gain is kept."""
    names = ("whole", "broken")
    whole, broken = (spending((3.0, 9), (last, 9)) for last in (2.5, math.inf))
    broken = replace(broken, rounds=tuple(replace(row, hostile=1) for row in broken.rounds))
    comparison = Comparison(names, (whole, broken), (), 3.0, (), tuple(robustness(names, [whole, broken])), ())

    page = write_comparison(comparison, tmp_path).read_text("utf-8")

    assert [list(line.get_ydata()) for line in draw(comparison, LIGHT).axes[0].get_lines()[:2]] == [[3.0, 2.5], [3.0]]
    assert "inf" in page
    assert json.dumps(comparison.to_json(), allow_nan=False)


def test_runs_that_were_never_measured_are_compared_without_losses(tmp_path: Path):
    folders = [write_run(tmp_path / name, MadeUp(rounds=2, measured=False)) for name in ("a", "b")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / PICTURE).write_bytes(b"of earlier runs")

    comparison = compare(folders, Asked({}))
    page = write_comparison(comparison, tmp_path / "out")

    assert json.loads(json.dumps(comparison.to_json(), allow_nan=False))["cost_to_target"]["target"] is None
    assert "No version of any run was measured." in page.read_text("utf-8")
    assert not (tmp_path / "out" / PICTURE).exists()
