"""Retries: the delays one after another, who uses them up, and where they end."""

from hypothesis import given
from hypothesis import strategies as st

from squall.core.retry import PLATFORM_RETRIES_MAX, Again, GiveUp, after_platform_failure, after_user_failure
from squall.model.specs import RetryPolicy


def test_without_a_policy_the_first_failure_is_the_outcome() -> None:
    assert after_user_failure(1, None) == GiveUp()


def test_delays_grow_up_to_the_longest_and_then_it_is_given_up() -> None:
    policy = RetryPolicy(max_retries=4, initial_delay_s=1.0, backoff=3.0, max_delay_s=10.0)
    assert [after_user_failure(attempts, policy) for attempts in range(1, 6)] == [Again(1.0), Again(3.0), Again(9.0), Again(10.0), GiveUp()]


def test_the_platforms_losses_come_back_at_once_eight_times() -> None:
    assert [after_platform_failure(lost) for lost in (1, PLATFORM_RETRIES_MAX, PLATFORM_RETRIES_MAX + 1)] == [Again(0.0), Again(0.0), GiveUp()]


policies = st.builds(RetryPolicy, st.integers(0, 10), st.floats(0, 60), st.floats(1, 10), st.floats(1, 60))


@given(policies)
def test_it_is_tried_exactly_so_often(policy: RetryPolicy) -> None:
    again = [isinstance(after_user_failure(attempts, policy), Again) for attempts in range(1, 14)]
    assert again == [True] * policy.max_retries + [False] * (13 - policy.max_retries)


@given(policies, st.integers(1, 10))
def test_no_delay_is_longer_than_the_longest(policy: RetryPolicy, attempts: int) -> None:
    planned = after_user_failure(attempts, policy)
    assert isinstance(planned, GiveUp) or 0.0 <= planned.delay_s <= policy.max_delay_s
