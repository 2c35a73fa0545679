"""What looks private is found by its form, shown so that only its owner knows it again, and left out by default."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.client.data import Dataset, NoData, read
from potluck.client.flags import Flagger, account, luhn, redacted, sieve_of
from potluck.client.readers import Part, Sample

FLAGGER = Flagger()
PRIVATE = {
    "e-mail address": "Write to ann.smith+mail@post.example.org, she knows.",
    "card number": "It was charged to 4111 1111 1111 1111 in May.",
    "bank account": "Send it to DE89 3704 0044 0532 0130 00, please.",
    "telephone number": "Ring me at +44 20 7946 0958 after six.",
    "aws access key": "export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE",
    "github token": "token ghp_" + "a1B2" * 9,
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    "json web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "basic auth credentials": "git clone https://ann:parsnips99@git.example.com/x",
    "secret keyword": 'password = "correct horse 77"',
}
PLAIN = [
    "In 1990 there were 1,234,567 of 12345 things; chapter 3.4.5, ISBN 978-3-16-148410-0.",
    "The secret of the password is love, she said, and meant it.",
    "Meet at 10 30 on 12 11 2024 in room 555.",
    "An array of 4111 1111 1111 1112 is no card, DE88 3704 0044 0532 0130 00 no account.",
    "Let me not to the marriage of true minds\nAdmit impediments.",
]


def dataset(*texts: str) -> Dataset:
    return Dataset(tuple(Sample((Part("", text, trained=True),)) for text in texts), (), 100)


@pytest.mark.parametrize("kind", PRIVATE)
def test_what_is_private_by_its_form_is_flagged(kind: str):
    assert kind in {flag.kind for flag in FLAGGER.flags(PRIVATE[kind])}


@pytest.mark.parametrize("text", PLAIN, ids=range(len(PLAIN)))
def test_what_only_looks_a_little_like_it_is_not(text: str):
    assert FLAGGER.flags(text) == ()


def test_flagged_samples_are_left_out_and_listed_without_a_word_of_them():
    sieved = FLAGGER.sieve(dataset(PLAIN[0], *PRIVATE.values(), PLAIN[1]))

    assert [sample.text for sample in sieved.dataset.samples] == PLAIN[:2]
    assert sieved.flagged == len(PRIVATE) == len(sieved.dataset.skipped)
    assert set(PRIVATE) <= set(sieved.kinds)
    assert [entry.where for entry in sieved.dataset.skipped[:2]] == ["sample 2", "sample 3"]
    told = repr(sieved.dataset.skipped) + repr(sieved.kinds) + repr(sieved.examples)
    for secret in ("4111 1111", "smith", "3704", "7946", "IOSFODNN", "parsnips99", "correct horse"):
        assert secret not in told


def test_the_owner_may_keep_them():
    whole = dataset(*PRIVATE.values())

    sieved = FLAGGER.sieve(whole, keep=True)

    assert sieved.dataset == whole
    assert sieved.flagged == len(PRIVATE)
    assert sieve_of(keep_flagged=True)(whole) is whole


def test_where_nothing_would_be_left_it_is_said_why():
    with pytest.raises(NoData, match="all 1 samples look as if") as caught:
        sieve_of(keep_flagged=False)(dataset(PRIVATE["card number"]))
    assert "--keep-flagged" in str(caught.value.__notes__)


def test_a_chat_is_flagged_by_any_of_its_turns():
    turns = (Part("user", PRIVATE["e-mail address"], trained=False), Part("assistant", "Gladly.", trained=True))

    assert FLAGGER.sieve(Dataset((Sample(turns), Sample((Part("", "x", trained=True),))), (), 9)).flagged == 1


def test_files_go_through_it_as_they_are_read(tmp_path: Path):
    (tmp_path / "a.txt").write_text(PLAIN[4] + "\n\n" + "and so on " * 40 + "\n\n" + PRIVATE["github token"], "utf-8")

    left = sieve_of(keep_flagged=False)(read(tmp_path))

    assert len(left.samples) == 1
    assert "ghp_" not in left.samples[0].text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="…"), min_size=4, max_size=60))
def test_a_redacted_thing_shows_a_quarter_at_most(what: str):
    shown = redacted(what).split("…")[0]

    assert len(shown) <= min(3, len(what) // 4)
    assert f"({len(what)} characters)" in redacted(what)


@given(st.integers(10**12, 10**18 - 1))
def test_one_check_digit_of_ten_makes_a_card_number(body: int):
    """Luhn's check: of the ten numbers with one body, exactly one is right, and a changed digit is found."""
    right = [digit for digit in range(10) if luhn(f"{body}{digit}")]

    assert len(right) == 1
    number = f"{body}{right[0]}"
    changed = number[0] + str((int(number[1]) + 1) % 10) + number[2:]
    assert not luhn(changed)


@pytest.mark.parametrize("number", ["GB82 WEST 1234 5698 7654 32", "NO93 8601 1117 947", "FR1420041010050500013M02606"])
def test_published_account_numbers_pass_and_changed_ones_do_not(number: str):
    assert account(number)
    assert not account(number[:-1] + ("1" if number[-1] != "1" else "2"))


def test_nothing_is_asked_of_the_network(monkeypatch):
    """detect-secrets can verify a key with its issuer; here only its patterns are used."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("somebody wanted the network")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)

    assert all(Flagger().flags(text) for text in PRIVATE.values())
