"""The sample pipeline: each script is run as sjq runs it, by `uv`, in an environment of its own."""

import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
ROW = {"python": "3.11.0", "files": 1, "lines": 90, "docstrings": 9, "comments": 5, "functions": 4, "complexity": 20}


class Project:
    """A project's folder that uses the sample's topics."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = ""
        Path(root, "lib").mkdir()
        Path(root, "lib", "sjq").symlink_to(ROOT / "sjq" / "handler")

    def start(self, topic: str, data: Json) -> subprocess.CompletedProcess[str]:
        script = ROOT / "topics" / f"{topic}.py"
        Path(self.root, "in.json").write_text(json.dumps(data))
        environment = os.environ | {"PYTHONPATH": str(self.root / "lib"), "SJQ_JOB_ID": "first", "SJQ_ATTEMPT": "1"}
        command = ["uv", "run", "--quiet", str(script), "--input", "in.json", "--output", "out.json"]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def run(self, topic: str, data: Json) -> Json:
        done = self.start(topic, data)
        assert done.returncode == 0, done.stderr
        self.log = done.stdout
        output: Json = json.loads(Path(self.root, "out.json").read_text())
        return output

    def add_row(self, module: str, code: int = 60) -> None:
        rows = Path(self.root, "found", "rows")
        rows.mkdir(parents=True, exist_ok=True)
        row = {"module": module, **ROW, "code": code, "hardest": [[9, "f", f"{module}.py", 3]], "problems": []}
        Path(rows, f"{module}.json").write_text(json.dumps(row))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_census_starts_one_job_for_each_module(project: Project) -> None:
    following = project.run("census", {})["next"]

    assert {job["topic"] for job in following} == {"measure"}
    assert {job["data"]["of"] for job in following} == {len(following)}
    files = {job["data"]["module"]: job["data"]["files"] for job in following}
    assert 100 < len(files) == len(following) < 200
    assert "json/decoder.py" in files["json"]
    assert files["shlex"] == ["shlex.py"]
    assert not {"test", "sys", "_pydecimal"} & set(files)
    assert not [name for names in files.values() for name in names if "tests/" in name]


def test_census_forgets_the_rows_of_an_earlier_attempt(project: Project) -> None:
    folder = project.run("census", {"folder": "out"})["next"][0]["data"]["folder"]
    project.run("measure", {"module": "abc", "files": ["abc.py"], "folder": folder, "of": 2})
    assert list(Path(project.root, folder, "rows").iterdir())

    assert project.run("census", {"folder": "out"})["next"][0]["data"]["folder"] == folder
    assert not list(Path(project.root, folder, "rows").iterdir())


def test_measure_counts_and_keeps_a_row(project: Project) -> None:
    Path(project.root, "sample.py").write_text(
        '"""One.\n\nThree."""\n\n# A comment.\ndef f(x):\n    if x:  # why\n        return "a\\\n        b"\n'
    )
    sample = str(project.root / "sample.py")
    data = {"module": "sample", "files": [sample], "folder": "found", "of": 2}
    row = project.run("measure", data)["data"]

    assert row == json.loads(Path(project.root, "found", "rows", "sample.json").read_text())
    assert [row[name] for name in ("lines", "code", "docstrings", "comments")] == [9, 4, 3, 1]
    assert [row[name] for name in ("files", "functions", "complexity", "problems")] == [1, 1, 1, []]
    assert row["hardest"] == [[1, "f", sample, 6]]
    assert project.log.startswith("sample: 9 lines")


def test_the_last_measure_starts_the_chart(project: Project) -> None:
    project.add_row("abc")
    data = {"module": "json", "files": ["json/decoder.py", "json/encoder.py"], "folder": "found", "of": 2}
    for _ in range(2):  # and it may run again
        following = project.run("measure", data)["next"]
        assert [(job["topic"], job["data"]) for job in following] == [("chart", {"folder": "found"})]


def test_a_file_that_cannot_be_measured_is_a_note(project: Project) -> None:
    broken = {"parse.py": b"def f(:\n", "decode.py": b"x = '\xff'\n", "open.py": b"x = '''\n", "null.py": b"x = \0\n"}
    for name, content in broken.items():
        Path(project.root, name).write_bytes(content)
    files = [str(project.root / name) for name in (*broken, "missing.py")]
    row = project.run("measure", {"module": "bad", "files": [*files, "abc.py"], "folder": "found", "of": 9})["data"]

    assert [problem.split(":")[0] for problem in row["problems"]] == files
    assert row["functions"] > 0
    assert project.log.count("not measured: ") == len(files)


def test_chart_draws_a_picture(project: Project) -> None:
    for n, module in enumerate(["abc", "asyncio", "json", "this"]):
        project.add_row(module, code=100 * n)
    final = project.run("chart", {"folder": "found"})["data"]

    assert final["picture"] == "found/census.png"
    assert (final["modules"], final["lines"], final["code"]) == (4, 360, 600)
    picture = Path(project.root, "found", "census.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (1600, 1000)


def test_chart_without_rows_fails_and_says_so(project: Project) -> None:
    done = project.start("chart", {"folder": "found"})

    assert done.returncode != 0
    assert "nothing to draw in found/rows" in done.stderr
