"""A checkpoint is the state, bit by bit, or it is not used."""

import numpy as np
import pytest

from ingest_svc.checkpoint import Checkpoint, Checkpoints, read_checkpoint, write_checkpoint
from mesh.adapters.directory import DirectoryObjects
from mesh.codec.log_records import ContextChange
from mesh.ports import Partition
from mesh.topics import ACCEPTED
from tests.builders import some_readings
from water.screen import Settings, screen
from water.state import State


def a_checkpoint(offset: int, sensors: range = range(1, 30)) -> Checkpoint:
    """The state after some readings of these sensors."""
    state = State()
    screen(state, some_readings(200, sensors, absent=0.3), Settings())
    return Checkpoint(offset, state, (ContextChange(1, 5, "contexts/rules/5", "ab"), ContextChange(2, 3, "contexts/3", "cd")))


def test_equal_states_give_equal_bytes_however_their_sensors_came() -> None:
    together, apart = a_checkpoint(7), State()
    readings = some_readings(200, range(1, 30), absent=0.3)
    for sensor in (17, 3, 29, *range(1, 30)):
        screen(apart, readings.take(readings.sensor_id == sensor), Settings())
    assert write_checkpoint(Checkpoint(7, apart, together.contexts)) == write_checkpoint(together)


def test_a_checkpoint_comes_back_whole_and_goes_on_as_the_state_did() -> None:
    checkpoint = a_checkpoint(7)
    revived = read_checkpoint(write_checkpoint(checkpoint))
    assert (revived.offset, revived.contexts) == (7, checkpoint.contexts)
    more = some_readings(500, 40, seed=9, start="2026-01-02T00:00:00")
    expected, found = screen(checkpoint.state, more, Settings()), screen(revived.state, more, Settings())
    assert found.flags.tolist() == expected.flags.tolist()
    assert found.conditions == expected.conditions


@pytest.mark.parametrize("place", [0, 40, 1000, -1])
def test_a_single_flipped_bit_makes_it_unusable(place: int) -> None:
    content = bytearray(write_checkpoint(a_checkpoint(7)))
    content[place] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        read_checkpoint(bytes(content))


@pytest.mark.parametrize("length", [0, 31, 32, 5000])
def test_half_a_checkpoint_is_unusable(length: int) -> None:
    with pytest.raises(ValueError, match="checksum"):
        read_checkpoint(write_checkpoint(a_checkpoint(7))[:length])


async def test_partitions_do_not_see_each_others_checkpoints(objects: DirectoryObjects) -> None:
    checkpoints = Checkpoints(objects, "log-1")
    await checkpoints.keep(Partition(ACCEPTED, 1), a_checkpoint(5))
    await checkpoints.keep(Partition(ACCEPTED, 10), a_checkpoint(90))
    assert (await checkpoints.newest(Partition(ACCEPTED, 1))).offset == 5
    assert (await Checkpoints(objects, "log-2").newest(Partition(ACCEPTED, 1))).offset == -1


async def test_another_checkpoint_in_its_place_is_left_as_it_is(objects: DirectoryObjects) -> None:
    checkpoints, partition = Checkpoints(objects, "log-1"), Partition(ACCEPTED, 1)
    assert await checkpoints.keep(partition, a_checkpoint(5))
    assert not await checkpoints.keep(partition, a_checkpoint(5, range(50, 60)))
    kept = await checkpoints.newest(partition)
    assert np.array_equal(kept.state.columns()["sensor_id"], np.arange(1, 30))
