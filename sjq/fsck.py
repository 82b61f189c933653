"""The check of a project: what is not as sjq leaves it, in the broker, in `job_data/` and in `.sjq/`; and its repair.

It may run beside workers under full load. Every repair is one step that looks again before it acts, what a live worker
has is left alone, and whoever is only silent is watched for a whole lease before that counts as death.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial

from sjq import clock, identity
from sjq.brokers.base import Broker, Fault, Holder, Recovered
from sjq.config import Config
from sjq.errors import KeyTaken, WrongState
from sjq.executors.environments import Environments
from sjq.job_data import JobData, beginning_of_id
from sjq.jobs import shown, worker_of
from sjq.records import Records, file_name, id_of
from sjq.states import State
from sjq.worker.lock_file import is_gone
from sjq.worker.recovery import BECAME
from sjq.worker.repairs import Finding, Repairs

_LOOKS = 10
"""How often the broker is asked in a lease in which it must not be away."""

_MOST_ALIKE = 100
_FORGET = "sjq delete forgets it"


class Fsck:
    """One check of a project, and its repair where that is asked for."""

    def __init__(self, config: Config, broker: Broker, *, repair: bool, say: Callable[[str], None]) -> None:
        """`say` why it takes longer than a look."""
        self._config, self._broker, self._repair, self._say = config, broker, repair, say
        self._records, self._job_data = Records(config.job_data), JobData(config.job_data)
        self._lease_s = config.worker.lease

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong, and whether it was mended."""
        patient: list[Fault] = []
        for fault in self._broker.check():
            if fault.patient and self._repair and fault.repair and not self._is_recorded(fault):
                patient.append(fault)
            else:
                yield from self._fault(fault)
        silent: dict[str, list[str]] = {}
        yield from self._dead(silent)
        if self._repair and (patient or silent):
            self._watch([worker for workers in silent.values() for worker in workers])
        for fault in patient:
            yield from self._fault(fault)
        for topic, workers in silent.items():
            yield from self._recover(topic, expired=workers)
        yield from self._leftovers_of_workers()
        yield from Repairs(self._broker, self._records, self._config.state_folder / "workers").findings(
            repair=self._repair
        )
        open_ones = {attempt.name for attempt in self._records.unpublished()}
        yield from self._unconfirmed(open_ones)
        yield from self._folder(open_ones)
        yield from self._environments()

    def _mended(self, finding: Finding, mend: Callable[[], object]) -> Finding:
        """Mend what was found, if that is asked for."""
        if not self._repair:
            return finding
        mend()
        return replace(finding, mended=True)

    # The broker.

    def _fault(self, fault: Fault) -> Iterator[Finding]:
        what, repair = fault.what, fault.repair
        if repair is not None and fault.patient and self._is_recorded(fault):
            what, repair = f"{what}, and a record here: it may have run, and is not pushed again", None
        finding = Finding(code=fault.code, where=fault.where, what=what, repair=repair, job_id=fault.job_id)
        if not self._repair or repair is None:
            yield finding
            return
        try:
            if self._broker.mend(fault, lease_s=self._lease_s, halting=self._config.policy(fault.topic).halts):
                yield replace(finding, mended=True)
        except KeyTaken as error:
            yield replace(finding, what=f"{fault.what}, and that cannot be mended: {error}", repair=None)

    def _is_recorded(self, fault: Fault) -> bool:
        """Tell whether a job without a state has run here once: to let it wait might run it a second time."""
        return fault.job_id is not None and self._job_data.has_metadata(file_name(fault.job_id))

    def _dead(self, silent: dict[str, list[str]]) -> Iterator[Finding]:
        """Recover the jobs of workers that are gone beyond doubt; note those that are only silent."""
        topics = self._broker.topics()
        kept = {holder.topic for holder in self._broker.holders(topics) if not holder.expires}
        for topic, workers in self._broker.suspects(topics).items():
            # An older sjq's worker notes no state, and has a lock without expiry for as long as it lives.
            gone = [worker for worker, facts in workers.items() if is_gone(facts) or (not worker and topic not in kept)]
            if gone:
                yield from self._recover(topic, dead=gone)
            if expired := [worker for worker, facts in workers.items() if worker and not facts]:
                silent[topic] = expired

    def _recover(self, topic: str, *, dead: Collection[str] = (), expired: Collection[str] = ()) -> Iterator[Finding]:
        policy = self._config.policy(topic)
        try:
            found = self._broker.recover(
                topic,
                dead=dead,
                expired=expired,
                losses=policy.losses,
                halting=policy.halts,
                look=not self._repair,
            )
        except KeyTaken:
            return  # which is a fault of its own
        for lost in found:
            yield _lost(topic, lost, silent=bool(expired), mended=self._repair)

    def _watch(self, silent: Sequence[str]) -> None:
        """Wait a lease, in which who lives renews; raises BrokerDown when the broker was away meanwhile."""
        why = f"worker {shown(silent[0])} is silent" if silent else "a producer may be about to push a job"
        self._say(f"waiting {self._lease_s:g} s: {why}")
        end = clock.monotonic() + self._lease_s
        while (left_s := end - clock.monotonic()) > 0:
            time.sleep(min(left_s, self._lease_s / _LOOKS))
            self._broker.workers()

    def _leftovers_of_workers(self) -> Iterator[Finding]:
        """Free what dead workers hold, after their jobs were recovered: until then it proves that they are dead."""
        for holder in self._broker.holders(self._broker.topics()):
            if not holder.expires:
                yield _forever(holder)
            elif is_gone(holder.facts):
                finding = Finding(
                    code="lock",
                    where=f"lock:{shown(holder.topic)}",
                    what=f"is held by worker {shown(holder.worker)}, which is gone",
                    repair="the topic is free",
                )
                yield self._mended(finding, partial(self._broker.unlock, holder))
        for worker, facts in self._broker.workers().items():
            if is_gone(facts):
                finding = Finding(
                    code="worker",
                    where=f"worker:{shown(worker)}",
                    what="is that of a worker that is gone",
                    repair="it goes",
                )
                yield self._mended(finding, partial(self._broker.leave, worker, []))

    # The disk.

    def _unconfirmed(self, open_ones: Collection[str]) -> Iterator[Finding]:
        """Confirm what was published here by workers that died before they could say so."""
        alive = self._broker.workers()
        for job in self._broker.unconfirmed():
            worker = worker_of(job.fence or "")
            if worker in alive or identity.host_of(worker) != identity.host() or file_name(job.job_id) in open_ones:
                continue
            metadata = self._records.metadata(job.job_id) or {}
            finding = Finding(
                code="unconfirmed",
                where=shown(job.job_id),
                what="succeeded, and nobody confirmed that its record is published",
                repair="it is confirmed",
                job_id=job.job_id,
            )
            if (metadata.get("state"), metadata.get("worker")) == (State.SUCCEEDED, worker):
                yield self._mended(finding, partial(self._broker.confirm, [job.job_id]))
            else:
                yield replace(finding, what=f"succeeded, but its record is gone: {_FORGET}", repair=None)

    def _folder(self, open_ones: Collection[str]) -> Iterator[Finding]:
        """Report records that nobody can complete."""
        for name, _ in self._job_data.written("input.json"):
            if name in open_ones or self._job_data.has_metadata(name) or self._is_known(name):
                continue
            if not self._job_data.has_metadata(name):  # it may have ended since
                what = "is a record without an end, and the broker does not know the job: create it anew, or remove it"
                yield Finding(code="endless", where=shown(name), what=what, repair=None, job_id=id_of(name))
        for name, _ in self._job_data.written("metadata.json"):
            if not self._job_data.is_readable(name) and self._job_data.has_metadata(name):
                what = "cannot be read as metadata of this job: restore it, or remove it"
                yield Finding(code="unreadable", where=f"{shown(name)}-metadata.json", what=what, repair=None)
        for file in self._job_data.foreign():
            what = "is named like a file of a job, and no job has such a name: a handler's; look at it, then remove it"
            yield Finding(code="foreign", where=shown(file), what=what, repair=None)

    def _is_known(self, name: str) -> bool:
        """Tell whether the broker knows the job whose files have this name."""
        try:
            if (job_id := id_of(name)) is not None:
                return self._broker.get(job_id, data=False) is not None
        except WrongState:
            return True
        alike = self._broker.find(beginning_of_id(name), _MOST_ALIKE)
        return len(alike) == _MOST_ALIKE or any(file_name(job_id) == name for job_id in alike)

    def _environments(self) -> Iterator[Finding]:
        environments = Environments(self._config.root, self._config.state_folder / "environments", threading.Event())
        for place in environments.leftovers(remove=self._repair):
            where = shown(str(place.relative_to(self._config.root)))
            what = "is an environment whose building was broken off"
            yield Finding(code="half_built", where=where, what=what, repair="it goes", mended=self._repair)


def _lost(topic: str, lost: Recovered, *, silent: bool, mended: bool) -> Finding:
    who = f"worker {shown(lost.worker)}" if lost.worker else "a worker of an older sjq"
    how, provided = "is gone", ""
    if silent:
        how = "was silent for a lease" if mended else "is silent"
        provided = "" if mended else ", if that worker stays silent for a lease"
    return Finding(
        code="silent" if silent else "lost",
        where=shown(lost.job_id),
        what=f"is in processing:{shown(topic)}, and {who} {how}",
        repair=f"it {BECAME[lost.state]}{provided}",
        job_id=lost.job_id,
        mended=mended,
    )


def _forever(holder: Holder) -> Finding:
    return Finding(
        code="lock",
        where=f"lock:{shown(holder.topic)}",
        what=f"never expires; if {shown(holder.worker)}, its holder, has ended: sjq unlock {shown(holder.topic)}",
        repair=None,
    )
