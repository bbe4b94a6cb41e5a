import pytest

from jaxtune.checkpoint import CheckpointDamagedError, CheckpointMismatchError


@pytest.mark.parametrize("kind", [CheckpointDamagedError, CheckpointMismatchError])
def test_both_can_be_caught_as_value_errors(kind):
    assert issubclass(kind, ValueError)


def test_damage_is_not_a_mismatch():
    assert not issubclass(CheckpointDamagedError, CheckpointMismatchError)
