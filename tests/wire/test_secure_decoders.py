"""No bytes whatever do anything to a decoder of a secure sum but be read, in their one spelling, or be refused."""

import importlib
import inspect
import pkgutil
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import potluck.wire.secure
from cohorts import TERMS, proposal
from mutants import DECODERS, corpus, decode, mutated, pick
from potluck.aggregation.secure.ring import MAX_SIZE
from potluck.wire.secure.encoding import MAX_MESSAGE, enc
from potluck.wire.secure.messages import Opening
from potluck.wire.secure.parameters import Parameters, Terms
from potluck.wire.secure.reasons import Reason, SumRefusal


def test_every_decoder_is_tried():
    names = set()
    for module in pkgutil.iter_modules(potluck.wire.secure.__path__):
        found = importlib.import_module(f"potluck.wire.secure.{module.name}")
        names |= {name for name, kind in inspect.getmembers(found, inspect.isclass) if "parse" in vars(kind)}

    assert names == set(DECODERS)
    assert all(corpus()[name] for name in DECODERS)


@pytest.mark.parametrize("name", DECODERS)
def test_a_true_message_is_read_and_written_the_same_again(name: str):
    assert {decode(name, message) for message in corpus()[name]} == {None}


@pytest.mark.parametrize("name", DECODERS)
def test_a_message_that_is_almost_right_is_read_in_one_way_or_refused(name: str):
    rng = np.random.default_rng(0)
    found = Counter(decode(name, mutated(rng, pick(rng, corpus()[name]))) for _ in range(2_000))

    assert min(found[None], found[Reason.MALFORMED]) > 50  # both happen, or it tries nothing


@settings(derandomize=True, database=None, deadline=None)
@given(st.sampled_from(sorted(DECODERS)), st.lists(st.binary(max_size=100), max_size=15) | st.binary(max_size=400))
def test_any_bytes_and_any_parts_are_read_in_one_way_or_refused(name: str, data: bytes | list[bytes]):
    decode(name, enc(*data) if isinstance(data, list) else data)


def largest_of(size: int) -> list[bytes]:
    """Return messages that say they are larger than they are, or are as large as any may be."""
    rest = size - 12
    return [
        b"\xff" * size,
        bytes(size),
        (2**32 - 1).to_bytes(4, "big") + bytes(100),
        enc(bytes(rest), b""),
        enc(b"", bytes(rest)),
        enc(b"".join(number.to_bytes(2, "big") for number in range(1, min(rest // 2, 2**16))), b""),
        enc(*[b"\x01"] * (size // 5)),
    ]


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_takes_no_more_memory_than_a_few_of_the_largest_messages(name: str):
    """Whatever it says about its size: what is declared is compared with what is there before anything is made."""
    messages = [*largest_of(MAX_MESSAGE), *largest_of(4 * MAX_MESSAGE), *corpus()[name]]
    decode(name, messages[0])  # what Python keeps from a first time
    tracemalloc.start()
    try:
        for message in messages:
            decode(name, message)
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_MESSAGE
    finally:
        tracemalloc.stop()


def test_a_size_that_is_declared_takes_no_memory():
    """The terms may say 2²⁸ numbers; nobody makes room for them before they are compared."""
    huge = Terms("run", 3, TERMS.base, TERMS.manifest, MAX_SIZE, 32, 1.0, 128, 5)
    tracemalloc.start()
    try:
        assert Parameters.parse(proposal(huge).to_bytes()).terms.size == MAX_SIZE
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("adapters", [b"", bytes(33), bytes(31), bytes(4 * 32)], ids=len)
def test_adapters_are_one_to_three_names_of_32_bytes(adapters: bytes):
    found = Opening.parse(corpus()["Opening"][0])
    names = (adapters[:32], adapters[32:])
    told = Parameters(TERMS, tuple(name for name in names if name), (60, 20, 150, 15, 20), bytes(32)).to_bytes()

    with pytest.raises(SumRefusal) as caught:
        Parameters.parse(told)
    assert caught.value.reason is Reason.MALFORMED
    assert Parameters.parse(found.parameters).to_bytes() == found.parameters
