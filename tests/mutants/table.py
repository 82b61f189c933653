"""The promises of sjq, each broken on purpose: what is changed where, and the tests that must turn red."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of the code that breaks a promise."""

    name: str
    """What the broken code does."""
    file: str
    """Below `sjq/`."""
    text: str
    """Stands in the file exactly once."""
    instead: str
    test: str
    """What must turn red, below `tests/`; with its parameters, where one of them is enough."""


def _settle(name: str, text: str, instead: str, test: str) -> Mutation:
    return Mutation(name, "brokers/redis/settle.lua", text, instead, f"conformance/{test}")


def _take(name: str, text: str, instead: str, test: str) -> Mutation:
    return Mutation(name, "brokers/redis/take.lua", text, instead, f"conformance/{test}")


def _recover(name: str, text: str, instead: str, test: str) -> Mutation:
    return Mutation(name, "brokers/redis/recover.lua", text, instead, f"conformance/{test}")


FENCES = (
    _settle(
        "a settle asks for no fence",
        "if was[2] ~= fence then return -1 end\n",
        "",
        "test_broker_settle.py::test_a_lost_lease_settles_nothing[valkey-succeed]",
    ),
    _settle(
        "a settle that is repeated is refused",
        "  return 0\n",
        "  return -1\n",
        "test_broker_settle.py::test_settling_twice_is_true_and_then_false[valkey-succeed]",
    ),
    _settle(
        "an end counts after a release under its own fence",
        "  if was[1] == 'incoming' and outcome ~= 'incoming' and was[4] == fence then return -1 end\n",
        "",
        "test_broker_settle.py::test_an_end_that_comes_after_a_release_under_its_own_fence_is_too_late[valkey]",
    ),
    Mutation(
        "a heartbeat tells of no lost lease",
        "brokers/redis/heartbeat.lua",
        "if was[1] ~= rest[i + 1] then",
        "if false then",
        "conformance/test_broker_workers.py::test_a_heartbeat_tells_of_lost_leases[valkey-taken by another]",
    ),
    _recover(
        "a recovered job keeps its fence",
        ", 'fence', '')",
        ")",
        "test_broker_recover.py::test_a_recovered_job_tells_nothing_of_its_old_fence[valkey]",
    ),
    _take(
        "a take that is repeated takes another job",
        "if again == '1' then",
        "if false then",
        "test_broker_lost_answers.py::test_a_take_that_is_repeated_by_a_worker_that_stops_takes_no_other_job[valkey]",
    ),
    Mutation(
        "an attempt that lost its lease runs on",
        "worker/in_flight.py",
        "            tasks = [self._tasks[fence][1] for fence in self._lost]\n",
        "            tasks = []\n",
        "unit/test_in_flight.py::test_an_attempt_whose_lease_is_lost_is_killed_and_no_other",
    ),
    Mutation(
        "a cancel of what is still being taken is not heard",
        "worker/in_flight.py",
        "            self._taking = dict.fromkeys(self._taking, True)\n",
        "",
        "unit/test_in_flight.py::test_who_takes_across_a_beat_hears_of_it",
    ),
    Mutation(
        "what was cancelled before it ran is not stopped",
        "worker/in_flight.py",
        " or lease.fence in self._cancelled\n",
        "\n",
        "unit/test_in_flight.py::test_an_attempt_that_is_cancelled_before_it_runs_is_killed_as_soon_as_it_does",
    ),
)

STEPS = (
    Mutation(
        "next jobs come before the end of their parent",
        "brokers/redis/broker.py",
        '            "settle",\n            outcome.next_jobs,\n',
        '            "settle",\n            self.create(outcome.next_jobs) or (),\n',
        "conformance/test_broker_settle.py::test_a_lost_lease_bears_no_next_jobs[valkey]",
    ),
    Mutation(
        "next jobs come after the end of their parent",
        "brokers/redis/broker.py",
        "    def _settle(self, job_id: str, topic: str, fence: str, outcome: Outcome, *, halting: bool) -> bool:\n",
        """\
    def _settle(self, job_id, topic, fence, outcome, *, halting):
        from dataclasses import replace
        settled = self._end(job_id, topic, fence, replace(outcome, next_jobs=()), halting=halting)
        self.create(outcome.next_jobs)
        return settled

    def _end(self, job_id, topic, fence, outcome, *, halting):
""",
        "races/test_recoveries_and_locks.py::"
        "test_a_job_that_goes_from_topic_to_topic_is_counted_once_at_every_instant[valkey]",
    ),
    Mutation(
        "an id that is created twice is two jobs",
        "brokers/redis/lib.lua",
        "  if redis.call('EXISTS', key('job_state', id), key('job_data', id)) > 0 then return end\n",
        "",
        "conformance/test_broker_create.py::test_repeating_a_create_creates_nothing_twice[valkey]",
    ),
    Mutation(
        "the stub of a success expires before its record is published",
        "brokers/redis/settle.lua",
        "  note('succeeded', topic, id,",
        "  redis.call('EXPIRE', state, 600)\n  note('succeeded', topic, id,",
        "conformance/test_broker_stubs.py::test_success_leaves_a_stub_that_stays_until_the_record_is_published[valkey]",
    ),
    Mutation(
        "the stub of a published success is gone at once",
        "brokers/redis/keys.py",
        "STUB_SECONDS = 600",
        "STUB_SECONDS = 0",
        "conformance/test_broker_stubs.py::test_the_stub_of_a_published_job_lasts_ten_minutes[valkey-confirm]",
    ),
    _take(
        "an id that was pushed again runs again",
        "if was and was ~= 'incoming' then",
        "if false then",
        "test_broker_wire.py::test_repeating_both_commands_runs_the_job_once[valkey]",
    ),
    _take(
        "a paused topic is taken from",
        " or redis.call('EXISTS', key('pause', topic)) == 1 then",
        " then",
        "test_broker_pause.py::test_nothing_is_taken_of_a_paused_topic_until_it_is_resumed[valkey]",
    ),
    Mutation(
        "a topic that is paused does not halt",
        "brokers/redis/lib.lua",
        "redis.call('HEXISTS', pause, 'job') == 0",
        "redis.call('EXISTS', pause) == 0",
        "conformance/test_broker_pause.py::test_a_topic_can_halt_and_be_paused_in_either_order[valkey-pause]",
    ),
    _take(
        "a worker takes of a topic that another holds",
        "if holder and holder ~= worker then return false end\n",
        "",
        "test_broker_take.py::test_a_worker_that_lost_its_topic_takes_nothing_of_it[valkey]",
    ),
    _settle(
        "a released job waits behind all others",
        "redis.call('LPUSH', key('incoming', topic), id)",
        "redis.call('RPUSH', key('incoming', topic), id)",
        "test_broker_take.py::test_a_released_job_is_taken_next[valkey]",
    ),
    _settle(
        "a cancelled job is released",
        "if waits and was[5] then return -2 end\n",
        "",
        "test_broker_cancel.py::test_a_cancelled_job_never_waits_again[valkey-release]",
    ),
    Mutation(
        "the next jobs of one end all go in one call",
        "brokers/redis/staging.py",
        " or self._with_step + size > MOST_BYTES_PER_CALL:",
        ":",
        "conformance/test_broker_large.py::test_no_call_carries_more_than_its_most[valkey]",
    ),
)

RECOVERY = (
    _recover(
        "a cancelled job is recovered",
        "return cancel and 'cancelled' or",
        "return",
        "test_broker_cancel.py::test_a_dead_worker_s_cancelled_job_is_not_taken_back[valkey]",
    ),
    _recover(
        "recovered jobs wait behind all others",
        "redis.call('LPUSH', key('incoming', topic), id)",
        "redis.call('RPUSH', key('incoming', topic), id)",
        "test_broker_recover.py::test_jobs_of_a_dead_worker_wait_again_in_their_old_order[valkey]",
    ),
    _recover(
        "recovery does not look again at who came back",
        "if i <= tonumber(dead_n) or redis.call('EXISTS', key('worker', workers[i])) == 0 then",
        "if true then",
        "test_broker_recover.py::test_a_worker_that_came_back_in_time_keeps_its_jobs[valkey]",
    ),
    _recover(
        "losses count as tries",
        "count(state, 'losses')",
        "count(state, 'tries')",
        "test_broker_recover.py::test_a_loss_is_neither_a_try_nor_an_interruption[valkey]",
    ),
    _settle(
        "losses of a keeper count as tries",
        "reason == 'lost' and 'losses'",
        "reason == 'lost' and 'tries'",
        "test_broker_retry.py::test_each_end_counts_in_its_own_counter[valkey-loss]",
    ),
    Mutation(
        "a worker judges by expiry at once",
        "worker/recovery.py",
        "return self._connected_for_s() >= self._lease_s",
        "return True",
        "unit/test_recovery.py::test_after_an_outage_nobody_is_judged_by_expiry_for_one_lease[0.0-memory]",
    ),
    Mutation(
        "a worker takes expired locks at once",
        "worker/heartbeat.py",
        "return not was_away or self.connected_for_s() >= self._lease_s",
        "return True",
        "unit/test_heartbeat.py::test_a_server_that_answers_late_was_away[2]",
    ),
    Mutation(
        "a worker loses the locks that expired in an outage",
        "brokers/redis/heartbeat.lua",
        "if not holder and expired == '1' then",
        "if false then",
        "unit/test_heartbeat.py::test_a_server_that_answers_late_was_away[2]",
    ),
    Mutation(
        "a lock that somebody freed is taken back",
        "brokers/redis/heartbeat.lua",
        "if not holder and expired == '1' then",
        "if not holder then",
        "conformance/test_broker_workers.py::"
        "test_a_lock_that_somebody_freed_is_lost_to_a_worker_that_was_never_away[valkey]",
    ),
    Mutation(
        "a jump of the broker's clock goes unnoticed",
        "worker/heartbeat.py",
        "if abs(jump_s) < self._lease_s / 3:",
        "if True:",
        "unit/test_heartbeat.py::test_after_a_jump_of_the_brokers_clock_nobody_is_judged_by_expiry[-86400.0]",
    ),
    Mutation(
        "a dead worker's processes are not waited for",
        "worker/lock_file.py",
        "return identity.is_dead(facts) and (not lock_file or processes_gone(Path(lock_file)))",
        "return identity.is_dead(facts)",
        "unit/test_lock_file.py::test_a_worker_is_not_gone_before_the_last_of_its_processes",
    ),
    Mutation(
        "a job that is leased to us and runs nowhere stays",
        "worker/recovery.py",
        "if self._worker in suspects:",
        "if False:",
        "unit/test_recovery.py::test_what_is_leased_to_us_and_runs_nowhere_is_released_at_the_second_look[memory]",
    ),
)

TREES = (
    Mutation(
        "only the first process of a job is killed",
        "keepers/job.py",
        "[] if self.reap() else children(me) or [self.pid]",
        "[] if self.reap() or self.status is not None or not me else [self.pid]",
        "executor/test_contract.py::test_what_a_job_leaves_is_gone_when_run_returns[local-ended-a double fork]",
    ),
    Mutation(
        "a keeper adopts no orphans",
        "keepers/root.py",
        "            become_subreaper()\n            Keeper(",
        "            Keeper(",
        "executor/test_contract.py::test_slots_leave_each_others_orphans_alone[local]",
    ),
    Mutation(
        "the root keeper sweeps when it is told to alone",
        "keepers/root.py",
        "                self.bell.quiet()\n                self.sweep()\n",
        "                self.bell.quiet()\n",
        "executor/test_keepers.py::test_what_a_killed_keeper_leaves_does_not_wait_for_the_worker[local]",
    ),
    Mutation(
        "the root keeper sweeps nothing that a lost keeper left",
        "keepers/root.py",
        "        if left := sweep(self.strays, patience_s=0):",
        "        self.reap()\n        if left := list[int]():",
        "executor/test_keepers.py::test_all_that_a_killed_keeper_leaves_is_dead_when_run_returns[local]",
    ),
    Mutation(
        "a keeper that is stopped is left alone",
        "keepers/root.py",
        "            elif pid in self.keepers:\n",
        "            elif pid < 0:\n",
        "executor/test_keepers.py::test_a_job_that_stops_its_keeper_does_not_escape_its_limits[local]",
    ),
    Mutation(
        "a root keeper that goes on kills keepers that are about to",
        "keepers/root.py",
        "        signal.signal(signal.SIGCONT, self.wake)\n",
        "",
        "executor/test_keepers.py::test_who_stops_all_keepers_for_a_while_loses_no_job[local]",
    ),
    Mutation(
        "a keeper that says nothing is waited for without end",
        "executors/keepers.py",
        "if timeout_s is not None and self._is_silent",
        "if False and self._is_silent",
        "executor/test_keepers.py::test_a_stopped_keeper_without_a_root_is_killed_when_the_jobs_time_is_over[local]",
    ),
    Mutation(
        "a job that dies of the files it was refused names no limit",
        "worker/judgement.py",
        "if files is None or (files.most < files.limit and not refused):",
        "if files is None or files.most < files.limit:",
        "end_to_end/test_bad_handlers.py::test_a_limit_of_open_files_is_named_however_quickly_its_job_dies_of_it",
    ),
    Mutation(
        "what both keepers of a job leave is killed by its session alone",
        "executors/orphans.py",
        "(process.parent in adopters and _has(process.pid, marks))",
        "False",
        "executor/test_keepers.py::"
        "test_all_that_a_keeper_leaves_that_is_killed_after_its_root_is_dead_when_run_returns[local]",
    ),
    Mutation(
        "a job of the same name elsewhere is taken for what keepers left",
        "executors/orphans.py",
        "(process.parent in adopters and _has(process.pid, marks))",
        "_has(process.pid, marks)",
        "executor/test_keepers.py::test_a_job_of_the_same_name_elsewhere_is_not_taken_for_what_is_left[local]",
    ),
    Mutation(
        "a kill that comes after a job's end reaches its keeper",
        "executors/keepers.py",
        "            if self._current is None:\n                return\n",
        "",
        "executor/test_keepers.py::test_a_kill_that_comes_after_a_jobs_end_does_nothing_to_the_next_one[local]",
    ),
    Mutation(
        "a keeper whose worker died leaves its job",
        "keepers/keeper.py",
        "        if self.job:\n            self.job.sweep()\n        os._exit(0)",
        "        os._exit(0)",
        "executor/test_keepers.py::test_keepers_without_a_root_end_what_they_keep_with_their_worker[local]",
    ),
    Mutation(
        "who ignores SIGTERM lives on",
        "keepers/job.py",
        "if self._kill_at is not None and now >= self._kill_at:",
        "if False:",
        "executor/test_contract.py::test_a_job_that_ignores_sigterm_is_killed_after_its_time[local]",
    ),
    Mutation(
        "SIGTERM reaches the first process alone",
        "keepers/job.py",
        "{self.pid, *tree(os.getpid(), until=until)}",
        "{self.pid}",
        "executor/test_local.py::test_each_process_is_asked_to_end_once",
    ),
    Mutation(
        "a job's time is measured by the wall clock",
        "keepers/job.py",
        "import time\n",
        "import time\n\ntime.monotonic = lambda: time.time()\n",
        "executor/test_local.py::test_a_jump_of_the_wall_clock_is_no_time_that_a_job_took[86400]",
    ),
)

RECORDS = (
    Mutation(
        "an input is written under its final name",
        "records.py",
        'beside = path.with_name(f"{path.name}.{digest}")',
        "beside = path",
        "unit/test_records.py::test_who_still_reads_an_earlier_input_reads_it_to_its_end",
    ),
    Mutation(
        "an attempt writes under the final names",
        "records.py",
        'return self.folder / f"{self.name}-{kind}.{self.digest}"',
        "return self.published(kind)",
        "unit/test_records.py::test_an_attempt_from_its_beginning_to_its_publishing",
    ),
    Mutation(
        "a record is published before its end is settled",
        "worker/attempt.py",
        "        self.lock_file.settling(slot, lease.job_id)\n",
        "        self.lock_file.settling(slot, lease.job_id)\n        record.publish()\n",
        "end_to_end/test_worker_life.py::test_an_end_that_comes_after_the_job_was_taken_away_publishes_nothing",
    ),
    Mutation(
        "a late attempt replaces its successor's record",
        "records.py",
        "if self._is_later(earlier):",
        "if False:",
        "unit/test_records.py::test_an_attempt_that_is_published_late_leaves_its_successors_record_alone",
    ),
    Mutation(
        "a repair publishes what lost its lease",
        "worker/repairs.py",
        "if not job.fence or digest_of(job.fence) != attempt.digest:",
        "if not job.fence:",
        "upkeep/test_fsck.py::test_files_of_attempts_that_came_to_nothing",
    ),
    Mutation(
        "what a job took is measured by the wall clock",
        "executors/local.py",
        "clock.monotonic() - started",
        "clock.now() - start_time",
        "end_to_end/test_time_jumps.py::test_a_worker_whose_clock_jumps_goes_on_and_measures_right[86400]",
    ),
    Mutation(
        "an output that others can reach is mapped",
        "records.py",
        "        return copy_plain(self.output, self.folder, most=most)\n",
        "        import mmap\n\n"
        "        with open_plain(self.output) as file:\n"
        "            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))\n",
        "end_to_end/test_large.py::test_a_file_that_is_cut_off_while_it_is_sent_ends_no_worker[output]",
    ),
)

MUTATIONS = (*FENCES, *STEPS, *RECOVERY, *TREES, *RECORDS)
