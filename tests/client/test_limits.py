import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation.errors import BadSetting, UnknownName
from potluck.client.limits import Limits, limits_at

limits = st.builds(
    Limits,
    on_battery=st.booleans(),
    core_share=st.floats(0.01, 1),
    nice=st.integers(0, 19),
    busy_share=st.floats(0.01, 1),
    min_free_ram_gib=st.floats(0, 100),
    min_free_disk_gib=st.floats(0, 100),
)


@given(written=limits)
def test_what_is_written_is_read_back(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("home") / "limits.toml"

    written.write(path)

    assert limits_at(path) == written
    assert path.read_text().count("# ") == 1 + len(Limits.model_fields)


def test_without_a_file_the_defaults_are_those_of_a_good_guest(tmp_path):
    found = limits_at(tmp_path / "limits.toml")

    assert not found.on_battery
    assert found.sentence(8).startswith(
        "I compute on mains only, while other programs use under 50% of the machine, on 4"
    )
    assert found.sentence(8).endswith("Change: potluck limits")


@pytest.mark.parametrize(("line", "error"), [("nice = 20", BadSetting), ("nicer = 1", UnknownName)])
def test_a_slip_is_refused_with_the_fix(tmp_path, line, error):
    (tmp_path / "limits.toml").write_text(line)

    with pytest.raises(error) as caught:
        limits_at(tmp_path / "limits.toml")
    assert "nice" in caught.value.__notes__[0]


@given(cores=st.integers(1, 512), found=limits)
def test_there_is_always_a_thread_and_never_more_than_the_share(cores, found):
    threads = found.threads(cores)

    assert 1 <= threads <= max(1, cores * found.core_share)


def test_a_wrong_budget_is_told_with_what_would_be_right():
    with pytest.raises(BadSetting, match="max_epsilon is -1") as refused:
        Limits.parse('{"max_epsilon": -1}')
    assert "max_epsilon: 0 or more, such as 8" in str(refused.value.__notes__)
