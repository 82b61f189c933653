"""`--limit N`: N attempts, and never one more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from sjq.worker.quota import Quota


def test_without_a_limit_there_is_no_end() -> None:
    quota = Quota(None)
    for _ in range(1000):
        assert quota.begin()
        quota.end()
    assert not quota.used_up


def test_a_limit_ends_with_the_last_attempt_not_with_its_beginning() -> None:
    quota = Quota(2)
    assert [quota.begin() for _ in range(3)] == [True, True, False]
    seen = []
    for _ in range(2):
        seen.append(quota.used_up)
        quota.end()
    assert [*seen, quota.used_up] == [False, False, True]
    assert not quota.begin()


def test_what_is_given_back_may_be_begun_again() -> None:
    quota = Quota(1)
    assert quota.begin()
    quota.give_back()
    assert quota.begin()
    assert not quota.begin()


def test_a_limit_of_none_at_all() -> None:
    quota = Quota(0)
    assert not quota.begin()
    assert quota.used_up


@given(st.integers(0, 5), st.lists(st.sampled_from(["begin", "give back", "end"]), max_size=40))
def test_never_more_than_the_limit(limit: int, steps: list[str]) -> None:
    quota = Quota(limit)
    running = ended = 0
    for step in steps:
        if step == "begin":
            fits = running + ended < limit
            assert quota.begin() == fits
            running += fits
        elif running:
            running -= 1
            if step == "end":
                quota.end()
                ended += 1
            else:
                quota.give_back()
        assert quota.used_up == (ended >= limit)


def test_slots_that_ask_at_once_share_the_limit() -> None:
    quota = Quota(100)
    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda _: quota.begin(), range(1000)))
    assert granted.count(True) == 100
