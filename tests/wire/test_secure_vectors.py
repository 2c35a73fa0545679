"""The known answers of a secure sum, from key agreement to the words of a mask."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from potluck.aggregation.secure.ring import Ring, packed, quantised
from potluck.aggregation.secure.shamir import dealt
from potluck.aggregation.secure.thresholds import threshold
from potluck.wire.secure.agreeing import agreed, bound_to, commitment, mask_key, public_of, sealed, share_key, unsealed
from potluck.wire.secure.encoding import enc
from potluck.wire.secure.masks import mask_words
from potluck.wire.secure.reasons import Reason, SumRefusal
from potluck.wire.secure.roster import Roster, entry
from potluck.wire.secure.signatures import Tag, node_id, signed, sum_id, survivors_hash

KNOWN = json.loads((Path(__file__).parents[1] / "vectors" / "secure.json").read_text("utf-8"))
SID = bytes(range(32))
A, B, C, D = (bytes(range(start, start + 32)) for start in (0x01, 0x21, 0x41, 0x61))
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes.fromhex(one["secret"])) for one in KNOWN["identities"]]
NODES = [node_id(key.public_key().public_bytes_raw()) for key in KEYS]


@pytest.fixture
def roster() -> Roster:
    lines = [
        entry(KEYS[0], SID, b"", public_of(A), public_of(C)),
        entry(KEYS[1], SID, b"", public_of(B), public_of(D)),
    ]
    return Roster(tuple(sorted(lines, key=lambda one: one.node)))


def test_names_and_lists_have_one_spelling():
    assert enc(*map(bytes.fromhex, KNOWN["enc"]["parts"])).hex() == KNOWN["enc"]["bytes"]
    assert [node.hex() for node in NODES] == [one["node"] for one in KNOWN["identities"]]
    assert sum_id(bytes.fromhex(KNOWN["sum_id"]["parameters"])).hex() == KNOWN["sum_id"]["sid"]


def test_two_clients_agree_on_keys_and_a_mask():
    secret = agreed(A, public_of(B))
    key = mask_key(secret, SID, *NODES)

    assert secret.hex() == agreed(B, public_of(A)).hex() == KNOWN["agreed"]
    assert key.hex() == mask_key(secret, SID, *reversed(NODES)).hex() == KNOWN["mask"]["key"]
    assert mask_words(key, 8).tolist() == KNOWN["mask"]["words"]
    whole = mask_words(key, KNOWN["mask"]["count"])
    assert hashlib.sha256(whole.astype("<u4").tobytes()).hexdigest() == KNOWN["mask"]["sha256"]


def test_commitment_roster_and_agreement(roster: Roster):
    hashed = survivors_hash(SID, roster.hash, (1, 2))

    assert commitment(SID, bytes.fromhex(KNOWN["commitment"]["seed"])).hex() == KNOWN["commitment"]["hash"]
    assert roster.hash.hex() == KNOWN["roster_hash"]
    assert hashed.hex() == KNOWN["survivors_1_and_2"]
    assert signed(KEYS[0], Tag.AGREE, hashed).hex() == KNOWN["agreement_of_test_1"]


def test_shares_travel_sealed_from_one_client_to_another(roster: Roster):
    key = share_key(agreed(A, public_of(B)), SID, *NODES)
    shares = b"".join(bytes.fromhex(one["share"]) for one in KNOWN["shares"]["of"][:2])
    bound = bound_to(SID, roster.hash, *NODES)

    assert key.hex() == KNOWN["share_key_1_to_2"]
    assert sealed(key, shares, bound).hex() == KNOWN["sealed_1_to_2"]
    assert unsealed(key, bytes.fromhex(KNOWN["sealed_1_to_2"]), bound) == shares
    with pytest.raises(SumRefusal) as refused:
        unsealed(key, bytes.fromhex(KNOWN["sealed_1_to_2"]), bound_to(SID, roster.hash, *reversed(NODES)))
    assert refused.value.reason is Reason.BAD_SHARE


@pytest.mark.parametrize("known", KNOWN["shares"]["of"], ids=lambda one: f"x={one['x']}")
def test_shares_of_a_secret(known):
    coefficients = [
        int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
        for text in KNOWN["shares"]["coefficients_are_sha256_of"]
    ]

    share = dealt(bytes.fromhex(known["secret"]), coefficients, [known["x"]])[known["x"]]

    assert share.to_bytes(33, "big").hex() == known["share"]


def test_whole_numbers_and_their_bytes():
    known, case = KNOWN["packed"], KNOWN["quantised"]
    words = np.array(known["values"], np.int32).view(np.uint32)
    # 5 coordinates would let one be as large as the clip: the limit of 0.5 is that of a clip of 0.5
    ring = Ring(case["bits"], case["cohort"], len(case["values"]), 0.5)

    steps = quantised(np.array(case["values"]), ring, np.full(5, case["uniform"]))

    assert packed(words, known["bits"]).tobytes().hex() == known["bytes"]
    assert (ring.bound, ring.limit) == (case["bound"], case["limit"])
    assert steps.view(np.int32).tolist() == case["steps"]


@pytest.mark.parametrize("corrupt", ["1/3", "1/5"])
def test_thresholds(corrupt: str):
    assert [threshold(n, corrupt) for n in KNOWN["thresholds"]["clients"]] == KNOWN["thresholds"][corrupt]
