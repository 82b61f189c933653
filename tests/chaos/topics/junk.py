"""Ends badly in one of the ways there are: its data is the number of one."""

import os
import sys
from pathlib import Path

DEEP = 100_000
WAYS = (
    b"",
    b"{",
    b"[1]",
    b"{}",
    b'"text"',
    b'{"data": 1, "extra": 2}',
    b'{"data": 1, "next_topic": 5}',
    b'{"data": 1, "next_topic": "../../../etc/passwd"}',
    b'{"data": 1, "next_topic": "a", "next_topics": ["b"]}',
    b'{"data": 1, "next_topics": ["piece", ""]}',
    b'{"data": 1, "next_topics": ["piece", "a\\u0000b"]}',
    b'{"data": 1, "next": [{"data": 1}]}',
    b'{"data": 1, "next": [{"topic": "piece", "attachment": "no/such/file"}]}',
    b'{"data": 1, "next": [{"topic": "piece", "attachment": "/dev/zero"}]}',
    b'{"data": "\xff\xfe"}',
    b'{"data": "\\ud800"}',
    b'{"data": NaN}',
    b'{"data": ' + DEEP * b"[" + DEEP * b"]" + b"}",
    b'{"data": 1, "next_topics": [' + b'"piece",' * 10_000 + b'"piece"]}',
    None,  # it writes nothing
    os.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("config.json"),
)

with open(sys.argv[2]) as file:
    number = int(file.read())
way, output = WAYS[number % len(WAYS)], Path(sys.argv[4])
sys.stdout.buffer.write(b"\x1b[2J\xff\x00")
if callable(way):
    way(output)
elif way is not None:
    output.write_bytes(way)
