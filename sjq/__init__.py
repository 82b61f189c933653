"""sjq: a folder of Python scripts becomes a durable pipeline.

Names are loaded when they are first used: `import sjq` in a program, a test or a command costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; importing `typing` for it costs more than all the rest here
if TYPE_CHECKING:
    from sjq.client import Client
    from sjq.errors import Error
    from sjq.handler import Fail, Next, Retry, job
    from sjq.jobs import Job, JobEvent
    from sjq.states import State

__version__ = "0.1.0"

__all__ = ["Client", "Error", "Fail", "Job", "JobEvent", "Next", "Retry", "State", "__version__", "job"]

_WHERE = {
    "Client": "sjq.client",
    "Error": "sjq.errors",
    "Fail": "sjq.handler",
    "Job": "sjq.jobs",
    "JobEvent": "sjq.jobs",
    "Next": "sjq.handler",
    "Retry": "sjq.handler",
    "State": "sjq.states",
    "job": "sjq.handler",
}


_LATER = ("Batch",)
"""Names of features to come, of which the handler package says so."""


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module("sjq.handler"), name)
    if name not in _WHERE:
        raise AttributeError(f"module 'sjq' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
