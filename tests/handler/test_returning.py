"""What a handler may return, and the output that becomes of it."""

from __future__ import annotations

import datetime as dt
import enum
import json
import os
from collections import Counter, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest

from sjq.handler import Next
from sjq.handler.output import NotAnOutput, encoded

from .project import Project


class Colour(enum.Enum):
    RED = "red"


class Name(str, enum.Enum):  # noqa: UP042 - this is what scripts of Python 3.9 have
    UPLOAD = "upload"


@dataclass
class Size:
    w: int
    path: Path | None = None


class Model(pydantic.BaseModel):
    when: dt.datetime


Point = namedtuple("Point", "x y")  # noqa: PYI024 - this is what scripts have


class Array:
    """Stands for what numpy has."""

    def tolist(self) -> list[int]:
        return [1]


def output(result: object) -> Any:
    return json.loads(encoded(result, root=os.getcwd()))  # noqa: PTH109


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, {"data": None}),
        (5, {"data": 5}),
        ([], {"data": []}),
        ({"w": 1}, {"data": {"w": 1}}),
        ([(1, 2), "upload"], {"data": [[1, 2], "upload"]}),
        ((1, "upload"), {"data": 1, "next_topic": "upload"}),
        ((1, Name.UPLOAD), {"data": 1, "next_topic": "upload"}),
        ((1, ["a", "b"]), {"data": 1, "next_topics": ["a", "b"]}),
        ((1, ("a", "b")), {"data": 1, "next_topics": ["a", "b"]}),
        ((1, None), {"data": 1}),
        ((1, []), {"data": 1}),
        (["a", "upload"], {"data": ["a", "upload"]}),
    ],
)
def test_data_and_pairs(result: object, expected: object) -> None:
    assert output(result) == expected


@pytest.mark.parametrize("result", [(1, 2, 3), (1, 2), (1, [2, "a"]), (1, "a", "b"), ("upload", {"w": 1}), ()])
def test_a_tuple_that_is_no_pair_of_data_and_topics_is_refused(result: object) -> None:
    """As data it would end the pipeline, and nobody would know why."""
    with pytest.raises(NotAnOutput, match=r"a pair is \(data, topic\)"):
        output(result)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Next("a"), {"data": None, "next": [{"topic": "a", "data": None}]}),
        (
            [Next("a", 1), Next("b", Size(2))],
            {"data": None, "next": [{"topic": "a", "data": 1}, {"topic": "b", "data": {"w": 2, "path": None}}]},
        ),
        ((Next("a"),), {"data": None, "next": [{"topic": "a", "data": None}]}),
        (
            Next("a", attachment=Path(__file__)),
            {"data": None, "next": [{"topic": "a", "data": None, "attachment": __file__}]},
        ),
    ],
)
def test_fan_out(result: object, expected: object) -> None:
    assert output(result) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"data": 1}, {"data": 1}),
        ({"data": 1, "next_topic": "a"}, {"data": 1, "next_topic": "a"}),
        ({"data": 1, "next_topic": None}, {"data": 1}),
        ({"data": 1, "next_topics": ["a"]}, {"data": 1, "next_topics": ["a"]}),
        ({"data": 1, "next_topics": []}, {"data": 1}),
        ({"data": 1, "next": None}, {"data": 1}),
        ({"data": 1, "next": []}, {"data": 1}),
        (
            {"data": 1, "next": [{"topic": "a", "data": 2}, Next("b")]},
            {"data": 1, "next": [{"topic": "a", "data": 2}, {"topic": "b", "data": None}]},
        ),
    ],
)
def test_the_raw_form(result: object, expected: object) -> None:
    assert output(result) == expected


@pytest.mark.parametrize(
    "result",
    [
        {"data": 1, "next_topic": "a", "next_topics": ["b"]},
        {"data": 1, "more": 2},
        {"next_topic": "a"},
        {},
    ],
)
def test_objects_that_only_look_raw_are_data(result: object) -> None:
    assert output(result) == {"data": result}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Size(1, Path("a/b")), {"w": 1, "path": "a/b"}),
        ([Colour.RED], ["red"]),
        (Model(when=dt.datetime(2026, 11, 21, tzinfo=dt.UTC)), {"when": "2026-11-21T00:00:00Z"}),
        (dt.datetime(2026, 11, 21, tzinfo=dt.UTC), "2026-11-21T00:00:00+00:00"),
        ([dt.date(2026, 11, 21), dt.time(1, 2)], ["2026-11-21", "01:02:00"]),
        (Point(1, 2), [1, 2]),
        (Counter("aab"), {"a": 2, "b": 1}),
        ({1: "a", None: "b", 2.5: "c"}, {"1": "a", "null": "b", "2.5": "c"}),
        (2**70, 2**70),
    ],
)
def test_values_that_have_a_natural_json(value: object, expected: object) -> None:
    assert output([value]) == {"data": [expected]}


def circle() -> list[object]:
    items: list[object] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"items": [1, 2, 3, {4}]}, "data.items[3] is a set (JSON has lists only: list(...))"),
        ({"two words": b"x"}, 'data["two words"] is a bytes (decode it'),
        ([Decimal(1)], "data[0] is a Decimal"),
        ([Array()], "data[0] is an Array (use .tolist())"),
        ((number for number in [1]), "data is a generator"),
        ([Size], "data[0] is a type"),
        (Size({1}), "data.w is a set"),  # type: ignore[arg-type]
        ({"loss": float("nan")}, "data.loss is nan, and JSON has no such number"),
        ([float("-inf")], "data[0] is -inf, and JSON has no such number"),
        ({"a": {(1, 2): 3}}, "a key of data.a is a tuple, and JSON has only strings: (1, 2)"),
        ([[Next("a")]], "data[0][0] is a Next: return a Next, or a list of nothing but Next"),
        ([Next("a", {"x": {1}})], "next[0].data.x is a set"),
        (circle(), "is nested too deeply, or holds itself"),
    ],
)
def test_values_without_json_are_named_by_their_place(result: object, error: str) -> None:
    with pytest.raises(NotAnOutput) as raised:
        output(result)
    assert str(raised.value).startswith("the returned data is not JSON: ")
    assert error in str(raised.value)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ((1, "two words"), 'the second value of the returned pair: "two words" cannot be a topic\'s name'),
        ((1, ["a", ""]), 'the second value of the returned pair, item 2: "" cannot be a topic\'s name'),
        ({"data": 1, "next_topic": "../a"}, 'next_topic: "../a" cannot be a topic\'s name'),
        ({"data": 1, "next_topics": ["a", 5]}, "next_topics, item 2: a topic's name is a str, not an int: 5"),
        ({"data": 1, "next": ["a"]}, "next[0] is a str, and not an object"),
        ({"data": 1, "next": "upload"}, "next is a str, and beside `data` it is a list of Next"),
        ({"data": 1, "next_topic": 5}, "next_topic is an int, and beside `data` it is a topic"),
        ({"data": 1, "next_topics": "a"}, "next_topics is a str, and beside `data` it is a list of topics"),
        ({"data": 1, "next": [{"topic": "a"}]}, "next[0]: `data` is missing"),
        ({"data": 1, "next": [{"data": 1}]}, "next[0]: `topic` is missing"),
        ({"data": 1, "next": [{"topic": "a", "data": 1, "delay": 2}]}, "next[0]: delay is not built yet"),
        ({"data": 1, "next": [{"topic": "a", "data": 1, "x": 2}]}, 'next[0]: unknown key "x"'),
        ({"data": 1, "next": [{"topic": "a", "data": 1, "attachment": 2}]}, "next[0].attachment is an int"),
        (Next("a", attachment="no such file"), 'next[0].attachment: there is no file "no such file"'),
        ([Next("a"), 5], "a list of Next holds nothing else, and item 2 of the returned one is an int"),
        ((5, Next("a")), "a list of Next holds nothing else, and item 1 of the returned one is an int"),
    ],
)
def test_one_bad_next_job_fails_the_whole_output(result: object, error: str) -> None:
    with pytest.raises(NotAnOutput) as raised:
        output(result)
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize("topic", ["", ".a", "-a", "a b", "a/b", "ä", "a" * 129, "a\n"])
def test_next_refuses_what_cannot_be_a_topic(topic: str) -> None:
    with pytest.raises(ValueError, match="cannot be a topic's name"):
        Next(topic)


@pytest.mark.parametrize("topic", ["a", "0", "Resize_2.small-x", "a" * 128])
def test_next_takes_every_name_of_a_topic(topic: str) -> None:
    assert Next(topic).topic == topic


@pytest.mark.parametrize("word", ["delay", "priority"])
def test_next_says_what_is_not_built_yet(word: str) -> None:
    with pytest.raises(TypeError, match=rf"Next\({word}=...\) is not built yet"):
        Next("a", None, attachment=None, **{word: 1})
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        Next("a", x=1)
    with pytest.raises(TypeError, match="a topic's name is a str, not None"):
        Next(None)  # type: ignore[arg-type]


def test_next_can_be_compared_in_unit_tests() -> None:
    assert Next("a", {"w": 1}) == Next("a", {"w": 1})
    assert Next("a") != Next("b")
    assert Next("a") != "a"
    assert repr(Next("a", 1, attachment="x")) == "Next('a', 1, attachment='x')"


def test_a_handler_fans_out_with_attachments_from_wherever_it_went(project: Project) -> None:
    run = project.run(
        """
        import os, sjq

        @sjq.job
        def resize(data):
            os.mkdir("made")
            os.chdir("made")
            open("part.bin", "w").close()
            return [sjq.Next("upload", number, attachment="part.bin") for number in range(2)]
        """
    )
    path = os.path.realpath(project.root / "made" / "part.bin")
    assert run.stderr == ""
    assert run.output == {
        "data": None,
        "next": [{"topic": "upload", "data": number, "attachment": path} for number in range(2)],
    }


def test_a_bad_return_value_is_one_sentence_without_a_traceback(project: Project) -> None:
    run = project.run("import sjq\nsjq.job(lambda data: {'items': [{1}]})")
    assert (run.code, run.output) == (1, None)
    assert (
        run.stderr == "error: the returned data is not JSON: data.items[0] is a set (JSON has lists only: list(...))\n"
    )


def test_data_nested_too_deeply_is_refused(project: Project) -> None:
    run = project.run(
        """
        import sjq

        @sjq.job
        def resize(data):
            for _ in range(300_000):
                data = [data]
            return data
        """
    )
    assert (run.code, run.output) == (1, None)
    assert "is nested too deeply" in run.error


def test_an_awaitable_says_what_is_missing(here: Project) -> None:
    run = here.run("import sjq\nasync def inner(): ...\nsjq.job(lambda data: inner())")
    assert run.code == 1
    assert "data is a coroutine (an async function was called and not awaited; use asyncio.run)" in run.stderr
