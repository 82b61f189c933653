"""Kinds of values that options take, as `config.json` takes them."""

from __future__ import annotations

import click

from sjq.durations import duration
from sjq.sizes import size


class Seconds(click.ParamType[float]):
    """A duration."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        try:
            return duration(value)
        except ValueError as error:
            self.fail(f"{value!r} is no duration: expected {error}", param, ctx)


class Bytes(click.ParamType[int]):
    """A size."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        try:
            return size(value)
        except ValueError as error:
            self.fail(f"{value!r} is no size: expected {error}", param, ctx)
