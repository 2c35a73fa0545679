"""The operator, the log and the card say who was weighted down and why; nobody's name is on the card."""

import json
import logging

import pytest

from coordinators import Hosted, hosting
from potluck.aggregation import Report, Truncation
from potluck.aggregation.screening import Finding, Verdict
from potluck.coordinator.phases import Phase
from potluck.coordinator.store.records import Input
from potluck.coordinator.trust import RoundReport, told
from potluck.wire.audit import verify_log
from scripted import enlarged, recipe

DEFENDED = {"cohort": 6, "weights": ["examples", "staleness", "cap", "norm_bound", "nnm", "geomedian"]}


@pytest.fixture(scope="module")
def suspicious(tmp_path_factory: pytest.TempPathFactory):
    """A round of six in which one sends fifty times what it trained, and two the same; and what was warned of."""
    folder = tmp_path_factory.mktemp("suspicious") / "run"
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("potluck.coordinator.committing").addHandler(handler)
    with hosting(folder, recipe(aggregation=DEFENDED)) as hosted:
        volunteers = hosted.cohort(6)
        theirs = volunteers[4].lease()
        copied = volunteers[4].train(theirs)
        for volunteer in volunteers[:4]:
            lease = volunteer.lease()
            volunteer.deliver(lease, enlarged(volunteer.train(lease), 50) if volunteer is volunteers[0] else None)
        volunteers[4].deliver(theirs, copied)
        volunteers[5].deliver(volunteers[5].lease(), copied, examples=9)
        assert hosted.coordinator.wait_for_version(1, 10)
        yield hosted, volunteers, warned
    logging.getLogger("potluck.coordinator.committing").removeHandler(handler)


def report_of(hosted: Hosted) -> RoundReport:
    (report,) = hosted.coordinator.desk.reports()
    return report


def test_the_report_says_who_was_weighted_down_and_why(suspicious):
    hosted, volunteers, _ = suspicious
    report = report_of(hosted)

    down = {one["client"]: one for one in report.weighted_down}[volunteers[0].client_id[:8]]
    assert (report.round, report.phase, report.version, report.updates) == (1, Phase.COMMITTED, 1, 6)
    assert down["weight"] < 0.01
    assert down["share"] == pytest.approx(8 / 49)
    assert any(reason.startswith("norm_bound left") for reason in down["why"])
    assert any("times as long as the median update" in reason for reason in down["why"])


def test_findings_name_the_check_its_number_and_who_else_is_in_it(suspicious):
    hosted, volunteers, _ = suspicious
    found = {one["check"]: one for one in report_of(hosted).findings}
    copies = {volunteer.client_id[:8] for volunteer in volunteers[4:]}

    assert found["norm"]["client"] == volunteers[0].client_id[:8]
    assert found["norm"]["measured"] > found["norm"]["bound"]
    assert {found["duplicate"]["client"], *found["duplicate"]["others"]} == copies


def test_findings_are_warned_of_with_short_ids(suspicious):
    _, volunteers, warned = suspicious

    (line,) = [one for one in warned if "check=norm" in one]
    assert line.startswith(
        f"event=finding round=1 client={volunteers[0].client_id[:8]} check=norm with=nobody reason=is "
    )
    assert [one for one in warned if f"check=duplicate with={volunteers[4].client_id[:8]} reason=is 1 times" in one]


def test_the_log_holds_the_report_and_no_whole_id(suspicious):
    hosted, volunteers, _ = suspicious
    assert hosted.coordinator.wait_for_version(1, 10)
    entry = next(
        line
        for line in (hosted.folder / "log.jsonl").read_text("utf-8").splitlines()
        if json.loads(line)["entry"]["kind"] == "round_committed"
    )

    assert verify_log(hosted.folder).version == 1
    assert json.loads(entry)["entry"]["inputs"] == list(report_of(hosted).facts["inputs"])
    assert not [one for one in volunteers if one.client_id in entry]


def test_the_card_tells_how_many_and_names_nobody(suspicious):
    hosted, volunteers, _ = suspicious
    card = (hosted.folder / "releases" / "v0001" / "README.md").read_text("utf-8")

    count = len(report_of(hosted).weighted_down)
    assert 1 <= count <= 3
    assert f"| counted less than half of what they stated | {count} of 6 updates |" in card
    assert "| loss on the coordinator's own text | not measured |" in card
    assert not [one for one in volunteers if one.client_id[:8] in card]


def test_places_become_clients_by_the_round_s_own_order():
    """Findings and verdicts speak of places; a mistake here would accuse somebody else."""
    rows = [Input(bytes([n]) * 32, 0, 8, 3, bytes([n])) for n in range(3)]
    clients = {bytes([0]): "anna" * 8, bytes([1]): "bob-" * 8, bytes([2]): "cora" * 8}
    cost = Truncation(1.0, 0.5)
    report = Report(
        weights=(0.1, 0.2, 0.7),
        norms=(1.0, 2.0, 3.0),
        modules={},
        total=cost,
        findings=(Finding(2, "duplicate", 1.0, 0.9, "is a copy", (0,)),),
        verdicts=(Verdict(1, 0.4, 0.2, weighted_down=True, reasons=("krum left 5% of its weight",)),),
    )

    facts = told(report, rows, clients)

    assert [one["client"] for one in facts["inputs"]] == ["annaanna", "bob-bob-", "coracora"]
    assert [one.get("weighted_down") for one in facts["inputs"]] == [None, True, None]
    assert facts["inputs"][1]["why"] == ["krum left 5% of its weight"]
    assert facts["findings"][0]["client"] == "coracora"
    assert facts["findings"][0]["others"] == ["annaanna"]
    assert facts["truncation_error"] == 0.5
