"""The buffer by itself: whatever is done to it, every reading is acknowledged, held or dropped-and-counted, in order."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.codec.gateway_frames import unpack_columns
from mesh.gateway_buffer import GatewayBuffer
from tests.gateway.quick import numbered

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hand_over"), st.integers(0, 30)),
        st.tuples(st.just("launch"), st.integers(1, 20)),
        st.tuples(st.just("look"), st.integers(1, 20)),
        st.tuples(st.just("acknowledge"), st.integers(0, 5)),
        st.tuples(st.just("disconnect"), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, 60)),
    ),
    max_size=60,
)


class Run:
    """A buffer, and what a server would have seen of it."""

    def __init__(self) -> None:
        self.buffer = GatewayBuffer()
        self.sequence = 0
        self.seen: list[int] = []
        self.acknowledged: list[int] = []

    def do(self, step: str, number: int) -> None:
        buffer = self.buffer
        if step == "hand_over":
            buffer.hand_over(numbered(buffer.handed_over, number), 0.0)
        elif step in ("launch", "look") and buffer.due_in_s(number, 0.0, 1.0) is not None:
            batch = buffer.head(number)
            assert 1 <= batch.count <= number
            if step == "launch":
                self.sequence += 1
                buffer.launch(self.sequence, 100 + batch.count, 0.0)
                ids = unpack_columns(batch.columns).sensor_id.tolist()
                assert ids == list(range(batch.first, batch.first + batch.count))
                self.seen += ids
        elif step == "acknowledge":
            for launched in buffer.acknowledge(self.sequence - len(buffer.in_flight) + number):
                self.acknowledged += range(launched.batch.first, launched.batch.first + launched.batch.count)
        elif step == "disconnect":
            buffer.disconnected()
        elif step == "drop":
            before = buffer.buffered
            assert buffer.drop_oldest(number) == before - buffer.buffered
            assert buffer.buffered <= number or buffer.buffered == sum(flying.batch.count for flying in buffer.in_flight)

    def check(self) -> None:
        buffer = self.buffer
        assert buffer.handed_over == buffer.acknowledged + buffer.dropped + buffer.buffered
        assert buffer.acknowledged == len(self.acknowledged)
        assert self.acknowledged == sorted(set(self.acknowledged))
        assert buffer.in_flight_bytes == sum(flying.frame_bytes for flying in buffer.in_flight)
        assert buffer.transmitted == len(self.seen)
        assert (buffer.buffered == 0) == (buffer.due_in_s(1, 0.0, 1.0) is None and not buffer.in_flight)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_no_reading_is_lost_or_doubled_whatever_happens(steps: Sequence[tuple[str, int]]) -> None:
    run = Run()
    for step, number in steps:
        run.do(step, number)
        run.check()
    run.do("disconnect", 0)
    while run.buffer.buffered:
        oldest = run.buffer.oldest
        run.do("launch", 20)
        assert run.seen[-1] >= oldest
        run.do("acknowledge", 1)
        run.check()
    assert run.buffer.oldest == run.buffer.handed_over
    if not run.buffer.dropped:
        assert run.acknowledged == list(range(run.buffer.handed_over))


def test_a_part_of_a_large_hand_over_keeps_its_age() -> None:
    buffer = GatewayBuffer()
    buffer.hand_over(numbered(0, 25), 5.0)
    buffer.hand_over(numbered(25, 1), 7.0)
    buffer.head(20)
    buffer.launch(1, 100, 7.0)
    assert buffer.due_in_s(20, 7.0, 3.0) == 1.0


def test_what_a_flush_asked_for_is_due_at_once_and_what_came_later_is_not() -> None:
    buffer = GatewayBuffer()
    buffer.hand_over(numbered(0, 5), 0.0)
    buffer.hurry_before = 5
    assert buffer.due_in_s(20, 0.0, 3.0) == 0.0
    buffer.head(5)
    buffer.launch(1, 100, 0.0)
    buffer.hand_over(numbered(5, 5), 0.0)
    assert buffer.due_in_s(20, 0.0, 3.0) == 3.0
