"""`config.json` and the environment -> one frozen Config. The only reader of both.

Every key is checked: nothing is accepted and ignored. A key of a feature that is not built is an unknown key.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sjq import checks
from sjq.checks import Check
from sjq.durations import duration
from sjq.errors import ConfigError, UsageError
from sjq.jobs import check_topic
from sjq.sizes import size
from sjq.states import ENDED, State

REDIS_OPTIONS: Mapping[str, type] = {
    "client_name": str,
    "db": int,
    "health_check_interval": int,
    "host": str,
    "max_connections": int,
    "password": str,
    "port": int,
    "socket_connect_timeout": float,
    "socket_keepalive": bool,
    "socket_timeout": float,
    "ssl": bool,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_cert_reqs": str,
    "ssl_certfile": str,
    "ssl_check_hostname": bool,
    "ssl_keyfile": str,
    "ssl_keyfile_password": str,
    "unix_socket_path": str,
    "username": str,
}
"""The keyword arguments of a Redis client that `redis` may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPolicy:
    """How the jobs of one topic are run. Each key may stand in `defaults` too, but for `script`."""

    backoff: float = 1.0
    """Seconds from a failed try to the second one, about; each further pause is twice as long."""

    concurrency: int = 1
    """How many jobs of the topic a worker runs at once."""
    cpu: float | None = None
    """Seconds of processor time that all processes of a job may use together; None is no limit, here and below."""
    kill_after: float = 1.0
    """Seconds between SIGTERM and SIGKILL when a job's processes are stopped."""
    losses: int = 3
    """How often a job may be lost with its worker before it is `failed`."""
    on_failure: str = "continue"
    """What a job that ends as `failed` or `timedout` does to its topic: nothing, or `halt` it until it is resumed."""
    retries: int = 0
    """How often a job is tried again after it failed."""
    max_output: int = 64_000_000
    """The bytes that an output may have."""
    memory: int | None = None
    """The bytes of memory that all processes of a job may use together."""
    open_files: int | None = None
    """How many files each process of a job may have open; more are refused to it."""
    processes: int | None = None
    """How many processes a job may have at once."""
    retention: Mapping[State, float] = field(default_factory=dict)
    """After how many seconds a job that ended in a state is pruned; one in a state that is not named never is."""
    script: str | None = None
    """The handler's file in `topics/`; None is `<topic>.py`."""
    timeout: float | None = None
    """Seconds that a job may take, after which its processes are stopped."""

    @property
    def halts(self) -> bool:
        """Whether the topic stops at its first failed job."""
        return self.on_failure == "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPolicy:
    """How a worker behaves."""

    grace: float = 30.0
    """Seconds that running jobs have to end after SIGTERM, before they are stopped and released."""
    lease: float = 15.0
    """Seconds after which a silent worker counts as dead; it renews at every third of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a project."""

    root: Path
    """The project's folder: where `topics/` is, and the current directory of handlers."""
    job_data: Path
    broker: str | None = None
    """A broker's URL; None with no `redis` either is the embedded server."""
    redis: Mapping[str, object] | None = None
    """Keyword arguments of a Redis client."""
    prefix: str = ""
    """What every key in Redis starts with."""
    events_length: int | None = 100_000
    """How many events the stream keeps, about; None is all of them."""
    records_size: int | None = None
    """Above how many bytes of `job_data/` the records of those that ended first are pruned; None is no limit."""
    defaults: TopicPolicy = field(default_factory=TopicPolicy)
    topics: Mapping[str, TopicPolicy] = field(default_factory=dict)
    worker: WorkerPolicy = field(default_factory=WorkerPolicy)

    def policy(self, topic: str) -> TopicPolicy:
        """Return the policy of `topic`, configured by name or not."""
        return self.topics.get(topic, self.defaults)

    @property
    def topics_folder(self) -> Path:
        """Where the handlers' scripts are."""
        return self.root / "topics"

    @property
    def state_folder(self) -> Path:
        """Where sjq keeps what it can make again: environments, the embedded server, the handler package."""
        return self.root / ".sjq"


def load(folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration of the project in `folder`, by default the current directory.

    `SJQ_CONFIG` names another file, whose folder is then the project's; `SJQ_BROKER` and `SJQ_JOB_DATA` win
    over the file. Raises ConfigError.
    """
    folder = (folder or Path.cwd()).absolute()
    path = folder / "config.json"
    if named := environ.get("SJQ_CONFIG"):
        path = folder / named
        if not path.is_file():
            raise ConfigError(f"SJQ_CONFIG names {named!r}, which is no file: correct it or unset it")
    config = _read(path) if path.exists() or path.is_symlink() else Config(root=folder, job_data=folder / "job_data")
    if broker := environ.get("SJQ_BROKER"):
        config = replace(config, broker=_broker_url(broker, "SJQ_BROKER"), redis=None)
    if job_data := environ.get("SJQ_JOB_DATA"):
        config = replace(config, job_data=config.root / job_data)
    return config


def _read(path: Path) -> Config:
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} is not JSON: {error}") from None
    reader = _Reader(path.name)
    top = reader.table(content, "", _TOP)
    if "redis" in top and "broker" in top:
        raise ConfigError(f'{path.name} has both "redis" and "broker": keep the one that is meant')
    defaults = TopicPolicy(**_policy(top.get("defaults", {}), reader, "defaults", _POLICY))
    root = path.parent.absolute()
    return Config(
        root=root,
        job_data=root / "job_data",
        broker=_url_of(top, reader),
        redis=_options_of(top, reader),
        prefix=top.get("prefix", ""),
        events_length=reader.table(top.get("events", {}), "events", _EVENTS).get("length", 100_000),
        records_size=reader.table(top.get("records", {}), "records", _RECORDS).get("size"),
        defaults=defaults,
        topics=_topic_policies(top.get("topics", {}), reader, defaults),
        worker=WorkerPolicy(**reader.table(top.get("worker", {}), "worker", _WORKER)),
    )


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key "{twice}" stands there twice')
    return table


def _topic_policies(table: object, reader: _Reader, defaults: TopicPolicy) -> dict[str, TopicPolicy]:
    if not isinstance(table, dict):
        raise reader.wrong("topics", table, "an object of topics")
    policies = {}
    keys_of_topics = {**_POLICY, "script": checks.script}
    for topic, keys in table.items():
        try:
            check_topic(topic)
        except UsageError as error:
            raise ConfigError(f"{reader.file}: topics: {error}") from None
        policies[topic] = replace(defaults, **_policy(keys, reader, f"topics.{topic}", keys_of_topics))
    return policies


def _policy(table: object, reader: _Reader, path: str, keys: Mapping[str, Check]) -> dict[str, Any]:
    checked = reader.table(table, path, keys)
    if "retention" in checked:
        ages = reader.table(checked["retention"], f"{path}.retention", _RETENTION)
        checked["retention"] = {State(state): age for state, age in ages.items()}
    return checked


def _url_of(top: Mapping[str, object], reader: _Reader) -> str | None:
    for key in ("broker", "redis"):
        if isinstance(url := top.get(key), str):
            return _broker_url(url, f"{reader.file}: {key}")
    return None


def _options_of(top: Mapping[str, object], reader: _Reader) -> Mapping[str, object] | None:
    if not isinstance(options := top.get("redis"), dict):
        return None
    known = {name: checks.typed(kind) for name, kind in REDIS_OPTIONS.items()}
    return reader.table(options, "redis", {**known, "port": checks.port})


def _broker_url(url: str, where: str) -> str:
    schemes = ("redis://", "rediss://", "unix://", "memory://", "embedded://")
    if url.startswith("embedded://") and url != "embedded://":
        raise ConfigError(f"{where}: {url!r}: the embedded server has its place in .sjq/; write embedded://")
    if not url.startswith(schemes):
        raise ConfigError(f"{where}: {without_password(url)!r} is no broker's URL: expected {', '.join(schemes)}")
    return url


def without_password(url: str) -> str:
    """Return `url` as it may be shown."""
    without = re.sub(r"((?:^(?!\w+://)|://)[^:/@]*:)[^?]*@", r"\1***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without)


_SECRET = ("broker", "redis", "redis.password", "redis.ssl_keyfile_password")
"""Where a value is never shown."""


class _Reader:
    """Checks tables of one file; its errors name the file and the path inside it."""

    def __init__(self, file: str) -> None:
        self.file = file

    def table(self, value: object, path: str, keys: Mapping[str, Check]) -> dict[str, Any]:
        """Return the checked values of a table; raise ConfigError at an unknown key or a wrong value."""
        if not isinstance(value, dict):
            raise self.wrong(path or "the file", value, "an object")
        checked = {}
        for key, item in value.items():
            inside = f"{path}.{key}" if path else key
            if key not in keys:
                import difflib  # noqa: PLC0415 - for the mistaken alone

                near = difflib.get_close_matches(key, keys, n=1)
                hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(sorted(keys))}"
                raise ConfigError(f'{self.file}: unknown key "{inside}"; {hint}')
            try:
                checked[key] = keys[key](item)
            except ValueError as error:
                raise self.wrong(inside, item, str(error)) from None
        return checked

    def wrong(self, path: str, value: object, expected: str) -> ConfigError:
        """Return the error for a value that cannot be."""
        if path in _SECRET:
            return ConfigError(f"{self.file}: {path} is of a wrong kind; expected {expected}")
        shown = json.dumps(value, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return ConfigError(f"{self.file}: {path} is {shown}; expected {expected}")


_POLICY: Mapping[str, Check] = {
    "backoff": duration,
    "concurrency": checks.at_least_one,
    "cpu": checks.or_none(checks.some_time),
    "kill_after": duration,
    "losses": checks.at_least_one,
    "on_failure": checks.one_of("continue", "halt"),
    "retries": checks.count,
    "max_output": checks.some_size,
    "memory": checks.or_none(checks.some_size),
    "open_files": checks.or_none(checks.at_least_one),
    "processes": checks.or_none(checks.at_least_one),
    "timeout": checks.or_none(checks.some_time),
    "retention": checks.anything,
}
_RETENTION: Mapping[str, Check] = dict.fromkeys(sorted(ENDED), duration)
_WORKER: Mapping[str, Check] = {"grace": duration, "lease": checks.some_time}
_EVENTS: Mapping[str, Check] = {"length": checks.or_none(checks.at_least_one)}
_RECORDS: Mapping[str, Check] = {"size": size}
_TOP: Mapping[str, Check] = {
    "broker": checks.typed(str),
    "defaults": checks.anything,
    "events": checks.anything,
    "prefix": checks.prefix,
    "records": checks.anything,
    "redis": checks.url_or_options,
    "topics": checks.anything,
    "worker": checks.anything,
}
