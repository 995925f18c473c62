"""Messages between coordinator and workers: whatever is sent arrives, and whatever is not a message is an error, not a crash (S1)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.engine.config import Settings
from s3dlio.engine.config import settings as current_settings
from s3dlio.engine.errors import ErrorInfo, ServerError, rebuild_error
from s3dlio.engine.pool.messages import (
    CancelPart,
    FetchPart,
    OpenStore,
    PartCancelled,
    PartFailed,
    PartFetched,
    SpaceWanted,
    Stop,
    SupplySpace,
    Welcome,
    WorkerStarted,
    decode_commands,
    decode_events,
    decode_welcome,
    encode,
)
from s3dlio.engine.stores.file import FileSpec
from s3dlio.engine.stores.s3_spec import S3Spec

# What cannot be encoded as UTF-8 is refused where a URI is parsed.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
numbers = st.integers(0, 2**63 - 1)
versions = st.none() | texts
sizes = st.none() | numbers
specs = st.just(FileSpec()) | st.builds(S3Spec, **{
    field.name: {str: texts, int: numbers, float: st.floats(0, 1e9)}.get(field.type, st.none() | texts)
    for field in msgspec.structs.fields(S3Spec)
    if field.type in (str, int, float)
})  # fmt: skip
commands = st.one_of(
    st.builds(OpenStore, numbers, specs),
    st.builds(FetchPart, numbers, numbers, texts, numbers, sizes, sizes, versions, numbers, numbers),
    st.builds(SupplySpace, numbers, numbers, numbers, numbers),
    st.builds(CancelPart, numbers),
    st.just(Stop()),
)
infos = st.builds(ErrorInfo, texts, texts, versions, numbers, st.none() | st.integers(100, 599), versions, versions)
events = st.one_of(
    st.builds(WorkerStarted, numbers),
    st.builds(PartFetched, numbers, numbers, numbers, versions, st.floats(0, 1e6)),
    st.builds(PartFailed, numbers, infos),
    st.builds(PartCancelled, numbers),
    st.builds(SpaceWanted, numbers, numbers, sizes, versions),
)
# Well-formed msgpack of the wrong shape gets further into a decoder than noise does.
shapes = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)
tagged = st.lists(st.tuples(st.integers(-1, 7)).flatmap(lambda tag: st.lists(shapes, max_size=10).map(lambda rest: [*tag, *rest])))


@given(st.lists(commands, max_size=20))
def test_a_batch_of_commands_arrives_as_it_was_sent(batch: list[Any]) -> None:
    assert decode_commands(encode(batch)) == batch


@given(st.lists(events, max_size=20))
def test_a_batch_of_events_arrives_as_it_was_sent(batch: list[Any]) -> None:
    assert decode_events(encode(batch)) == batch


@given(numbers, texts, st.integers(1, 1 << 16))
def test_a_welcome_arrives_with_all_settings(index: int, address: str, jobs: int) -> None:
    welcome = Welcome(index, address, 3, 4, 5, current_settings(), jobs)
    found = decode_welcome(encode(welcome))
    assert found == welcome
    assert isinstance(found.settings, Settings)


def test_an_error_comes_out_as_the_error_that_went_in() -> None:
    error = ServerError("it broke", uri="s3://b/k", attempts=3, status=503, request_id="R1", cause="SlowDown")
    (event,) = decode_events(encode([PartFailed(7, error.to_info())]))
    assert isinstance(event, PartFailed)
    found = rebuild_error(event.error)
    assert type(found) is ServerError
    assert str(found) == str(error)


def only_decode_errors(data: bytes) -> None:
    for decode in (decode_commands, decode_events, decode_welcome):
        try:
            decode(data)
        except msgspec.DecodeError:
            continue


@given(st.binary(max_size=300))
@settings(max_examples=500)
def test_s1_noise_is_a_decode_error_or_a_message_and_nothing_else(data: bytes) -> None:
    only_decode_errors(data)


@given(shapes | tagged)
@settings(max_examples=150)
def test_s1_well_formed_msgpack_of_any_shape_is_a_decode_error_or_a_message(shape: Any) -> None:
    only_decode_errors(msgspec.msgpack.encode(shape))


@given(st.lists(commands | events, min_size=1, max_size=5), st.data())
def test_s1_a_damaged_batch_is_a_decode_error_or_a_message(batch: list[Any], data: st.DataObject) -> None:
    raw = bytearray(encode(batch))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    only_decode_errors(bytes(raw))


@given(st.lists(events, min_size=1, max_size=5), st.data())
def test_s1_a_truncated_batch_is_always_a_decode_error(batch: list[Any], data: st.DataObject) -> None:
    raw = encode(batch)
    with pytest.raises(msgspec.DecodeError):
        decode_events(raw[: data.draw(st.integers(0, len(raw) - 1))])


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_s1_nesting_without_end_does_not_exhaust_the_stack(depth: int) -> None:
    for decode in (decode_commands, decode_events, decode_welcome):
        with pytest.raises(msgspec.DecodeError):
            decode(b"\x91" * depth)


def test_s1_an_unknown_tag_is_named() -> None:
    with pytest.raises(msgspec.ValidationError, match="99"):
        decode_events(msgspec.msgpack.encode([[99, 1]]))
