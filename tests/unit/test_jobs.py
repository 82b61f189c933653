"""Messages, ids and topics: whatever a producer may push."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import datetime, tzinfo
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sjq import clock
from sjq.errors import MessageError, UsageError
from sjq.jobs import (
    Message,
    check_id,
    check_json,
    check_topic,
    decode_message,
    encode_data,
    id_from_bytes,
    id_to_bytes,
    make_fence,
    make_id,
    new_message,
    shown,
    worker_of,
)
from sjq.outcomes import failed, released, succeeded
from sjq.states import Reason, State

ALPHANUMERIC = "ABCXYZabcxyz0189"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
raw_ids = st.binary(min_size=1, max_size=600)


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """Return JSON as different producers write it: spaced, indented, escaped or not."""
    value = draw(json_values)
    style: dict[str, Any] = draw(
        st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}, {"sort_keys": True}])
    )
    return json.dumps(value, **style).encode("utf-8")


# Topics.


@given(first=st.sampled_from(ALPHANUMERIC), rest=st.text(ALPHANUMERIC + "_.-", max_size=127))
def test_a_name_by_the_rule_is_a_topic(first: str, rest: str) -> None:
    assert check_topic(first + rest) == first + rest


@given(st.text(max_size=140))
@example("")
@example("a" * 129)
@example("a\n")
@example("..")
@example("é")
@example("a/b")
@example("٣")
def test_any_other_name_is_refused(name: str) -> None:
    assume(not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name, re.ASCII))
    with pytest.raises(UsageError, match="cannot be the name of a topic") as refused:
        check_topic(name)
    assert str(refused.value).isprintable()


def test_a_long_wrong_name_is_shown_short() -> None:
    with pytest.raises(UsageError) as refused:
        check_topic("/" * 100_000)
    assert len(str(refused.value)) < 400


# Ids.


@given(st.binary(max_size=600))
def test_an_id_survives_the_way_there_and_back(raw: bytes) -> None:
    assert id_to_bytes(id_from_bytes(raw)) == raw


@given(raw_ids)
@example(b"a" * 512)
@example(b"a" * 513)
@example("é".encode() * 256)
@example("é".encode() * 256 + b"a")
@example(b"a\0b")
@example(b"\xff")
@example(b"\xed\xa0\x80")  # a surrogate, as no UTF-8 holds it
def test_an_id_is_any_utf_8_of_512_bytes_without_nul(raw: bytes) -> None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        fit = False
    else:
        fit = len(raw) <= 512 and b"\0" not in raw
    if fit:
        assert check_id(id_from_bytes(raw)) == id_from_bytes(raw)
    else:
        with pytest.raises(MessageError) as refused:
            check_id(id_from_bytes(raw))
        assert str(refused.value).isprintable()


def test_no_id_is_empty() -> None:
    with pytest.raises(MessageError, match="the id is empty"):
        check_id("")


@given(raw_ids)
@example(b"\x1b[31mred")
@example("\u202egnp.exe".encode())
@example(b"\xff\n\r\0")
def test_a_shown_id_never_moves_a_terminal(raw: bytes) -> None:
    assert shown(id_from_bytes(raw)).isprintable()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_a_plain_id_is_shown_as_it_is(job_id: str) -> None:
    assert shown(job_id) == job_id


@pytest.mark.parametrize("job_id", ["\ud800", "a\udfff"])
def test_a_lone_surrogate_is_refused_in_words(job_id: str) -> None:
    with pytest.raises(MessageError, match="not UTF-8"):
        check_id(job_id)
    assert shown(job_id).isprintable()


def test_a_made_id_says_when_and_what() -> None:
    made = make_id("resize")
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-resize-[a-z2-7]{6}", made)
    assert check_id(made) == made
    assert len({make_id("t") for _ in range(1000)}) == 1000


@given(
    st.lists(st.integers(0, 4 * 10**15), min_size=2, max_size=8, unique=True),
    st.lists(st.sampled_from(["a", "Z.z", "0", "long-" * 20]), min_size=8, max_size=8),
)
def test_made_ids_sort_by_time(moments_us: list[int], topics: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = []
        for moment_us, topic in zip(moments_us, topics, strict=False):
            patch.setattr(clock, "now", lambda moment_us=moment_us: moment_us / 1e6)
            made.append((moment_us, make_id(topic)))
    assert [job_id for _, job_id in sorted(made)] == sorted(job_id for _, job_id in made)


@given(st.text(), st.integers(min_value=0))
def test_a_fence_names_its_worker(worker: str, number: int) -> None:
    assert worker_of(make_fence(worker, number)) == worker


# Messages, there and back.


@given(json_values)
@example(2**64)
@example(-(2**200))
@example([1e308, 5e-324, -0.0])
@example("\0\x1f\u2028\U0001f600")
@example({"": {"": []}})
def test_any_json_value_comes_back_as_it_was(data: object) -> None:
    message = new_message("t", data)
    back = decode_message(message.job_id, "t", message.encode())
    assert json.loads(bytes(back.data)) == data
    assert back == message


@given(json_texts(), st.sampled_from([b"", b" ", b"\n\t\r "]))
@example(b'"\\u0041\\/\\u00e9\xc3\xa9"', b"")
@example(b"1e400", b"")
@example(b"-0.000000000000000000001E+5", b"")
@example(b'{"a":1,"a":2}', b"")
@example(b"123456789012345678901234567890.10000000000000000000001", b"\n")
def test_json_text_is_kept_to_the_byte(text: bytes, around: bytes) -> None:
    message = new_message("t", msgspec.Raw(around + text + around))
    assert message.data == text
    back = decode_message(message.job_id, "t", message.encode())
    assert back.data == text
    assert back.encode() == message.encode()


@given(st.text(min_size=1, max_size=20), st.binary(max_size=20) | st.none(), st.text(min_size=1, max_size=20))
def test_all_fields_come_back(job_id: str, attachment: bytes | None, parent: str) -> None:
    assume("\0" not in job_id + parent)
    message = Message(
        job_id=job_id,
        topic="t",
        data=b"1",
        parent_job_id=parent,
        attachment=attachment,
        created_at="2026-11-21T23:15:01.123456Z",
        inherited={"labels": msgspec.Raw(b'{"a": [1]}'), "hops": msgspec.Raw(b"3")},
    )
    wire = json.loads(message.encode())
    assert wire["job_id"] == job_id
    assert ("attachment" in wire) == (attachment is not None)
    assert decode_message(job_id, "t", message.encode(), lambda: attachment) == message


def test_the_attachment_is_fetched_only_where_the_message_has_one() -> None:
    def fetch() -> bytes:
        raise AssertionError("asked for an attachment that is not there")

    assert decode_message("a", "t", b'{"data": 1, "attachment": false}', fetch).attachment is None
    assert decode_message("a", "t", b'{"data": 1}', fetch).attachment is None


def test_what_two_commands_push_is_a_message() -> None:
    message = decode_message("17", "t", b'{"job_id": "another", "data": {}, "parent_job_id": "3", "shoe_size": 43}')
    assert (message.job_id, message.topic, message.data, message.parent_job_id) == ("17", "t", b"{}", "3")
    assert message.created_s is None
    assert message.hops == 0


def test_of_a_field_given_twice_the_last_one_counts() -> None:
    assert decode_message("a", "t", b'{"data": 1, "data": 2}').data == b"2"


# Malformed messages.

DEEP = 10_000
MALFORMED = {
    "nothing": b"",
    "white space": b" \n",
    "no UTF-8": b'{"data": "\xff"}',
    "cut UTF-8": b'{"data": "\xc3"}',
    "a surrogate in UTF-8": b'{"data": "\xed\xa0\x80"}',
    "no UTF-8 in a field nobody reads": b'{"data": 1, "x": "\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"data": 1}',
    "UTF-16": '{"data": 1}'.encode("utf-16"),
    "NaN": b'{"data": NaN}',
    "NaN inside": b'{"data": [1, {"a": NaN}]}',
    "Infinity": b'{"data": -Infinity}',
    "deep data": b'{"data": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"data": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep and unread": b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b', "data": 1}',
    "deep labels": b'{"data": 1, "labels": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "trailing text": b'{"data": 1} x',
    "trailing message": b'{"data": 1}{"data": 2}',
    "trailing NUL": b'{"data": 1}\0',
    "single quotes": b"{'data': 1}",
    "a comma too many": b'{"data": 1,}',
    "a comment": b'{"data": 1} // one',
    "a leading zero": b'{"data": 01}',
    "an open number": b'{"data": 1.}',
    "a plus": b'{"data": +1}',
    "a control character": b'{"data": "\n"}',
    "an unknown escape": b'{"data": "\\q"}',
    "half an escape": b'{"data": "\\u12"}',
    "no key": b"{1: 2}",
    "a list": b'[{"data": 1}]',
    "a number": b"5",
    "null": b"null",
    "a text": b'"data"',
    "no data": b"{}",
    "no data, but more": b'{"job_id": "a", "topic": "t"}',
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_is_refused_in_words(text: bytes) -> None:
    with pytest.raises(MessageError) as refused:
        decode_message("a", "t", text)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


WRONG = {
    "parent_job_id": ["5", "true", "[]", "{}", '""', '"a\\u0000b"', f'"{"x" * 513}"'],
    "attachment": ["1", "0", '"yes"', "[]", "{}"],
    "priority": ["1", "-1", "0.5", '"high"', "[]", "true"],
    "run_at": ["0", "5", '"tomorrow"', "{}", "false"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in WRONG for value in WRONG[field]])
def test_a_wrong_field_is_refused_by_name(field: str, value: str) -> None:
    with pytest.raises(MessageError, match=field):
        decode_message("a", "t", f'{{"data": 1, "{field}": {value}}}'.encode())


@pytest.mark.parametrize("field", ["parent_job_id", "attachment", "priority", "run_at", "created_at"])
def test_null_is_a_field_that_is_left_out(field: str) -> None:
    message = decode_message("a", "t", f'{{"data": 1, "{field}": null}}'.encode())
    assert (message.parent_job_id, message.attachment, message.created_at) == (None, None, None)


STRANGE_TIMES = ["5", "true", "[]", "{}", '"yesterday"', '""', '"0001-01-01"', '"9999-12-31T23:59:59"']


@pytest.mark.parametrize("value", STRANGE_TIMES)
def test_a_strange_time_is_nobodys_fault(value: str) -> None:
    message = decode_message("a", "t", f'{{"data": 1, "created_at": {value}}}'.encode())
    assert message.created_s is None or message.created_s > 0


@given(st.text())
def test_no_time_of_a_producer_stops_a_worker(text: str) -> None:
    message = Message(job_id="a", topic="t", data=b"1", created_at=text)
    assert message.created_s is None or isinstance(message.created_s, float)


@given(st.datetimes(), st.timezones() | st.none())
def test_no_true_time_stops_a_worker_either(moment: datetime, zone: tzinfo | None) -> None:
    message = Message(job_id="a", topic="t", data=b"1", created_at=moment.replace(tzinfo=zone).isoformat())
    assert message.created_s is None or isinstance(message.created_s, float)


@given(st.binary() | json_texts())
def test_any_bytes_are_a_message_or_a_message_error(text: bytes) -> None:
    try:
        message = decode_message("a", "t", text)
    except MessageError:
        return
    assert json.loads(bytes(message.data)) == json.loads(text)["data"]


@given(json_values, st.data())
def test_a_cut_message_is_refused(value: object, data: st.DataObject) -> None:
    whole = new_message("t", value, parent_job_id="p").encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(MessageError):
        decode_message("a", "t", whole[:cut])


def test_a_missing_message_is_refused() -> None:
    with pytest.raises(MessageError, match="has no message"):
        decode_message("a", "t", None)


def test_a_missing_attachment_is_refused() -> None:
    with pytest.raises(MessageError, match="attachment"):
        decode_message("a", "t", b'{"data": 1, "attachment": true}', lambda: None)


def test_a_wrong_id_is_refused_before_its_message_is_read() -> None:
    with pytest.raises(MessageError, match="not UTF-8"):
        decode_message(id_from_bytes(b"\xff"), "t", b'{"data": 1}')


# What follows a job.


def test_the_next_job_inherits_and_counts() -> None:
    inherited = b'"labels": {"b": [ 2 ]}, "requester": "me", "traceparent": "00-1", "hops": 7'
    first = decode_message("a", "t", b'{"data": 1, "other": true, "created_at": "2026-01-01", ' + inherited + b"}")
    then = first.next("u", b"[2]", attachment=b"x")
    assert (then.topic, then.data, then.parent_job_id, then.attachment) == ("u", b"[2]", "a", b"x")
    assert (first.hops, then.hops, then.next("v", b"3").hops) == (7, 8, 9)
    assert then.job_id != first.job_id
    assert then.created_s is not None
    assert abs(then.created_s - clock.now()) < 60
    wire = json.loads(then.encode())
    assert wire["labels"] == {"b": [2]}
    assert (wire["requester"], wire["traceparent"], wire["hops"]) == ("me", "00-1", 8)
    assert "other" not in wire


def test_a_job_without_history_begins_one() -> None:
    then = new_message("t", None).next("u", b"1")
    assert then.inherited == {"hops": msgspec.Raw(b"1")}


@pytest.mark.parametrize("hops", ["-5", "1.5", "1e3", '"3"', "null", "true", "[]", "9" * 5000])
def test_hops_that_are_no_number_begin_again(hops: str) -> None:
    message = decode_message("a", "t", f'{{"data": 1, "hops": {hops}}}'.encode())
    assert message.next("u", b"1").hops == 1


def test_no_number_of_hops_stops_a_worker() -> None:
    message = decode_message("a", "t", f'{{"data": 1, "hops": {"9" * 4300}}}'.encode())
    assert message.next("u", b"1").hops >= 1


# Data that is no JSON.


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["{}", "[{}]", "(1, {})", "dict(a=[dict(b={})])"])
def test_what_is_no_number_is_refused_where_it_stands(number: float, place: str) -> None:
    data = eval(place.format("number"), {"number": number})
    with pytest.raises(MessageError, match="which JSON cannot hold") as refused:
        encode_data(data)
    assert {"{}": "data is", "[{}]": "data[0] is", "(1, {})": "data[1] is"}.get(place, "data.a[0].b is") in str(
        refused.value
    )


@dataclasses.dataclass
class Point:
    x: float = 0.0


@pytest.mark.parametrize("data", [object(), print, {None: 1}, {(1, 2): 3}, "\ud800", {"\udcff": 1}, 1j])
def test_what_is_no_json_value_is_refused(data: object) -> None:
    with pytest.raises(MessageError, match="not a JSON value"):
        encode_data(data)


@pytest.mark.parametrize(
    "data", [{1, 2}, b"bytes", bytearray(b"b"), [{float("nan")}], Point(), {"p": Point(float("nan"))}]
)
def test_what_only_looks_like_a_json_value_is_refused_too(data: object) -> None:
    with pytest.raises(MessageError):
        encode_data(data)


def test_data_without_end_is_refused() -> None:
    circle: list[object] = []
    circle.append({"again": circle})
    with pytest.raises(MessageError):
        encode_data(circle)


def test_data_too_deep_is_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(MessageError):
        encode_data(deep)


@pytest.mark.parametrize(
    "text", [b"", b" ", b"1 2", b"1,2", b"1],[2", b"nul", b"[1", b"\xff", b"\xef\xbb\xbf1", b"NaN"]
)
def test_text_that_is_not_one_json_value_is_refused(text: bytes) -> None:
    with pytest.raises(MessageError, match=r"^here is not "):
        check_json(text, "here")


@given(st.binary(max_size=30))
def test_checked_text_is_json(text: bytes) -> None:
    try:
        checked = check_json(text, "it")
    except MessageError:
        return
    json.loads(checked)


def test_a_new_message_is_checked() -> None:
    with pytest.raises(UsageError):
        new_message("no topic", 1)
    with pytest.raises(MessageError):
        new_message("t", 1, parent_job_id="")


def test_outcomes_say_what_becomes_of_a_job() -> None:
    following = [new_message("t", 1)]
    assert succeeded(iter(following)).next_jobs == tuple(following)
    assert failed(Reason.EXIT, "why").state is State.FAILED
    assert released("stopped").state is State.INCOMING
