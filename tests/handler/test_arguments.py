"""Data is validated against the annotation of its parameter and built."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, Required, TypedDict, TypeVar

import pydantic
import pytest

from sjq.handler.arguments import Mismatch, built
from sjq.handler.wording import Refused

from .project import Project

T = TypeVar("T")
Width = NewType("Width", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Size:
    w: int
    h: int = 1


@dataclass(frozen=True)
class Picture:
    size: Size
    name: str | None = None
    scale: float = 1.0
    tags: list[str] = field(default_factory=list)
    path: Path | None = None
    computed: int = field(default=0, init=False)


@dataclass
class Positive:
    w: int

    def __post_init__(self) -> None:
        if self.w <= 0:
            raise ValueError("w must be above 0")


@dataclass
class Page(Generic[T]):
    items: list[T]


class Options(TypedDict, total=False):
    quality: int
    size: Required[Size]


class Strict(TypedDict):
    w: int
    note: NotRequired[str]


class Model(pydantic.BaseModel):
    w: int
    when: dt.datetime | None = None


@pydantic.dataclasses.dataclass
class PydanticSize:
    w: int


def build(annotation: object, data: object) -> object:
    return built(annotation, data, globals())


@pytest.mark.parametrize(
    ("annotation", "data", "expected"),
    [
        (Size, {"w": 2}, Size(2)),
        (Picture, {"size": {"w": 2}}, Picture(Size(2))),
        (
            Picture,
            {"size": {"w": 2, "h": 3}, "name": None, "scale": 2, "tags": ["a"], "path": "a/b"},
            Picture(Size(2, 3), None, 2.0, ["a"], Path("a/b")),
        ),
        (Positive, {"w": 1}, Positive(1)),
        (Page[Size], {"items": [{"w": 1}]}, Page([{"w": 1}])),
        ("Size", {"w": 2}, Size(2)),
        ("Size | None", None, None),
        (Options, {"size": {"w": 1}}, {"size": Size(1)}),
        (Strict, {"w": 1}, {"w": 1}),
        (Strict, {"w": 1, "note": "x"}, {"w": 1, "note": "x"}),
        (
            Model,
            {"w": "64", "when": "2026-11-21T00:00:00Z"},
            Model(w=64, when=dt.datetime(2026, 11, 21, tzinfo=dt.UTC)),
        ),
        (list[Model], [{"w": 1}], [Model(w=1)]),
        (PydanticSize, {"w": "3"}, PydanticSize(3)),
        (dict, {"a": 1}, {"a": 1}),
        (dict[str, Any], {"a": {1}}, {"a": {1}}),
        (dict[int, float], {"1": 2}, {1: 2.0}),
        (dict[Colour, int], {"red": 2}, {Colour.RED: 2}),
        (Mapping[str, Size], {"a": {"w": 1}}, {"a": Size(1)}),
        (list, [1, "a"], [1, "a"]),
        (Sequence[int], [1], [1]),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple, [1, "a"], (1, "a")),
        (set[int], [1, 1, 2], {1, 2}),
        (frozenset[str], ["a"], frozenset("a")),
        (float, 3, 3.0),
        (bool, True, True),
        (None, None, None),
        (int | str, "a", "a"),
        (float | int, 3, 3),
        (list[Size | None], [None, {"w": 1}], [None, Size(1)]),
        (Size | Picture, {"size": {"w": 1}}, Picture(Size(1))),
        (Literal["a", 1], 1, 1),
        (Colour, "blue", Colour.BLUE),
        (Level, 1, Level.LOW),
        (Width, 3, 3),
        (Annotated[int, "px"], 3, 3),
        (dt.date, "2026-11-21", dt.date(2026, 11, 21)),
        (Any, object, object),
        (T, 3, 3),
        (complex, "anything", "anything"),
    ],
)
def test_data_that_fits_is_built(annotation: object, data: object, expected: object) -> None:
    value = build(annotation, data)
    assert (type(value), value) == (type(expected), expected)


@pytest.mark.parametrize(
    ("annotation", "data", "error"),
    [
        (Picture, {"size": {"w": "64"}}, 'data.size.w: expected int, got "64"'),
        (Size, {"w": True}, "data.w: expected int, got true"),
        (Size, {"w": 1.0}, "data.w: expected int, got 1.0"),
        (Size, {"w": None}, "data.w: expected int, got null"),
        (Size, [1], "data: expected Size, got [1]"),
        (Size, {}, 'data: missing key "w"'),
        (Size, {"w": 1, "hh": 2}, 'data: unknown key "hh"; did you mean "h"?'),
        (Size, {"w": 1, "colour": 2}, 'data: unknown key "colour"; there are: "w", "h"'),
        (Picture, {"size": {"w": 1}, "computed": 1}, 'data: unknown key "computed"; there are: '),
        (Picture, {"size": {"w": 1}, "tags": ["a", 2]}, "data.tags[1]: expected str, got 2"),
        (Picture, {"size": {"w": 1}, "name": 3}, "data.name: expected str or null, got 3"),
        (Positive, {"w": 0}, "data: w must be above 0"),
        (Options, {"quality": 1}, 'data: missing key "size"'),
        (Options, {"size": {"w": 1}, "qualty": 1}, 'data: unknown key "qualty"; did you mean "quality"?'),
        (Strict, {}, 'data: missing key "w"'),
        (Model, {"w": "x"}, 'data.w: Input should be a valid integer, unable to parse string as an integer, got "x"'),
        (list[Model], [{"w": 1}, {}], "data[1].w: Field required, got {}"),
        (PydanticSize, {"w": []}, "data.w: Input should be a valid integer, got []"),
        (dict, [], "data: expected dict, got []"),
        (dict[str, int], {"two words": "x"}, 'data["two words"]: expected int, got "x"'),
        (dict[int, int], {"a": 1}, 'data: expected int as key, got "a"'),
        (dict[Colour, int], {"green": 1}, 'data, key "green": expected Colour'),
        (list[int], {"a": 1}, 'data: expected list[int], got {"a": 1}'),
        (list[Size], [{"w": 1}, {"w": "x"}], 'data[1].w: expected int, got "x"'),
        (tuple[int, str], [1], "data: expected tuple[int, str], which has 2 items, got 1"),
        (set[Any], [[1]], "data: cannot be a set[Any]: unhashable type"),
        (str, 1, "data: expected str, got 1"),
        (float, "1", 'data: expected float, got "1"'),
        (float, 10**400, "data: 1000000"),
        (bool, 1, "data: expected bool, got 1"),
        (None, 1, "data: expected null, got 1"),
        (int | None, "a", 'data: expected int or null, got "a"'),
        (Size | None, {"w": "x"}, 'data.w: expected int, got "x"'),
        (Size | None, {}, 'data: missing key "w"'),
        (Size | Strict, [], "data: expected Size or Strict, got []"),
        (Literal["a", "b"], "c", 'data: expected "a" or "b", got "c"'),
        (Literal[1], True, "data: expected 1, got true"),
        (Colour, "green", 'data: expected Colour, which is one of "red", "blue"; got "green"'),
        (Level, True, "data: expected Level, which is one of 1; got true"),
        (dt.date, "yesterday", 'data: expected date, got "yesterday"'),
        (Path, 1, "data: expected str, got 1"),
        (int, "x" * 99, 'data: expected int, got "' + "x" * 56 + "..."),
    ],
)
def test_data_that_does_not_fit_is_refused_with_its_place(annotation: object, data: object, error: str) -> None:
    with pytest.raises(Mismatch) as raised:
        build(annotation, data)
    assert str(raised.value).startswith(error)


def test_an_annotation_that_means_nothing_is_named() -> None:
    with pytest.raises(Refused, match=r"annotation of data cannot be resolved: name 'Sizes' is not defined"):
        build("Sizes", {})


def test_a_field_whose_annotation_means_nothing_is_named() -> None:
    @dataclass
    class Broken:
        w: Unknown  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(Refused, match=r"annotation of Broken cannot be resolved: name 'Unknown'"):
        build(Broken, {"w": 1})


def test_a_handler_gets_what_its_annotation_says(project: Project) -> None:
    run = project.run(
        """
        from __future__ import annotations

        import enum
        from dataclasses import dataclass, field
        from typing import Dict, List, Literal, Optional, Tuple, TypedDict, Union

        import sjq

        @sjq.job
        def resize(data: Picture, job) -> Undefined:
            assert isinstance(data.sizes[0], Size)
            return [data.sizes[0].w, data.colour.name, data.scale, data.pair, data.more, data.note, data.either.w]

        class Colour(enum.Enum):
            RED = "red"

        @dataclass
        class Size:
            w: int

        class More(TypedDict, total=False):
            sizes: Dict[str, Size]

        @dataclass
        class Picture:
            sizes: List[Size]
            colour: Colour
            pair: Tuple[int, str]
            more: More
            either: Union[Size, int]
            scale: float = 1
            note: Optional[Literal["a"]] = None
            builtin: list[int] = field(default_factory=list)
        """,
        {
            "sizes": [{"w": 2}],
            "colour": "red",
            "pair": [1, "a"],
            "more": {"sizes": {"x": {"w": 3}}},
            "either": {"w": 4},
            "scale": 2,
        },
    )
    assert run.stderr == ""
    assert run.output == {"data": [2, "RED", 2.0, [1, "a"], {"sizes": {"x": {"w": 3}}}, None, 4]}


def test_a_mismatch_is_one_sentence_without_a_traceback(project: Project) -> None:
    run = project.run(
        """
        import sjq
        from dataclasses import dataclass

        @dataclass
        class Size:
            w: int

        @sjq.job
        def resize(data: Size):
            print("handler")
        """,
        {"w": "64"},
    )
    assert (run.code, run.stdout, run.output) == (1, "", None)
    assert run.stderr == 'error: data.w: expected int, got "64"\n'


def test_new_syntax_works_where_python_has_it_and_is_explained_where_not(project: Project) -> None:
    run = project.run(
        """
        from __future__ import annotations
        import sjq

        @sjq.job
        def resize(data: int | None):
            return data
        """
    )
    assert run.output == {"data": None} or run.error.endswith("`X | None` is Optional[X]")


def test_annotations_of_other_parameters_are_not_looked_at(here: Project) -> None:
    run = here.run(
        """
        from __future__ import annotations
        import sjq

        @sjq.job
        def resize(data, path: Nowhere, job: NotThere) -> Neither:
            return data
        """,
        1,
    )
    assert run.output == {"data": 1}


def test_called_with_arguments_the_function_is_left_alone(here: Project) -> None:
    here.write("import sjq\n@sjq.job\ndef resize(data: int):\n    return data\n")
    run = here.start("-c", "import sys; sys.path.insert(0, '.'); from topics.resize import resize; print(resize('x'))")
    assert run.stdout == "x\n"
