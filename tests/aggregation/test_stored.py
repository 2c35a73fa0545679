"""Updates that lie elsewhere: what is read when, and what is not there."""

import pytest

from potluck.aggregation import Parts, StoredUpdates


def test_parts_read_a_module_when_it_is_asked_for_and_keep_nothing():
    read: list[str] = []
    parts = Parts(("b", "a"), lambda name: read.append(name) or name * 2)

    assert (list(parts), len(parts), "a" in parts, "c" in parts) == (["b", "a"], 2, True, False)
    assert read == []
    assert [parts["a"], parts["b"], parts["a"]] == ["aa", "bb", "aa"]
    assert read == ["a", "b", "a"]


def test_a_module_that_is_not_there_is_not_read():
    parts = Parts(["a"], lambda name: pytest.fail(f"{name} was read"))

    with pytest.raises(KeyError, match=r"^'c'$"):
        parts["c"]


def test_names_that_are_a_mapping_are_shared_and_others_are_copied():
    shared, listed = {"a": None}, ["a"]
    of_shared, of_listed = Parts(shared, str), Parts(listed, str)

    shared["b"] = None
    listed.append("b")

    assert (list(of_shared), list(of_listed)) == (["a", "b"], ["a"])


def test_stored_updates_are_opened_each_time_they_are_asked_for():
    opened: list[int] = []
    stored = StoredUpdates(4, lambda place: opened.append(place) or 10 * place)

    assert (len(stored), opened) == (4, [])
    assert (stored[0], stored[3], stored[3]) == (0, 30, 30)
    assert opened == [0, 3, 3]
    assert (stored[1:3], stored[::-2], stored[9:]) == ([10, 20], [30, 10], [])
    assert list(stored) == [0, 10, 20, 30]


@pytest.mark.parametrize("place", [-1, 4, 5])
def test_a_place_outside_is_not_opened(place: int):
    stored = StoredUpdates(4, lambda place: pytest.fail(f"{place} was opened"))

    with pytest.raises(IndexError, match=f"^{place}$"):
        stored[place]
