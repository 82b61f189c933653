"""What the parameters of a handler get, and the decorated object itself."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
from collections.abc import AsyncIterator, Callable

import pytest

import sjq.handler as handlers
from sjq.handler.parameters import fill, plan

from .project import FILES, INPUT, OUTPUT, Project

JOB = """
import sjq

@sjq.job
def resize(data, job):
    paths = job.paths
    return [job.id, job.topic, job.attempt, job.parent,
            paths.input, paths.output, paths.attachment, paths.folder]
"""


def call(function: Callable[..., object], attachment: str | None = None) -> object:
    positional, keywords = fill(plan(function, "resize"), data="D", attachment=attachment, job="J")
    return function(*positional, **keywords)


def test_the_first_parameter_is_the_data_and_the_second_the_attachment() -> None:
    assert call(lambda data, path: (data, path), "A") == ("D", "A")
    assert call(lambda data, path: (data, path)) == ("D", None)


def test_a_parameter_named_job_gets_the_job_wherever_it_stands() -> None:
    assert call(lambda job, data, path: (job, data, path), "A") == ("J", "D", "A")
    assert call(lambda data, job, path: (job, data, path), "A") == ("J", "D", "A")
    assert call(lambda data, *, job: (job, data)) == ("J", "D")
    assert call(lambda job: job) == "J"


def test_a_function_without_parameters_is_called_without_arguments() -> None:
    assert call(lambda: "ran") == "ran"
    assert call(lambda **options: options) == {}


def test_a_default_stays_when_there_is_nothing_to_fill_in() -> None:
    assert call(lambda _data, quality=80: quality) == 80
    assert call(lambda _data, path=None: path, "A") == "A"
    assert call(lambda _data, quality=80, job=None: (quality, job)) == (80, "J")
    assert call(lambda _data, path=None, *, quality=80: (path, quality), "A") == ("A", 80)
    assert call(lambda _data, *, quality=80: quality, "A") == 80
    assert call(lambda data=None: data) == "D"


def test_the_name_attachment_is_found_anywhere() -> None:
    assert call(lambda _data, quality=80, *, attachment=None: (quality, attachment), "A") == (80, "A")


def test_keyword_only_parameters_are_filled_when_they_need_it() -> None:
    assert call(lambda *, data, path: (data, path), "A") == ("D", "A")
    assert call(lambda *, quality=80, data, path: (quality, data, path), "A") == (80, "D", "A")


def test_starred_and_positional_only_parameters() -> None:
    def positional(data: object, path: object, /) -> object:
        return data, path

    assert call(lambda *values: values) == ("D",)
    assert call(lambda data, *rest: (data, rest), "A") == ("D", ())
    assert call(lambda *values, job: (values, job)) == (("D",), "J")
    assert call(positional, "A") == ("D", "A")


def test_callables_that_are_no_plain_functions() -> None:
    class Resize:
        def __call__(self, data: object, job: object) -> object:
            return data, job

        def method(self, data: object) -> object:
            return data

    def wrapped(data: object, job: object) -> object:
        return data, job

    @functools.wraps(wrapped)
    def wrapper(*values: object, **options: object) -> object:
        return values, options

    assert call(Resize()) == ("D", "J")
    assert call(Resize().method) == "D"
    assert call(functools.partial(lambda scale, data: (scale, data), 2)) == (2, "D")
    assert call(functools.partial(lambda scale, data: (scale, data), scale=2)) == (2, "D")
    assert call(wrapper) == (("D", "J"), {})
    assert call(str.upper) == "D"


def test_parameters_that_nothing_can_fill_are_refused_at_decoration() -> None:
    with pytest.raises(TypeError, match=r"'width', 'height' of the handler resize\(\)"):

        @handlers.job
        def resize(data: object, path: object, width: int, height: int) -> None: ...


def test_what_is_not_callable_is_refused() -> None:
    with pytest.raises(TypeError, match="goes on a function, not on 42"):
        handlers.job(42)  # type: ignore[arg-type]


def test_async_functions_are_refused() -> None:
    async def coroutine(data: object) -> None: ...
    async def generator(data: object) -> AsyncIterator[object]:
        yield data

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match=r"is async, which is not supported; use asyncio.run inside"):
            handlers.job(function)


def test_with_arguments_a_handler_is_the_plain_function() -> None:
    @handlers.job
    def resize(data: int, path: str | None = None) -> object:
        """Makes it smaller."""
        return data, path

    assert resize(1) == (1, None)
    assert resize(data=1, path="a") == (1, "a")
    assert (resize.__name__, resize.__doc__) == ("resize", "Makes it smaller.")
    assert resize.__module__ == __name__
    assert list(inspect.signature(resize).parameters) == ["data", "path"]


def test_a_handler_without_parameters_can_be_called_in_a_unit_test() -> None:
    assert handlers.job(lambda: "ran")() == "ran"


@handlers.job
def at_module_level(data: object) -> object:
    return data


def test_a_handler_is_pickled_by_name_as_functions_are() -> None:
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level


def test_a_job_by_hand_knows_what_the_names_of_its_files_tell(project: Project) -> None:
    run = project.run(JOB, None, "--attachment", INPUT)
    assert run.output == {"data": ["j1", "resize", 1, None, INPUT, OUTPUT, INPUT, "job_data"]}


def test_a_job_of_a_worker_has_its_facts_from_the_environment(here: Project) -> None:
    here.environment.update(SJQ_JOB_ID="ü/1", SJQ_TOPIC="scale", SJQ_ATTEMPT="3", SJQ_PARENT_JOB_ID="p")
    assert here.run(JOB).output["data"][:4] == ["ü/1", "scale", 3, "p"]


def test_facts_that_make_no_sense_are_those_of_a_job_by_hand(here: Project) -> None:
    here.environment.update(SJQ_JOB_ID="", SJQ_TOPIC="", SJQ_ATTEMPT="x", SJQ_PARENT_JOB_ID="")
    assert here.run(JOB).output["data"][:4] == ["j1", "resize", 1, None]


def test_the_attachment_is_a_path_that_can_be_opened(here: Project) -> None:
    (here.root / "a.bin").write_bytes(os.urandom(3))
    here.run("import sjq\n@sjq.job\ndef resize(data, path):\n    return len(open(path, 'rb').read())\n")
    assert here.start("topics/resize.py", *FILES, "--attachment", "a.bin").output == {"data": 3}
