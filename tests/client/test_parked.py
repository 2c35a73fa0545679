"""What waits for a sum is unreadable on the disk."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.aggregation.errors import BadTensor
from potluck.client.parked import MAGIC, contribution, park, unpark

KEY = Ed25519PrivateKey.generate()
NAME = contribution("run", 3)


def test_a_parked_update_comes_back_and_shows_nothing_of_itself():
    data = b"recognisable" * 100

    parked = park(data, KEY, NAME)

    assert unpark(parked, KEY, NAME) == data
    assert b"recognisable" not in parked
    assert park(data, KEY, NAME) != parked


@pytest.mark.parametrize("place", [0, len(MAGIC), len(MAGIC) + 12, -1])
def test_a_changed_bit_is_noticed(place: int):
    parked = bytearray(park(b"data", KEY, NAME))
    parked[place] ^= 1

    with pytest.raises(BadTensor, match="damaged"):
        unpark(bytes(parked), KEY, NAME)


@pytest.mark.parametrize("length", [0, 5, len(MAGIC), len(MAGIC) + 5, len(MAGIC) + 12, -1])
def test_a_short_file_is_noticed(length: int):
    with pytest.raises(BadTensor):
        unpark(park(b"data", KEY, NAME)[:length], KEY, NAME)


def test_another_key_or_another_version_does_not_open_it():
    parked = park(b"data", KEY, NAME)

    with pytest.raises(BadTensor):
        unpark(parked, Ed25519PrivateKey.generate(), NAME)
    with pytest.raises(BadTensor):
        unpark(parked, KEY, contribution("run", 4))
