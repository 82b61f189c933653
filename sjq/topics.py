"""The folder `topics/`: which topics have a handler here, and where it is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from sjq.config import Config, TopicPolicy
from sjq.errors import ConfigError, UsageError
from sjq.jobs import check_topic

_ALWAYS_SHADOWED = frozenset({"sjq"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A named queue, its handler's script and its policy."""

    name: str
    script: Path
    policy: TopicPolicy


def find_topics(config: Config) -> tuple[dict[str, Topic], dict[str, str]]:
    """Return the topics that have a handler, by name, and a sentence for each file that cannot be one."""
    topics: dict[str, Topic] = {}
    unfit: dict[str, str] = {}
    claimed = {policy.script for policy in config.topics.values() if policy.script}
    for path in sorted(config.topics_folder.glob("*.py")):
        if path.name.startswith("_") and path.stem in sys.stdlib_module_names:
            unfit[path.name] = f"topics/{path.name} shadows the module {path.stem!r} for every handler: rename it"
        if path.name.startswith("_") or path.name in claimed or not path.is_file():
            continue
        if (mapped := config.policy(path.stem).script) and mapped != path.name:
            unfit[path.name] = f"topics/{path.name} is nobody's handler: topic {path.stem!r} is mapped to {mapped}"
            continue
        try:
            topics[path.stem] = _topic(path.stem, path, config)
        except UsageError as error:
            unfit[path.name] = str(error)
    for name, policy in config.topics.items():
        if policy.script:
            try:
                topics[name] = _find(name, config)
            except UsageError as error:
                unfit[policy.script] = str(error)
    return topics, unfit


def find_topic(name: str, config: Config) -> Topic:
    """Return the topic `name`; raise UsageError when it has no handler here, or one that cannot work."""
    try:
        return _find(name, config)
    except _NoHandler as error:
        known = ", ".join(find_topics(config)[0]) or "none"
        raise ConfigError(f"{error} (topics here: {known})") from None


class _NoHandler(ConfigError):
    """There is no such file."""


def _find(name: str, config: Config) -> Topic:
    check_topic(name)
    file = config.policy(name).script or f"{name}.py"
    path = config.topics_folder / file
    if not path.is_file():
        raise _NoHandler(f"topic {name!r} has no handler: there is no topics/{file}")
    return _topic(name, path, config)


def _topic(name: str, path: Path, config: Config) -> Topic:
    check_topic(name)
    if path.stem in sys.stdlib_module_names or path.stem in _ALWAYS_SHADOWED:
        raise ConfigError(
            f"topics/{path.name} would shadow the module {path.stem!r}: every handler that imports that gets this file "
            "instead. Rename it and "
            f'map the topic to it: "topics": {{"{name}": {{"script": "<new name>.py"}}}}'
        )
    return Topic(name=name, script=path, policy=config.policy(name))
