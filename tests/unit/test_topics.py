"""The folder `topics/`: which files are handlers, and which cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sjq.config import Config, TopicPolicy
from sjq.errors import ConfigError, UsageError
from sjq.topics import Topic, find_topic, find_topics

if TYPE_CHECKING:
    from pathlib import Path


def project(root: Path, *files: str, **policies: TopicPolicy) -> Config:
    (root / "topics").mkdir()
    for name in files:
        (root / "topics" / name).touch()
    return Config(root=root, job_data=root / "job_data", topics=policies)


def test_each_script_is_a_topic(tmp_path: Path) -> None:
    config = project(tmp_path, "resize.py", "upload-2.x.py", "9.py", "notes.txt", "README")
    topics, unfit = find_topics(config)
    assert list(topics) == ["9", "resize", "upload-2.x"]
    assert not unfit
    assert topics["resize"] == Topic(name="resize", script=tmp_path / "topics" / "resize.py", policy=TopicPolicy())
    assert find_topic("resize", config) == topics["resize"]


def test_without_a_folder_there_are_no_topics(tmp_path: Path) -> None:
    assert find_topics(Config(root=tmp_path, job_data=tmp_path)) == ({}, {})


def test_shared_code_is_no_topic(tmp_path: Path) -> None:
    assert find_topics(project(tmp_path, "_shared.py", "__init__.py")) == ({}, {})


@pytest.mark.parametrize("name", ["a b.py", ".hidden.py", "é.py", "-x.py", "x" * 129 + ".py"])
def test_a_file_with_a_wrong_name_is_reported(tmp_path: Path, name: str) -> None:
    topics, unfit = find_topics(project(tmp_path, name, "good.py"))
    assert list(topics) == ["good"]
    assert "cannot be the name of a topic" in unfit[name]


@pytest.mark.parametrize("name", ["email", "queue", "csv", "json", "sjq", "types"])
def test_a_script_that_would_shadow_a_module_is_reported(tmp_path: Path, name: str) -> None:
    config = project(tmp_path, f"{name}.py", "good.py")
    topics, unfit = find_topics(config)
    assert list(topics) == ["good"]
    assert f"would shadow the module {name!r}" in unfit[f"{name}.py"]
    with pytest.raises(ConfigError, match="Rename it"):
        find_topic(name, config)


def test_a_topic_may_be_mapped_to_another_file(tmp_path: Path) -> None:
    config = project(tmp_path, "send_mail.py", "good.py", email=TopicPolicy(script="send_mail.py", concurrency=2))
    topics, unfit = find_topics(config)
    assert not unfit
    assert sorted(topics) == ["email", "good"]
    assert topics["email"].script == tmp_path / "topics" / "send_mail.py"
    assert topics["email"].policy.concurrency == 2
    assert find_topic("email", config) == topics["email"]


def test_two_topics_may_share_a_file(tmp_path: Path) -> None:
    config = project(tmp_path, "s.py", a=TopicPolicy(script="s.py"), b=TopicPolicy(script="s.py"))
    topics, _ = find_topics(config)
    assert {name: topic.script.name for name, topic in topics.items()} == {"a": "s.py", "b": "s.py"}


def test_a_policy_alone_makes_no_topic(tmp_path: Path) -> None:
    assert find_topics(project(tmp_path, t=TopicPolicy())) == ({}, {})


def test_a_mapped_file_that_is_missing_is_reported(tmp_path: Path) -> None:
    topics, unfit = find_topics(project(tmp_path, "good.py", t=TopicPolicy(script="gone.py")))
    assert list(topics) == ["good"]
    assert "there is no topics/gone.py" in unfit["gone.py"]


def test_a_topic_without_a_handler_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no topics/c\.py \(topics here: a, b\)"):
        find_topic("c", project(tmp_path, "a.py", "b.py"))


def test_a_mapped_file_that_is_missing_stops_no_other_topic(tmp_path: Path) -> None:
    config = project(tmp_path, "good.py", t=TopicPolicy(script="gone.py"))
    assert find_topic("good", config).name == "good"
    with pytest.raises(ConfigError, match="topics here: good"):
        find_topic("bad", config)


def test_where_there_is_no_topic_at_all_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="topics here: none"):
        find_topic("c", Config(root=tmp_path, job_data=tmp_path))


@pytest.mark.parametrize("name", ["", "../x", "_shared", "a b"])
def test_a_wrong_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a topic"):
        find_topic(name, project(tmp_path, "_shared.py"))


def test_a_folder_is_no_handler(tmp_path: Path) -> None:
    config = project(tmp_path, "good.py")
    (tmp_path / "topics" / "folder.py").mkdir()
    assert list(find_topics(config)[0]) == ["good"]
