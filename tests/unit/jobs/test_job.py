import pytest

from svd_service.jobs.job import MOVES, State

pytestmark = pytest.mark.enable_socket


def test_ended_states_have_no_transition_but_expiry():
    assert {state for state in State if state.ended} == {
        State.FINISHED,
        State.FAILED,
        State.CANCELLED,
        State.EXPIRED,
    }
    assert MOVES[State.FINISHED] == {State.EXPIRED}
