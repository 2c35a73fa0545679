"""What is read from a volunteer's folder, what is left out and why, and how it is split."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.aggregation.errors import BadSetting
from potluck.client.data import NoData, Skipped, UnreadableData, preview, read, split
from potluck.client.readers import BLOCK, LONGEST, Part, Sample, paragraphs


def write(folder: Path, **named: str | bytes) -> Path:
    for name, content in named.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def texts(samples) -> list[str]:
    return [sample.text for sample in samples]


def plain(text: str) -> Sample:
    return Sample((Part("", text, trained=True),))


def test_every_format_is_read_and_one_bad_file_spoils_nothing(tmp_path: Path):
    """The volunteer sees each reason; the good files take part all the same."""
    pa.parquet.write_table(pa.table({"text": ["from parquet"], "other": [1]}), tmp_path / "f.parquet")
    write(
        tmp_path,
        a__txt="plain text",
        b__md="# mark\ufeffdown".encode("utf-8-sig"),
        c__jsonl='{"text": "from jsonl"}\n{broken\n\n{"prompt": "2+2=", "completion": " 4"}\n[1]\n',
        d__csv='text\r\n"a ""quoted"" cell"\r\n',
        g__txt=b"\xff\xfe not text",
        h__txt="",
        i__exe="?",
        j__parquet="not parquet",
        k__txt=" \n\n ",
    )
    (tmp_path / ".hidden.txt").write_text("secret")

    dataset = read(tmp_path)

    assert texts(dataset.samples) == [
        "plain text",
        "# mark\ufeffdown",
        "from jsonl",
        "2+2= 4",
        'a "quoted" cell',
        "from parquet",
    ]
    reasons = {entry.where: entry.reason for entry in dataset.skipped}
    assert reasons["c.jsonl line 2"].startswith("malformed JSON")
    assert reasons["c.jsonl line 5"] == "not an object with named fields"
    assert reasons["g.txt"] == "not UTF-8 at byte 0"
    assert reasons["h.txt"] == "empty"
    assert reasons["i.exe"].startswith("unknown suffix '.exe'")
    assert reasons["j.parquet"].startswith("unreadable")
    assert reasons["k.txt (whole file)"].startswith("empty")
    assert len(reasons) == 7
    assert (
        dataset.bytes
        == sum((tmp_path / name).stat().st_size for name in ("a.txt", "b.md", "c.jsonl", "d.csv"))
        + (tmp_path / "f.parquet").stat().st_size
    )


def test_only_what_the_format_says_is_trained_on(tmp_path: Path):
    """Loss on prompts would teach the model to write questions."""
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    rows = [{"messages": turns}, {"prompt": "a", "completion": "b"}]
    write(tmp_path, a__jsonl="\n".join(map(json.dumps, rows)))

    chat, pair = read(tmp_path).samples

    assert chat == Sample((Part("user", "hi", trained=False), Part("assistant", "hello", trained=True)))
    assert chat.is_chat
    assert pair == Sample((Part("", "a", trained=False), Part("", "b", trained=True)))
    assert not pair.is_chat


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"nothing": 1}, "needs the columns"),
        ({"text": None}, "needs the columns"),
        ({"text": 3}, "text must be text"),
        ({"text": "  "}, "empty"),
        ({"prompt": "a", "completion": " "}, "empty completion"),
        ({"messages": "hello"}, "list of turns"),
        ({"messages": [{"role": "root", "content": "x"}]}, "every turn needs a role"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no assistant turn"),
    ],
)
def test_a_row_that_is_no_sample_says_why(tmp_path: Path, row, reason):
    write(tmp_path, a__jsonl=f'{json.dumps(row)}\n{{"text": "good"}}')

    dataset = read(tmp_path)

    assert texts(dataset.samples) == ["good"]
    assert dataset.skipped[0].where == "a.jsonl line 1"
    assert reason in dataset.skipped[0].reason


def test_rows_of_another_format_than_the_run_wants_are_left_out(tmp_path: Path):
    """Consent was given to one kind of data; nothing else slips in."""
    write(tmp_path, a__jsonl='{"text": "x"}\n{"prompt": "p", "completion": "c", "text": "y"}', b__txt="plain")

    dataset = read(tmp_path, "prompt")

    assert texts(dataset.samples) == ["pc"]
    assert [entry.where for entry in dataset.skipped] == ["a.jsonl line 1", "b.txt (whole file)"]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path):
    """A shared folder must not be a way to read the rest of the disk."""
    inside, outside = tmp_path / "chosen", tmp_path / "private"
    inside.mkdir()
    outside.mkdir()
    write(outside, diary__txt="private")
    write(inside, a__txt="public")
    (inside / "b.txt").symlink_to(outside / "diary.txt")
    (inside / "c").symlink_to(outside)
    (inside / "d.txt").symlink_to(inside / "gone.txt")
    (inside / "e.txt").symlink_to("a.txt")
    os.mkfifo(inside / "f.txt")

    dataset = read(inside)

    assert texts(dataset.samples) == ["public", "public"]
    assert dataset.skipped == (
        Skipped("b.txt", "a link that leaves the folder"),
        Skipped("c", "a link that leaves the folder"),
        Skipped("d.txt", "unreadable: No such file or directory"),
        Skipped("f.txt", "not a regular file"),
    )


def test_a_file_over_the_limit_is_left_out(tmp_path: Path):
    write(tmp_path, a__txt="x" * 101, b__txt="small")

    dataset = read(tmp_path, max_file_bytes=100)

    assert dataset.skipped == (Skipped("a.txt", "too large: 101 bytes, the limit is 100"),)


def test_nothing_to_read_is_an_error_with_a_fix(tmp_path: Path):
    with pytest.raises(NoData, match="does not exist"):
        read(tmp_path / "missing")
    with pytest.raises(NoData, match="holds no files"):
        read(tmp_path)
    write(tmp_path, a__exe="?", b__txt=b"\xff")
    with pytest.raises(UnreadableData, match=r"a\.exe: unknown suffix.*b\.txt: not UTF-8") as caught:
        read(tmp_path)
    assert ".jsonl" in caught.value.__notes__[0]
    with pytest.raises(BadSetting, match="'yaml' is unknown"):
        read(tmp_path, "yaml")


@given(st.lists(st.text("ab c\n", max_size=700), max_size=8))
def test_cutting_loses_no_text(pieces):
    """Every character but white space at the joints survives, in order, and samples are neither tiny nor huge."""
    text = "\n\n".join(pieces)

    samples = list(paragraphs(text))

    assert "".join("".join(texts(samples)).split()) == "".join(text.split())
    assert all(len(sample.text) >= BLOCK for sample in samples[:-1])


def test_one_endless_line_still_gives_many_samples():
    samples = list(paragraphs("word " * 5000))

    assert len(samples) > 5
    assert max(len(sample.text) for sample in samples) <= LONGEST


@given(st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=30), st.integers(0, 9), st.floats(0.01, 0.99))
def test_a_split_has_two_parts_without_a_text_in_common(words, seed, share):
    samples = [plain(word) for word in sorted(words)] * 2

    parts = split(samples, share, seed)

    assert parts.train
    assert parts.held_out
    assert not set(parts.train) & set(parts.held_out)
    assert sorted(texts(parts.train + parts.held_out)) == sorted(texts(samples))


def test_adding_a_file_moves_no_sample():
    """Text that was measured with must never be trained on later."""
    before = [plain(f"sample {i}") for i in range(200)]
    first = split(before, 0.2, seed=3)

    later = split([plain("new"), *before, plain("newer")], 0.2, seed=3)

    assert set(first.held_out) <= set(later.held_out)
    assert set(first.train) <= set(later.train)
    assert 20 <= len(first.held_out) <= 60
    assert split(before, 0.2, seed=4) != first


def test_a_single_sample_cannot_be_split():
    with pytest.raises(NoData, match="1 different sample is too little"):
        split([plain("same"), plain("same")], 0.1, seed=0)
    with pytest.raises(BadSetting, match="held_out is 0"):
        split([plain("a"), plain("b")], 0, seed=0)


def test_a_preview_is_short(tmp_path: Path):
    write(tmp_path, a__txt="\n\n".join(["word " * 100] * 5), b__bin="?")

    shown = preview(read(tmp_path), n=2)

    assert shown.rows == 5
    assert shown.characters == 5 * 500 - 1  # the text's own end is trimmed
    assert len(shown.samples) == 2
    assert all(len(text) == 160 and text.endswith("…") for text in shown.samples)
    assert shown.skipped[0].where == "b.bin"
