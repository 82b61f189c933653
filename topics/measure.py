# /// script
# requires-python = ">=3.11"
# dependencies = ["complexipy>=8,<9"]
# ///
"""Stage 2 of the census: measure the files of one module. The job that adds the last row starts the chart.

`complexipy` scores how hard a function is to follow (its cognitive complexity): every branch and loop
counts, the more the deeper it is nested. uv installs it for this script alone.
"""

import io
import sys
import sysconfig
import tokenize
from dataclasses import dataclass
from pathlib import Path

import _rows
import complexipy

import sjq

LIBRARY = Path(sysconfig.get_path("stdlib"))
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass
class Module:
    """What a job of this topic is given."""

    module: str
    files: list[str]  # relative to the standard library's folder
    folder: str  # of this census
    of: int  # how many modules it has


@sjq.job
def measure(data: Module) -> _rows.Row | sjq.Next:
    """Return the row, or, if all rows are there now, the next job.

    Two jobs that end together may both see the last row. Then the chart is drawn twice, and is the same.
    """
    row: _rows.Row = {"module": data.module, "python": sys.version.split()[0], "files": len(data.files)}
    row |= {"lines": 0, "code": 0, "docstrings": 0, "comments": 0, "functions": 0, "complexity": 0}
    hardest = []
    problems = []
    for file in data.files:
        try:
            with tokenize.open(LIBRARY / file) as source:  # as the encoding that the file declares
                text = source.read()
            lines = count(text)
            scored = complexipy.code_complexity(text, with_plans=False)
        except (OSError, SyntaxError, ValueError, tokenize.TokenError) as error:
            problems.append(f"{file}: {error}")  # worth a note, and no reason to fail
            continue
        row |= {name: row[name] + n for name, n in lines.items()}
        row["functions"] += len(scored.functions)
        row["complexity"] += scored.complexity
        hardest += [(f.complexity, f.name.replace("::", "."), file, f.line_start) for f in scored.functions]
    hardest.sort(reverse=True)
    row |= {"hardest": hardest[:5], "problems": problems}

    there = _rows.save(data.folder, row)
    print(f"{data.module}: {row['lines']:,} lines, {row['code']:,} of them code, {row['functions']:,} functions")
    for score, name, file, line in hardest[:1]:
        print(f"hardest to follow: {name}, complexity {score}, {file}:{line}")
    for problem in problems:
        print(f"not measured: {problem}")
    return sjq.Next("chart", {"folder": data.folder}) if there >= data.of else row


def count(text: str) -> dict[str, int]:
    """Count the lines of a source by what stands on them."""
    code: set[int] = set()
    docstrings: set[int] = set()
    comments: set[int] = set()
    starts = True  # a string that starts a statement is a docstring
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type in LAYOUT:
            starts = starts or token.type == tokenize.NEWLINE
        else:
            kind = docstrings if starts and token.type == tokenize.STRING else code
            kind.update(range(token.start[0], token.end[0] + 1))
            starts = False
    docstrings -= code
    comments -= code | docstrings
    lines = {"code": len(code), "docstrings": len(docstrings), "comments": len(comments)}
    return {"lines": len(text.splitlines()), **lines}
