"""Text by the sample: rows that a client reads as the samples they were, with their owners and labels."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carried import carried, speech
from potluck.aggregation.errors import BadSetting
from potluck.client.data import NoData, UnreadableData, read
from potluck.client.readers import paragraphs, row_samples
from potluck.simulations.worlds.corpora import local, pieces, row_of
from potluck.simulations.worlds.tables import Text

TEXT = st.text(st.sampled_from("ab \n\n\t.") | st.characters(codec="utf-8", exclude_characters="\r"), max_size=1_500)


@given(text=TEXT | TEXT.map(lambda text: text * 40))
def test_a_sample_written_as_a_row_is_read_as_the_same_sample(text: str):
    """Samples of running text are cut once, when the corpus is read; a client that reads them does not cut again."""
    for sample in paragraphs(text):
        if sample.text.strip():
            (again,) = row_samples(json.loads(json.dumps(row_of(sample))), "auto", "")
            assert again.text.strip() == sample.text.strip()


def test_rows_of_all_shapes_are_read_as_the_same_samples():
    rows = [
        {"prompt": "2 + 2 =", "completion": " 4"},
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]},
    ]
    for row in rows:
        (sample,) = row_samples(row, "auto", "")
        assert row_of(sample) == row


def test_shakespeares_samples_are_a_roles_speeches(tmp_path: Path):
    found = pieces(Text(), carried(tmp_path, roles=6))

    assert Counter(piece.owner for piece in found) == {f"play-{i % 2}/ROLE {i}": i + 1 for i in range(6)}
    assert {piece.label for piece in found if piece.owner == "play-1/ROLE 3"} == {"play-1"}
    assert [p.row["text"] for p in found if p.owner == "play-0/ROLE 2"] == [speech(2, n) for n in (1, 2, 3)]


def test_questions_end_where_one_word_completes_them(tmp_path: Path):
    """The file repeats itself, and each question is there once."""
    found = pieces(Text(source="trec"), carried(tmp_path))

    assert Counter(piece.label for piece in found) == {"LOC": 120, "HUM": 60, "NUM": 40, "DESC": 20}
    place = next(piece for piece in found if piece.label == "LOC")
    assert place.row["prompt"].startswith("Question: What is thing number")
    assert place.row["prompt"].endswith("?\nKind of answer:")
    assert place.row["completion"] == " location"
    assert all(len(piece.row["completion"].split()) == 1 for piece in found)


def test_opinions_are_of_rotten_tomatoes_only(tmp_path: Path):
    found = pieces(Text(source="rotten_tomatoes"), carried(tmp_path))

    assert len(found) == 100
    assert found[0].row == {"prompt": "Review: film 0 is what it is\nOpinion:", "completion": " negative"}
    assert {(piece.label, piece.row["completion"]) for piece in found} == {
        ("negative", " negative"),
        ("positive", " positive"),
    }


def test_a_folder_of_folders_has_an_owner_a_folder(tmp_path: Path):
    """And what a client would read of it, as it would read it."""
    for who in ("ann", "bob"):
        (tmp_path / who / "notes").mkdir(parents=True)
        (tmp_path / who / "notes" / "a.txt").write_text("\n\n".join(speech(len(who), i) for i in (1, 2)), "utf-8")
        (tmp_path / who / "b.jsonl").write_text(f'{{"text": "{who} says so"}}\n', "utf-8")
    found = local(tmp_path, Text(source=str(tmp_path)))

    assert Counter(piece.owner for piece in found) == {"ann": 3, "bob": 3}
    assert sorted(p.row["text"] for p in found) == sorted(sample.text for sample in read(tmp_path).samples)


def test_a_folder_of_files_has_an_owner_a_file(tmp_path: Path):
    for who in ("ann", "bob"):
        (tmp_path / f"{who}.md").write_text(f"What {who} wrote.", "utf-8")

    assert {piece.owner for piece in local(tmp_path, Text(source="x"))} == {"ann", "bob"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_columns_say_whose_a_row_is_and_which_label_it_has(tmp_path: Path, suffix: str):
    rows = [{"text": f"note {i}", "mood": "glad" if i % 3 else "sad", "who": f"p{i % 2}"} for i in range(6)]
    lines = {
        ".csv": ["text,mood,who", *(",".join(row.values()) for row in rows)],
        ".jsonl": [json.dumps(row) for row in rows],
    }
    path = tmp_path / f"notes{suffix}"
    path.write_text("\n".join(lines[suffix]), "utf-8")
    found = pieces(Text(source=str(path), label="mood", owner="who"), tmp_path)

    assert [(p.row, p.label, p.owner) for p in found] == [({"text": r["text"]}, r["mood"], r["who"]) for r in rows]


def test_a_column_that_a_row_lacks_is_an_error_that_names_the_row(tmp_path: Path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "a", "mood": "sad"}\n{"text": "b"}\n', "utf-8")
    with pytest.raises(BadSetting, match="line 2 has no column mood"):
        local(path, Text(source=str(path), label="mood"))


def test_a_column_of_what_has_none_is_refused(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("plain", "utf-8")
    with pytest.raises(BadSetting, match=r"notes\.txt has none"):
        local(path, Text(source=str(path), owner="who"))
    with pytest.raises(BadSetting, match="'trec', which has no columns"):
        pieces(Text(source="trec", label="kind"), carried(tmp_path / "cache"))


def test_what_takes_no_part_is_told_and_spoils_nothing(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": 5}\nnot JSON\n', "utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    told: list[str] = []

    found = local(tmp_path, Text(source="x"), told.append)

    assert [piece.row for piece in found] == [{"text": "good"}]
    assert "4 files or rows" in told[0]
    assert "a.jsonl line 2: text must be text" in told[0]


def test_nothing_to_read_is_refused(tmp_path: Path):
    with pytest.raises(NoData, match="does not exist"):
        local(tmp_path / "none", Text(source="x"))
    with pytest.raises(UnreadableData, match="it holds no files"):
        local(tmp_path, Text(source="x"))
