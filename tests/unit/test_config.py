"""`config.json` and the environment: every key, every wrong value, and nothing accepted that is then ignored."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sjq.config import (
    REDIS_OPTIONS,
    Config,
    TopicPolicy,
    WorkerPolicy,
    load,
    without_password,
)
from sjq.durations import duration
from sjq.errors import ConfigError
from sjq.states import State

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret"


def write(folder: Path, content: object) -> None:
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))


def read(folder: Path, content: object) -> Config:
    write(folder, content)
    return load(folder, {})


def refused(folder: Path, content: object) -> str:
    with pytest.raises(ConfigError) as error:
        read(folder, content)
    message = str(error.value)
    assert message.startswith("config.json")
    assert message.isprintable()
    return message


def nested(path: str, value: object) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def at(config: Config, path: str) -> object:
    """Return what a path of the file is in a Config."""
    if path == "events.length":
        return config.events_length
    first, _, rest = path.partition(".")
    found: object = getattr(config, first)
    for key in rest.split(".") if rest else []:
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    return found


# Every key.

RIGHT: list[tuple[str, object, object]] = [
    ("broker", "redis://h:1/2", "redis://h:1/2"),
    ("broker", "rediss://h", "rediss://h"),
    ("broker", "unix:///tmp/s", "unix:///tmp/s"),
    ("broker", "memory://", "memory://"),
    ("broker", "embedded://", "embedded://"),
    ("defaults.concurrency", 7, 7),
    ("defaults.kill_after", "500ms", 0.5),
    ("defaults.kill_after", 0, 0.0),
    ("defaults.losses", 1, 1),
    ("defaults.backoff", "30s", 30.0),
    ("defaults.on_failure", "halt", "halt"),
    ("defaults.retries", 0, 0),
    ("defaults.max_output", "1KB", 1000),
    ("defaults.memory", "512MB", 512_000_000),
    ("defaults.timeout", "2h", 7200.0),
    ("events.length", 1, 1),
    ("events.length", None, None),
    ("prefix", "", ""),
    ("prefix", "{sjq}:", "{sjq}:"),
    ("defaults.retention", {"succeeded": "30d", "failed": 5}, {State.SUCCEEDED: 30 * 86400.0, State.FAILED: 5.0}),
    ("topics.t.retention", {}, {}),
    ("topics.t.concurrency", 2, 2),
    ("topics.t.backoff", 0, 0.0),
    ("topics.t.on_failure", "continue", "continue"),
    ("topics.t.retries", 5, 5),
    ("topics.t.cpu", "1m", 60.0),
    ("topics.t.cpu", None, None),
    ("topics.t.kill_after", "1m", 60.0),
    ("topics.t.losses", 9, 9),
    ("topics.t.max_output", 7, 7),
    ("topics.t.memory", "2GiB", 2 << 30),
    ("topics.t.memory", None, None),
    ("topics.t.open_files", 64, 64),
    ("topics.t.open_files", None, None),
    ("topics.t.processes", 8, 8),
    ("topics.t.processes", None, None),
    ("topics.t.script", "other.py", "other.py"),
    ("topics.t.timeout", 0.5, 0.5),
    ("topics.t.timeout", None, None),
    ("worker.grace", 0, 0.0),
    ("worker.grace", "1d", 86400.0),
    ("worker.lease", "1.5s", 1.5),
]


@pytest.mark.parametrize(("path", "given_value", "expected"), RIGHT)
def test_each_key_is_read(tmp_path: Path, path: str, given_value: object, expected: object) -> None:
    assert at(read(tmp_path, nested(path, given_value)), path) == expected


OPTION_VALUES: list[object] = ["", "text", 0, 6380, 0.5, True, False, None, [], {}]


@pytest.mark.parametrize("option", REDIS_OPTIONS)
def test_each_argument_of_a_redis_client_is_checked(tmp_path: Path, option: str) -> None:
    wanted = REDIS_OPTIONS[option]
    for value in OPTION_VALUES:
        fits = option != "port" or value != 0
        if (type(value) is wanted and fits) or (wanted is float and type(value) is int):
            assert read(tmp_path, {"redis": {option: value}}).redis == {option: value}
        else:
            assert f"redis.{option}" in refused(tmp_path, {"redis": {option: value}})


ANYTHING: list[object] = [None, True, False, 0, 1, -1, 1.5, "", "text", [], [1], {}, {"a": 1}, 10**40]
FITTING: dict[str, list[object]] = {
    "broker": [],
    "defaults": [{}],
    "defaults.backoff": [0, 1, 1.5],
    "defaults.concurrency": [1, 10**40],
    "defaults.cpu": [None, 1, 1.5],
    "defaults.kill_after": [0, 1, 1.5],
    "defaults.losses": [1, 10**40],
    "defaults.on_failure": [],
    "defaults.retries": [0, 1, 10**40],
    "defaults.max_output": [1, 10**40],
    "defaults.memory": [None, 1, 10**40],
    "defaults.open_files": [None, 1, 10**40],
    "defaults.processes": [None, 1, 10**40],
    "defaults.timeout": [None, 1, 1.5],
    "defaults.retention": [{}],
    "events": [{}],
    "events.length": [None, 1, 10**40],
    "prefix": ["", "text"],
    "records": [{}],
    "records.size": [0, 1, 10**40],
    "redis": [{}],
    "topics": [{}],
    "topics.t": [{}],
    "topics.t.backoff": [0, 1, 1.5],
    "topics.t.concurrency": [1, 10**40],
    "topics.t.cpu": [None, 1, 1.5],
    "topics.t.kill_after": [0, 1, 1.5],
    "topics.t.losses": [1, 10**40],
    "topics.t.on_failure": [],
    "topics.t.retries": [0, 1, 10**40],
    "topics.t.max_output": [1, 10**40],
    "topics.t.memory": [None, 1, 10**40],
    "topics.t.open_files": [None, 1, 10**40],
    "topics.t.processes": [None, 1, 10**40],
    "topics.t.retention": [{}],
    "topics.t.script": [],
    "topics.t.timeout": [None, 1, 1.5],
    "worker": [{}],
    "worker.grace": [0, 1, 1.5],
    "worker.lease": [1, 1.5],
}
"""Of ANYTHING, what each key takes."""


@pytest.mark.parametrize("path", FITTING)
@pytest.mark.parametrize("value", ANYTHING, ids=repr)
def test_each_wrong_value_is_refused_by_its_path(tmp_path: Path, path: str, value: object) -> None:
    if any(value == fit and type(value) is type(fit) for fit in FITTING[path]):
        read(tmp_path, nested(path, value))
        return
    message = refused(tmp_path, nested(path, value))
    inside = {path: f"{path}.a" for path in ("defaults", "events", "records", "redis", "worker")}
    if value == {"a": 1}:
        assert inside.get(path, path) in message or "topics.a" in message or "topics.t.a" in message
        assert "unknown key" in message or "expected" in message
    else:
        assert path in message
        assert "expected" in message or "is no broker's URL" in message


def test_a_wrong_value_is_shown_short(tmp_path: Path) -> None:
    message = refused(tmp_path, {"prefix": list(range(10_000))})
    assert "config.json: prefix is [0, 1, 2" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("wokrer", "worker"),
        ("broker_url", "broker"),
        ("topic", "topics"),
        ("redsi", "redis"),
        ("defaults.concurency", "concurrency"),
        ("defaults.kill-after", "kill_after"),
        ("events.lenght", "length"),
        ("worker.leases", "lease"),
        ("topics.t.retention.suceeded", "succeeded"),
        ("records.sizes", "size"),
        ("topics.t.scripts", "script"),
        ("redis.hosts", "host"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path, path: str, near: str) -> None:
    message = refused(tmp_path, nested(path, 1))
    assert f'unknown key "{path}"; did you mean "{near}"?' in message


@pytest.mark.parametrize(
    "path",
    [
        "xyz",
        "defaults.script",
        "defaults.executor",
        "topics.t.review",
        "topics.t.exclusive",
        "worker.resources",
        "redis.xyz",
    ],
)
def test_a_key_of_a_feature_to_come_is_unknown(tmp_path: Path, path: str) -> None:
    assert f'unknown key "{path}"' in refused(tmp_path, nested(path, 1))


def test_an_unknown_key_without_a_near_one_lists_the_known(tmp_path: Path) -> None:
    assert "known here: grace, lease" in refused(tmp_path, {"worker": {"zzz": 1}})


@pytest.mark.parametrize("topic", ["", "a b", "_a", ".a", "a/b", "x" * 129])
def test_a_wrong_name_of_a_topic_is_refused(tmp_path: Path, topic: str) -> None:
    assert "cannot be the name of a topic" in refused(tmp_path, {"topics": {topic: {}}})


@pytest.mark.parametrize("script", ["other", "a/b.py", "/a.py", "../a.py", "a.PY", 5, None, ["a.py"]])
def test_a_script_is_a_file_in_topics(tmp_path: Path, script: object) -> None:
    assert "topics.t.script" in refused(tmp_path, {"topics": {"t": {"script": script}}})


def test_a_topic_takes_from_the_defaults_what_it_does_not_say(tmp_path: Path) -> None:
    config = read(
        tmp_path, {"defaults": {"concurrency": 3, "losses": 5}, "topics": {"t": {"losses": 1, "script": "s.py"}}}
    )
    assert config.policy("t") == TopicPolicy(concurrency=3, losses=1, script="s.py")
    assert config.policy("other") == TopicPolicy(concurrency=3, losses=5)


def test_a_limit_may_be_lifted_for_one_topic(tmp_path: Path) -> None:
    config = read(tmp_path, {"defaults": {"memory": "1GB"}, "topics": {"t": {"memory": None}}})
    assert (config.policy("t").memory, config.policy("other").memory) == (None, 10**9)
    assert "more than no byte at all, or null for no limit" in refused(tmp_path, {"defaults": {"memory": 0}})


def test_the_retention_of_a_topic_stands_for_that_of_the_defaults(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        {
            "defaults": {"retention": {"succeeded": "1d", "failed": "2d"}},
            "topics": {"t": {"retention": {"failed": 1}}, "u": {}},
            "records": {"size": "20GB"},
        },
    )
    assert config.policy("t").retention == {State.FAILED: 1.0}
    assert config.policy("u").retention == config.policy("v").retention == {"succeeded": 86400.0, "failed": 172800.0}
    assert config.records_size == 20 * 10**9


@pytest.mark.parametrize("state", ["incoming", "processing", "scheduled", "inbox", "lost", ""])
def test_only_what_has_ended_can_be_pruned(tmp_path: Path, state: str) -> None:
    assert f'unknown key "defaults.retention.{state}"' in refused(tmp_path, {"defaults": {"retention": {state: "1d"}}})


def test_the_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    assert load(tmp_path, {}) == read(tmp_path, {})
    assert load(tmp_path, {}) == Config(
        root=tmp_path,
        job_data=tmp_path / "job_data",
        broker=None,
        redis=None,
        prefix="",
        events_length=100_000,
        defaults=TopicPolicy(
            concurrency=1,
            cpu=None,
            kill_after=1.0,
            losses=3,
            max_output=64_000_000,
            memory=None,
            open_files=None,
            processes=None,
            script=None,
            timeout=None,
        ),
        records_size=None,
        topics={},
        worker=WorkerPolicy(grace=30.0, lease=15.0),
    )
    assert load(tmp_path, {}).topics_folder == tmp_path / "topics"
    assert load(tmp_path, {}).state_folder == tmp_path / ".sjq"


def test_every_key_of_a_policy_is_tested_here() -> None:
    assert {f"topics.t.{field.name}" for field in dataclasses.fields(TopicPolicy)} <= FITTING.keys()
    assert {f"worker.{field.name}" for field in dataclasses.fields(WorkerPolicy)} <= FITTING.keys()


# Files that are none.


@pytest.mark.parametrize("text", ["", " ", "nul", "{", '{"prefix": "a"} x', "{'prefix': 1}", "[" * 20_000])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    assert "is not JSON" in refused(tmp_path, text)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"prefix": "\xff"}')
    with pytest.raises(ConfigError, match="is not JSON"):
        load(tmp_path, {})


@pytest.mark.parametrize("content", [[], 1, None, "text", True], ids=repr)
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, content: object) -> None:
    assert "expected an object" in refused(tmp_path, json.dumps(content))


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_stands_there_and_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "config.json").mkdir()
    else:
        (tmp_path / "config.json").symlink_to("nowhere.json")
    with pytest.raises(ConfigError, match=r"config\.json"):
        load(tmp_path, {})


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "prefix" in refused(tmp_path, '{"prefix": "a", "prefix": "b"}')


# The environment.


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"redis": {"host": "file"}, "prefix": "p"})
    config = load(tmp_path, {"SJQ_BROKER": "memory://", "SJQ_JOB_DATA": "elsewhere"})
    assert (config.broker, config.redis, config.prefix) == ("memory://", None, "p")
    assert config.job_data == tmp_path / "elsewhere"
    assert load(tmp_path, {"SJQ_JOB_DATA": "/a/b"}).job_data.as_posix() == "/a/b"


def test_the_environment_wins_over_a_broker_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"broker": "redis://file"})
    assert load(tmp_path, {"SJQ_BROKER": "unix:///s"}).broker == "unix:///s"


def test_the_environment_counts_where_there_is_no_file(tmp_path: Path) -> None:
    assert load(tmp_path, {"SJQ_BROKER": "memory://"}).broker == "memory://"


def test_an_empty_variable_says_nothing(tmp_path: Path) -> None:
    empty = {"SJQ_BROKER": "", "SJQ_JOB_DATA": "", "SJQ_CONFIG": ""}
    assert load(tmp_path, empty) == load(tmp_path, {})


def test_another_file_makes_its_folder_the_project(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.json").write_text('{"prefix": "o"}')
    write(tmp_path, {"prefix": "ignored"})
    for named in ("other/mine.json", str(tmp_path / "other" / "mine.json")):
        config = load(tmp_path, {"SJQ_CONFIG": named, "SJQ_JOB_DATA": "data"})
        assert (config.prefix, config.root) == ("o", tmp_path / "other")
        assert config.job_data == tmp_path / "other" / "data"


def test_the_errors_of_another_file_name_it(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"prefix": 1}')
    with pytest.raises(ConfigError, match=r"^mine\.json: prefix is 1"):
        load(tmp_path, {"SJQ_CONFIG": "mine.json"})


@pytest.mark.parametrize("named", ["missing.json", "."])
def test_another_file_that_is_none_is_refused(tmp_path: Path, named: str) -> None:
    with pytest.raises(ConfigError, match="SJQ_CONFIG"):
        load(tmp_path, {"SJQ_CONFIG": named})


def test_a_wrong_broker_of_the_environment_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^SJQ_BROKER: 'http://h' is no broker's URL"):
        load(tmp_path, {"SJQ_BROKER": "http://h"})


def test_the_current_directory_is_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"prefix": "here"})
    monkeypatch.chdir(tmp_path)
    config = load(environ={})
    assert (config.root, config.prefix) == (tmp_path, "here")


# Brokers and passwords.


def test_redis_is_a_url_or_arguments(tmp_path: Path) -> None:
    by_url = read(tmp_path, {"redis": "redis://h"})
    assert (by_url.broker, by_url.redis) == ("redis://h", None)
    by_arguments = read(tmp_path, {"redis": {"host": "h", "port": 1, "db": 2}})
    assert (by_arguments.broker, by_arguments.redis) == (None, {"host": "h", "port": 1, "db": 2})


def test_redis_and_broker_together_are_refused(tmp_path: Path) -> None:
    assert 'both "redis" and "broker"' in refused(tmp_path, {"redis": {}, "broker": "memory://"})


@pytest.mark.parametrize("url", ["", "h:6379", "http://h", "REDIS://h", "postgres://h"])
def test_a_url_of_no_broker_is_refused(tmp_path: Path, url: str) -> None:
    for key in ("broker", "redis"):
        assert "is no broker's URL" in refused(tmp_path, {key: url})


@pytest.mark.parametrize(
    "content",
    [
        {"broker": f"http://user:{SECRET}@h"},
        {"redis": f"http://:{SECRET}@h/0"},
        {"broker": f"http://user:{SECRET}:{SECRET}/{SECRET}@h"},
        {"redis": {"passwort": SECRET}},
        {"redis": {"password": SECRET, "port": "6379"}},
    ],
)
def test_no_message_shows_a_password(tmp_path: Path, content: object) -> None:
    assert SECRET not in refused(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        {"redis": {"password": [SECRET]}},
        {"redis": {"ssl_keyfile_password": {SECRET: 1}}},
        {"redis": [f"redis://:{SECRET}@h"]},
        {"broker": [f"redis://:{SECRET}@h"]},
        {"broker": f"user:{SECRET}@h"},
        {"broker": f"http://user:a@{SECRET}@h"},
        {"broker": f"http://h/0?password={SECRET}"},
    ],
)
def test_no_message_shows_a_password_in_a_strange_place(tmp_path: Path, content: object) -> None:
    assert SECRET not in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://user@h/0", "redis://user@h/0"),
        ("redis://user:pw@h/0", "redis://user:***@h/0"),
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("redis://:@h/0", "redis://:***@h/0"),
        ("unix://user:pw@/s?db=1", "unix://user:***@/s?db=1"),
        ("memory://", "memory://"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, expected: str) -> None:
    assert without_password(url) == expected


# Durations.


@given(st.integers(10**9 + 1, 10**300) | st.floats(1e9, exclude_min=True, allow_infinity=False))
@example("11575d")
def test_a_time_that_no_calendar_has_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="no more than 1000000000 seconds"):
        duration(value)


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 11_574), st.sampled_from(list(UNITS)), st.sampled_from(["", " ", "\t"]))
def test_a_whole_number_with_a_unit_is_a_duration(number: int, unit: str, around: str) -> None:
    assert duration(f"{around}{number}{unit}{around}") == pytest.approx(number * UNITS[unit])


@given(st.decimals(0, 11_574, places=3), st.sampled_from(["", *UNITS]))
def test_a_fraction_is_a_duration(number: object, unit: str) -> None:
    assert duration(f"{number}{unit}") == pytest.approx(float(str(number)) * UNITS.get(unit, 1))


@given(st.integers(0, 10**9) | st.floats(0, 1e9))
def test_a_number_is_seconds(number: float) -> None:
    assert duration(number) == float(number)


@given(
    st.none()
    | st.booleans()
    | st.integers(max_value=-1)
    | st.floats(max_value=-1e-300)
    | st.just(float("nan"))
    | st.just(float("inf"))
    | st.text(alphabet="abcxyz -+_,/\n", max_size=8)
    | st.lists(st.integers())
)
@example("")
@example("5 s")
@example("1e3")
@example("1.s")
@example(".5s")
@example("5S")
@example("5min")
@example("1h30m")
@example("-1s")
@example("1_000")
@example("0x10")
@example("inf")
@example("nan")
@example("5s5")
def test_anything_else_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="seconds as a number, or a text such as 500ms"):
        duration(value)


@pytest.mark.parametrize(
    "value", [10**400, "1" * 400, "1" * 400 + "d", "9" * 308 + "d"], ids=lambda value: str(value)[-3:]
)
def test_a_time_without_end_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="seconds as a number"):
        duration(value)
