"""What an exit and an output mean: every form of an output, and every wrong one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from sjq.executors.base import Breach, Exit, OpenFiles
from sjq.jobs import MOST_HOPS, MOST_NEXT_JOBS, Message, new_message
from sjq.outcomes import Outcome
from sjq.plain_file import TooLarge, read_plain
from sjq.states import Reason, State
from sjq.worker.judgement import judge

if TYPE_CHECKING:
    from collections.abc import Callable

NOWHERE = Path("/nowhere")
MESSAGE = Message(job_id="parent", topic="t", data=b"1")
MOST = 64_000_000
MANY_HOPS = msgspec.Raw(b"9" * 4300)


def end(exit_code: int | None = 0, signal: int | None = None, error: str | None = None) -> Exit:
    return Exit(
        exit_code=exit_code, signal=signal, start_time=0, end_time=1, elapsed_s=1, usage=None, killed=False, error=error
    )


def judged(output: object, root: Path = NOWHERE, message: Message = MESSAGE) -> Outcome:
    text = output if isinstance(output, bytes) else json.dumps(output).encode()
    return judge(message, end(), lambda _: text, root, copies_in=root, max_output=MOST)


def refused(output: object, root: Path = NOWHERE) -> str:
    outcome = judged(output, root)
    assert outcome.state is State.FAILED
    assert outcome.reason is Reason.OUTPUT
    assert not outcome.next_jobs
    assert outcome.why
    assert outcome.why.isprintable()
    assert len(outcome.why) < 500
    return outcome.why


# The exit.


def unread(_: int) -> bytes:
    raise AssertionError("the output was read, though a signal ended its process")


def unwritten(_: int) -> bytes:
    raise FileNotFoundError


@pytest.mark.parametrize("code", [1, 2, 75, 127, 255])
def test_any_exit_code_but_0_is_a_failure(code: int) -> None:
    outcome = judge(MESSAGE, end(code), unwritten, NOWHERE, copies_in=NOWHERE, max_output=MOST)
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.EXIT)
    assert f"exit code {code}" in (outcome.why or "")
    assert not outcome.final


@pytest.mark.parametrize(
    ("code", "written", "why", "delay_s", "final"),
    [
        (75, {"retry": {"after": 2.5, "why": "busy"}}, "it asked for another try: busy", 2.5, False),
        (75, {"retry": {}}, "it asked for another try", None, False),
        (75, {"data": 1}, "exit code 75, which asks for another try", None, False),
        (1, {"retry": {"after": 2.5}}, "exit code 1", None, False),
        (1, {"fail": {"why": "no such customer"}}, "no such customer", None, True),
        (3, {"fail": {}}, "exit code 3: the handler gave up", None, True),
        (1, {"fail": {"why": "x"}, "more": 1}, "exit code 1", None, False),
        (75, {"retry": {"after": -1}}, "exit code 75, which asks for another try", None, False),
        (1, "x" * 2**17, "exit code 1", None, False),
    ],
)
def test_a_handler_may_say_what_is_to_become_of_its_job(
    code: int, written: object, why: str, delay_s: float | None, final: bool
) -> None:
    outcome = judge(
        MESSAGE, end(code), lambda _: json.dumps(written).encode(), NOWHERE, copies_in=NOWHERE, max_output=MOST
    )
    assert (outcome.state, outcome.reason, outcome.why) == (State.FAILED, Reason.EXIT, why)
    assert (outcome.delay_s, outcome.final) == (delay_s, final)


def test_a_chain_that_is_too_long_is_a_circle() -> None:
    def after(hops: int) -> Outcome:
        inherited = {"hops": msgspec.Raw(str(hops).encode())}
        return judged({"data": 1, "next_topic": "again"}, message=changed(MESSAGE, inherited=inherited))

    assert [one.hops for one in after(MOST_HOPS - 1).next_jobs] == [MOST_HOPS]
    assert after(MOST_HOPS).reason is Reason.OUTPUT
    assert "'again'" in (after(MOST_HOPS).why or "")
    assert "lead in a circle" in (after(MOST_HOPS).why or "")


@pytest.mark.parametrize(
    ("number", "name"), [(9, "SIGKILL (signal 9)"), (15, "SIGTERM"), (11, "SIGSEGV"), (40, "signal 40")]
)
def test_a_signal_is_a_failure_by_name(number: int, name: str) -> None:
    outcome = judge(MESSAGE, end(None, number), unread, NOWHERE, copies_in=NOWHERE, max_output=MOST)
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.SIGNAL)
    assert name in (outcome.why or "")


def test_an_end_that_nobody_knows_is_lost() -> None:
    outcome = judge(
        MESSAGE, end(None, None, "the keeper was killed"), unread, NOWHERE, copies_in=NOWHERE, max_output=MOST
    )
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.LOST)
    assert "the keeper was killed" in (outcome.why or "")


@pytest.mark.parametrize("reason", [Reason.TIMEOUT, Reason.MEMORY, Reason.LIMIT])
@pytest.mark.parametrize(("code", "number"), [(0, None), (1, None), (75, None), (None, 9), (None, 15)])
def test_a_limit_decides_before_what_the_process_made_of_it(
    reason: Reason, code: int | None, number: int | None
) -> None:
    breached = replace(end(code, number), breach=Breach(reason=reason, why="it was too much"))
    outcome = judge(MESSAGE, breached, unread, NOWHERE, copies_in=NOWHERE, max_output=MOST, complaint="Terminated")
    state = State.TIMEDOUT if reason is Reason.TIMEOUT else State.FAILED
    assert outcome == Outcome(state=state, reason=reason, why="it was too much")


@pytest.mark.parametrize(
    ("most", "refused", "code", "reason"),
    [
        (40, False, 1, Reason.LIMIT),
        (12, True, 1, Reason.LIMIT),
        (39, False, 1, Reason.EXIT),
        (40, True, 75, Reason.EXIT),
        (40, True, 0, None),
    ],
)
def test_files_that_were_refused_are_why_an_exit_code_is_none_of_0(
    most: int, refused: bool, code: int, reason: Reason | None
) -> None:
    """Whoever asks for another try knows what to do about it."""
    limited = replace(end(code), open_files=OpenFiles(most=most, limit=40))
    outcome = judge(
        MESSAGE,
        limited,
        lambda _: b'{"data": 1}',
        NOWHERE,
        copies_in=NOWHERE,
        max_output=MOST,
        complaint="OSError: no",
        refused_files=refused,
    )
    assert outcome.reason is reason
    if reason is Reason.LIMIT:
        assert outcome.why == (
            "one of its processes had 40 files open, and open files are limited to 40 for each (open_files); "
            "it ended by exit code 1: OSError: no"
        )


def test_a_handler_that_gave_up_for_want_of_files_has_its_word(tmp_path: Path) -> None:
    limited = replace(end(1), open_files=OpenFiles(most=40, limit=40))
    outcome = judge(
        MESSAGE, limited, lambda _: b'{"fail": {"why": "no"}}', tmp_path, copies_in=tmp_path, max_output=MOST
    )
    assert (outcome.reason, outcome.why, outcome.final) == (Reason.EXIT, "no", True)


def test_files_that_are_refused_where_they_are_not_limited_name_no_limit() -> None:
    outcome = judge(
        MESSAGE, end(1), unwritten, NOWHERE, copies_in=NOWHERE, max_output=MOST, complaint="x", refused_files=True
    )
    assert (outcome.reason, outcome.why) == (Reason.EXIT, "exit code 1: x")


def test_an_output_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(b'{"data": 1}')
    assert (
        judge(MESSAGE, end(), lambda most: read_plain(path, most=most), NOWHERE, copies_in=NOWHERE, max_output=11).state
        is State.SUCCEEDED
    )
    with path.open("ab") as file:
        file.truncate(70_123_456)
    with pytest.raises(TooLarge):
        read_plain(path, most=64_000_000)
    outcome = judge(
        MESSAGE, end(), lambda most: read_plain(path, most=most), NOWHERE, copies_in=NOWHERE, max_output=64_000_000
    )
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.OUTPUT)
    assert "its output has 70.1 MB, and max_output is 64 MB" in (outcome.why or "")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), PermissionError(13, "Permission denied")])
def test_an_output_that_cannot_be_read_is_a_failure(error: OSError) -> None:
    def read(_: int) -> bytes:
        raise error

    outcome = judge(MESSAGE, end(), read, NOWHERE, copies_in=NOWHERE, max_output=MOST)
    assert (outcome.state, outcome.reason) == (State.FAILED, Reason.OUTPUT)
    assert ("wrote no output" if error.errno == 2 else "Permission denied") in (outcome.why or "")


# Every form.


@pytest.mark.parametrize("data", [None, 1, "text", [1, {"a": None}], {"next_topic": "t"}, 2**80], ids=repr)
def test_data_alone_ends_the_chain(data: object) -> None:
    assert judged({"data": data}) == Outcome(state=State.SUCCEEDED)


def followers(output: object, root: Path = NOWHERE) -> list[tuple[str, object, bytes | None]]:
    outcome = judged(output, root)
    assert (outcome.state, outcome.reason, outcome.why) == (State.SUCCEEDED, None, None)
    assert all(message.parent_job_id == "parent" for message in outcome.next_jobs)
    assert len({message.job_id for message in outcome.next_jobs}) == len(outcome.next_jobs)
    return [
        (
            message.topic,
            json.loads(bytes(message.data)),
            None if message.attachment is None else bytes(message.attachment),
        )
        for message in outcome.next_jobs
    ]


def test_a_next_topic_gets_the_data() -> None:
    assert followers({"data": [1], "next_topic": "a"}) == [("a", [1], None)]


def test_next_topics_all_get_the_data() -> None:
    assert followers({"data": {}, "next_topics": ["a", "b", "a"]}) == [
        ("a", {}, None),
        ("b", {}, None),
        ("a", {}, None),
    ]
    assert followers({"data": {}, "next_topics": []}) == []


def test_next_jobs_have_data_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"\0\xff")
    output = {
        "data": "mine",
        "next": [
            {"topic": "a", "data": 1},
            {"topic": "b", "data": None, "attachment": "file.bin"},
            {"topic": "c", "data": [2], "attachment": str(tmp_path / "file.bin")},
            {"topic": "d", "data": 3, "attachment": None},
            {"topic": "e"},
        ],
    }
    assert followers(output, tmp_path) == [
        ("a", 1, None),
        ("b", None, b"\0\xff"),
        ("c", [2], b"\0\xff"),
        ("d", 3, None),
        ("e", None, None),
    ]
    assert followers({"data": 1, "next": []}) == []


@pytest.mark.parametrize("text", ["1.0e5", "123456789012345678901234567890", '"\\u0041\\/"', '{"a": 1,  "a": 2}'])
def test_data_goes_on_to_the_byte(text: str) -> None:
    for output in (
        f'{{"data": {text}, "next_topic": "a"}}',
        f'{{"data": 0, "next": [{{"topic": "a", "data": {text}}}]}}',
    ):
        assert judged(output.encode()).next_jobs[0].data == text.encode()


def test_next_jobs_inherit() -> None:
    message = new_message("t", 1).next("u", b"2")
    assert judged({"data": 1, "next_topic": "a"}, message=message).next_jobs[0].hops == 2


def test_as_many_next_jobs_as_may_be() -> None:
    assert len(followers({"data": 1, "next_topics": ["a"] * MOST_NEXT_JOBS})) == MOST_NEXT_JOBS
    assert "10001 next jobs" in refused({"data": 1, "next_topics": ["a"] * (MOST_NEXT_JOBS + 1)})
    assert "10001 next jobs" in refused({"data": 1, "next": [{"topic": "a"}] * (MOST_NEXT_JOBS + 1)})


# Every wrong form.

NO_JSON = [
    b"",
    b" ",
    b"{",
    b'{"data": 1} x',
    b'{"data": NaN}',
    b"{'data': 1}",
    b'{"data": 1,}',
    b"data",
    b'{"data": 01}',
]


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    assert "not whole JSON" in refused(text)


def test_what_is_not_utf_8_is_refused() -> None:
    assert "not UTF-8 (byte 10)" in refused(b'{"data": "\xff"}')


WRONG: list[object] = [
    None,
    1,
    "text",
    [],
    [{"data": 1}],
    {},
    {"result": 1},
    {"next_topic": "a"},
    {"next": []},
    {"data": 1, "extra": 2},
    {"data": 1, "topic": "a"},
    {"data": 1, "next_topic": None},
    {"data": 1, "next_topic": 5},
    {"data": 1, "next_topic": ["a"]},
    {"data": 1, "next_topics": "a"},
    {"data": 1, "next_topics": [1]},
    {"data": 1, "next_topics": ["a", None]},
    {"data": 1, "next_topics": {"a": 1}},
    {"data": 1, "next": "a"},
    {"data": 1, "next": ["a"]},
    {"data": 1, "next": {"topic": "a", "data": 1}},
    {"data": 1, "next": [{}]},
    {"data": 1, "next": [{"data": 1}]},
    {"data": 1, "next": [{"topic": None, "data": 1}]},
    {"data": 1, "next": [{"topic": 5, "data": 1}]},
    {"data": 1, "next": [{"topic": "a", "data": 1, "attachment": 5}]},
    {"data": 1, "next": [{"topic": "a", "data": 1, "extra": 5}]},
    {"data": 1, "next": [{"topic": "a", "data": 1, "job_id": "mine"}]},
]


@pytest.mark.parametrize("output", WRONG, ids=repr)
def test_what_is_of_no_form_is_refused(output: object) -> None:
    assert "not of a form that sjq knows" in refused(output)
    assert '{"data": ...}' in refused(output)


@pytest.mark.parametrize(
    "both",
    [
        {"next_topic": "a", "next_topics": ["b"]},
        {"next_topic": "a", "next": []},
        {"next_topics": [], "next": []},
        {"next_topic": "a", "next_topics": ["b"], "next": []},
    ],
    ids=repr,
)
def test_two_forms_at_once_are_refused(both: dict[str, object]) -> None:
    assert " and ".join(both) in refused({"data": 1, **both})


@pytest.mark.parametrize("name", ["priority", "delay"])
@pytest.mark.parametrize("value", [0, 5, None, "1m"])
def test_what_is_not_built_is_refused(name: str, value: object) -> None:
    output = {"data": 1, "next": [{"topic": "a"}, {"topic": "a", name: value}]}
    assert f'"{name}" at next[1], which is not supported yet' in refused(output)


BAD_TOPICS = ["", " ", "a b", "_a", ".a", "../a", "a/b", "x" * 129, "é", "a\n", "a\0"]


@given(st.lists(st.sampled_from(["a", "b", "long-name.9"]), max_size=5), st.sampled_from(BAD_TOPICS), st.data())
def test_one_bad_next_topic_fails_the_whole_output(good: list[str], bad: str, data: st.DataObject) -> None:
    topics = list(good)
    topics.insert(data.draw(st.integers(0, len(good))), bad)
    forms: list[dict[str, Any]] = [{"next_topics": topics}, {"next": [{"topic": topic, "data": 1} for topic in topics]}]
    if not good:
        forms.append({"next_topic": bad})
    for form in forms:
        assert "names a next topic that cannot be" in refused({"data": 1, **form})


def missing(folder: Path) -> str:
    return str(folder / "missing")


def a_folder(folder: Path) -> str:
    return str(folder)


def an_empty_name(folder: Path) -> str:
    del folder
    return ""


def with_nul(folder: Path) -> str:
    del folder
    return "a\0b"


def too_long(folder: Path) -> str:
    del folder
    return "a" * 5000


@pytest.mark.parametrize("name", [missing, a_folder, an_empty_name, with_nul, too_long])
def test_one_bad_attachment_fails_the_whole_output(tmp_path: Path, name: Callable[[Path], str]) -> None:
    output = {"data": 1, "next": [{"topic": "a"}, {"topic": "a", "attachment": name(tmp_path)}]}
    outcome = judged(output, tmp_path)
    assert (outcome.state, outcome.reason, outcome.next_jobs) == (State.FAILED, Reason.OUTPUT, ())
    assert "of next[1] cannot be read" in (outcome.why or "")


@given(
    st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_whatever_a_process_wrote_has_an_outcome(text: bytes) -> None:
    outcome = judged(text)
    assert outcome.state in (State.SUCCEEDED, State.FAILED)
    assert (outcome.why is None) == (outcome.state is State.SUCCEEDED)


next_objects = st.fixed_dictionaries({}, optional={"topic": st.text(max_size=3), "data": st.integers()})


@given(
    st.dictionaries(
        st.sampled_from(["data", "next_topic", "next_topics", "next"]),
        st.none()
        | st.sampled_from(["a", "", "b c"])
        | st.lists(st.sampled_from(["a", "", "b c"]), max_size=3)
        | st.lists(
            st.fixed_dictionaries({}, optional={"topic": st.text(max_size=3), "data": st.integers()}), max_size=3
        ),
    )
)
def test_whatever_it_means_is_all_or_nothing(output: dict[str, Any]) -> None:
    outcome = judged(output)
    if outcome.state is State.FAILED:
        assert not outcome.next_jobs
    else:
        assert "data" in output
        wanted = [output["next_topic"]] if "next_topic" in output else output.get("next_topics", output.get("next", []))
        assert len(outcome.next_jobs) == len(wanted)


def test_a_chain_of_any_length_goes_on() -> None:
    message = Message(job_id="a", topic="t", data=b"1", inherited={"hops": MANY_HOPS})
    assert judged({"data": 1, "next_topic": "a"}, message=message).state is State.SUCCEEDED
