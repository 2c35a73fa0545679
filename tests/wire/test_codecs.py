"""The recipe's [codec]: what it refuses, what it takes, and what a client sends of that."""

import json

import numpy as np
import pytest

from potluck.aggregation import BadSetting, BadTensor, Limits, UnknownName, opened
from potluck.wire.codecs import Codec, codecs_in
from potluck.wire.recipe import Recipe
from scripted import recipe

FACTS = {"codec": "sparse2bit", "codec_version": "2", "chunk": "4096", "k": "64"}


def codec(**settings: object) -> Codec:
    return Codec.parse(json.dumps(settings))


def test_by_default_updates_are_half_precision_and_compressed():
    table = codec()

    assert (table.name, table.lossless, table.error_feedback, table.beta) == ("fp16", True, False, 0.95)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"name": "int88"}, UnknownName, "no codec is called 'int88'"),
        ({"name": "int4", "settings": {"blocks": 8}}, UnknownName, "no setting of int4 is called 'blocks'"),
        ({"name": "int4", "settings": {"block": 7}}, BadSetting, "int4 block is 7"),
        ({"name": "int4", "settings": {"block": "64"}}, BadSetting, "block"),
        ({"name": "int4", "accepts": ["int5"]}, UnknownName, "no codec is called 'int5'"),
        ({"name": "fp64"}, BadSetting, "do not travel as fp64"),
        ({"name": "int8", "accepts": ["fp64"]}, BadSetting, "do not travel as fp64"),
        ({"beta": 0}, BadSetting, "beta"),
        ({"beta": 1.01}, BadSetting, "beta"),
        ({"name": "topk"}, BadSetting, "'topk' leaves much of an update out, and codec.error_feedback is false"),
        ({"name": "sparse2bit"}, BadSetting, "'sparse2bit' leaves much of an update out"),
        ({"name": "levels"}, BadSetting, "'levels' leaves much of an update out"),
        ({"name": "int8", "accepts": ["topk"]}, BadSetting, "'topk' leaves much"),
    ],
)
def test_what_would_not_work_is_refused_with_the_reason(settings, error, says: str):
    with pytest.raises(error, match=says):
        codec(**settings)


def test_the_refusal_of_a_forgetful_codec_says_what_to_do():
    with pytest.raises(BadSetting) as caught:
        codec(name="topk")

    assert any("codec.error_feedback to true" in note for note in caught.value.__notes__)
    assert codec(name="topk", error_feedback=True).name == "topk"
    assert codec(name="topk", may_forget=True).name == "topk"


@pytest.mark.parametrize("init", ["fresh", "half"])
def test_feedback_is_refused_where_every_version_has_a_new_basis(init: str):
    """What was left out of a basis that nobody has any more means nothing in the next one."""
    with pytest.raises(BadSetting, match="draws a new basis for each version"):
        recipe(adapter={"init": init}, codec={"name": "int4", "error_feedback": True})
    assert recipe(adapter={"init": init}, codec={"name": "int4"}).codec.name == "int4"
    assert recipe(adapter={"init": "orthonormal"}, codec={"name": "int4", "error_feedback": True}).codec.error_feedback


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({"name": "fp32"}, ("fp32",)),
        ({"name": "fp16"}, ("fp16", "fp32")),
        ({"name": "int8"}, ("int8", "fp16", "fp32")),
        ({"name": "nf4"}, ("nf4", "int8", "fp16", "fp32")),
        ({"name": "sparse2bit", "error_feedback": True}, ("sparse2bit", "int8", "fp16", "fp32")),
        ({"name": "sparse2bit", "error_feedback": True, "accepts": ["int4"]}, ("sparse2bit", "int4")),
    ],
)
def test_a_more_exact_codec_is_taken_unless_the_recipe_says_which(settings, taken):
    assert codec(**settings).accepted == taken


def test_a_client_sends_the_first_that_it_can_write():
    table = codec(name="int4", settings={"block": 32}, lossless=False)

    assert table.choose(["fp32", "int4"]) == ("int4", {"block": 32}, False)
    assert table.choose(["fp32", "fp16"]) == ("fp16", {}, False)
    with pytest.raises(UnknownName, match="takes int4, int8, fp16, fp32, and this program writes nf4"):
        table.choose(["nf4"])


def test_a_packing_writes_what_it_says():
    tensors = {"v": np.ones((4, 64), np.float32)}
    packing = codec(name="int4", settings={"block": 32}).choose(["int4"])

    message = opened(packing.encode(tensors), limits=Limits())

    assert message.facts == {"codec": "int4", "codec_version": "2", "block": "32"}
    assert len(packing.encode(tensors)) < len(packing._replace(lossless=False).encode(tensors))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (FACTS, None),
        ({"codec": "fp16", "codec_version": "2"}, None),
        ({"codec": "int8", "codec_version": "1", "block": "999"}, None),
        (
            {"codec": "int4", "codec_version": "2", "block": "64"},
            "encoded as int4, and this run takes sparse2bit, int8",
        ),
        (FACTS | {"k": "1"}, "sparse2bit with k 1, and the recipe says 64"),
        (FACTS | {"chunk": "64"}, "sparse2bit with chunk 64, and the recipe says 4096"),
    ],
)
def test_a_message_is_taken_with_the_recipes_settings_only(facts, says: str | None):
    """A client that sent one value of 4096 would be paid for an update and give nothing."""
    table = codec(name="sparse2bit", error_feedback=True)

    if says is None:
        table.check(facts)
        return
    with pytest.raises(BadTensor, match=says):
        table.check(facts)


def test_capabilities_that_are_no_codecs_are_passed_over():
    assert codecs_in(["codec:int8", "watch", "codec:"]) == ("int8", "")
    assert codecs_in([]) == ()


def test_a_recipe_with_all_of_it_is_read():
    table = {"name": "topk", "settings": {"k": 8, "bits": 32}, "error_feedback": True, "beta": 1.0, "accepts": ["fp16"]}

    whole = Recipe.parse(recipe(codec=table).to_json())

    assert whole.codec.settings == {"k": 8, "bits": 32}
    assert whole.codec.accepted == ("topk", "fp16")
