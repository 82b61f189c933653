"""Where jobs wait and their states live."""

from __future__ import annotations

from sjq.brokers.base import Broker
from sjq.config import Config


def open_broker(config: Config, *, patience_s: float = 0.0, answer_s: float = 20.0) -> Broker:
    """Return the broker that the configuration names; without any, the embedded one.

    An answer is waited for `answer_s`: nothing else tells that a connection is half open. Calls to a broker that is
    away are tried again for `patience_s` before they raise BrokerDown.
    """
    # Each is imported where it is opened: a command pays for the broker that it uses.
    from sjq.brokers import redis  # noqa: PLC0415

    url = config.broker or ""
    if url.startswith("memory://"):
        return redis.open_memory(config)
    if url.startswith(("redis://", "rediss://", "unix://")) or config.redis is not None:
        return redis.open_server(config, patience_s, answer_s)
    return redis.open_embedded(config, patience_s, answer_s)
