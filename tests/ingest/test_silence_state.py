"""Who is silent: judged by what was heard, never by what nobody could have heard."""

from collections.abc import Sequence

import numpy as np
import pytest

from ingest_svc import silence_state
from ingest_svc.silence_episodes import GatewayRow, SilentSensor
from ingest_svc.silence_state import SilenceSpans, Speakers
from mesh.codec.catalog import write_catalog
from mesh.codec.spoken import Spoken
from mesh.codec.tasks import Task
from mesh.codec.watched_sensors import WatchedSensors, no_sensors, read_watched_sensors
from mesh.errors import InvalidArgument
from tests.builders import START_US
from water.condition import Change, Kind
from water.sites import Sensor

SPANS = SilenceSpans()
S = 1_000_000


def watched(*sensors: int, period_s: float = 10.0) -> WatchedSensors:
    return read_watched_sensors(write_catalog([], [Sensor(one, "weir", expected_period_s=period_s, state=1) for one in sensors]))


def speakers(*sensors: int, spans: SilenceSpans = SPANS, period_s: float = 10.0) -> Speakers:
    return Speakers(spans, watched(*sensors, period_s=period_s), START_US)


def hear(state: Speakers, at_s: float, *sensors: int, gateway: str = "g", region: str = "north") -> None:
    state.hear(Spoken(region, gateway, START_US + round(at_s * S), np.array(sensors, np.int64)))


def begun(state: Speakers, at_s: float) -> list[str]:
    """What is told when it is judged by then."""
    state.judge(START_US + round(at_s * S))
    found = names(state.untold())
    state.told()
    return found


def ended(state: Speakers) -> list[str]:
    found, state.ended = names(state.ended), []
    return found


def names(tasks: Sequence[Task]) -> list[str]:
    return [task.condition.condition_id.removeprefix("silence/") for task in tasks]


def test_a_sensor_is_silent_after_five_periods_and_speaks_again() -> None:
    state = speakers(1, 2, period_s=20.0)
    hear(state, 0, 1, 2)
    for at_s in range(5, 105, 5):
        hear(state, at_s, 1)
        assert begun(state, at_s) == []
    hear(state, 105, 1)
    state.judge(START_US + 105 * S)
    (task,) = state.untold()
    condition = task.condition
    assert (condition.condition_id, condition.kind, condition.rule_id) == ("silence/sensor/2", Kind.SILENCE, "sensor-silence")
    assert (condition.change, condition.sensor_id, condition.site_id, condition.severity_level) == (Change.RAISED, 2, "weir", 2)
    assert (condition.began_us, condition.ended_us) == (START_US + 100 * S, None)
    assert (task.gateway_id, task.region, task.historical) == ("g", "north", False)
    state.told()
    assert begun(state, 110) == []
    hear(state, 130, 2)
    (task,) = state.ended
    assert (task.condition.change, task.condition.began_us) == (Change.CLEARED, START_US + 100 * S)
    assert task.condition.ended_us == START_US + 130 * S


def test_a_sensor_waits_at_least_a_minute_however_short_its_period() -> None:
    state = speakers(1, 2, period_s=0.1)
    hear(state, 0, 1, 2)
    found = []
    for at_s in range(1, 70):
        hear(state, at_s, 1)
        found += [(at_s, name) for name in begun(state, at_s)]
    assert found == [(61, "sensor/2")]


def test_a_gateway_is_silent_once_until_it_speaks_again() -> None:
    state = speakers()
    hear(state, 0)
    hear(state, 10)
    assert begun(state, 310) == []
    state.judge(START_US + 311 * S)
    (task,) = state.untold()
    condition = task.condition
    assert (condition.condition_id, condition.rule_id, condition.severity_level) == (
        "silence/gateway/north/g",
        "gateway-silence",
        3,
    )
    assert (condition.began_us, condition.sensor_id, condition.site_id) == (START_US + 310 * S, 0, "")
    state.told()
    for at_s in range(400, 20 * 86_400, 86_400):
        assert begun(state, at_s) == []
    hear(state, 20 * 86_400)
    assert ended(state) == ["gateway/north/g"]
    assert begun(state, 20 * 86_400 + 300) == []
    assert begun(state, 20 * 86_400 + 301) == ["gateway/north/g"]


def test_a_silent_gateway_hides_its_sensors_and_when_it_is_back_each_has_time_to_speak() -> None:
    state = speakers(1, 2)
    for at_s in range(0, 60, 10):
        hear(state, at_s, 1, 2)
    assert begun(state, 10_000) == ["gateway/north/g"]
    hear(state, 10_000, 1)
    assert ended(state) == ["gateway/north/g"]
    found = []
    for at_s in range(10_000, 10_100, 5):
        hear(state, at_s, 1)
        found += [(at_s, name) for name in begun(state, at_s)]
    assert found == [(10_065, "sensor/2")]


def test_a_short_pause_of_a_gateway_is_not_held_against_its_sensors() -> None:
    state = speakers(1, 2)
    for at_s in range(0, 31, 10):
        hear(state, at_s, 1, 2)
    hear(state, 230, 1)
    assert begun(state, 231) == []
    hear(state, 240, 2)
    assert begun(state, 241) == []


def test_a_sensor_of_a_gateway_that_seldom_sends_is_found_too() -> None:
    state = speakers(1, 2)
    hear(state, 0, 1, 2)
    found = []
    for round_ in range(1, 6):
        hear(state, round_ * 200, 1)
        found += begun(state, round_ * 200)
    assert found == ["sensor/2"]


def test_a_sensor_that_moves_to_another_gateway_is_not_awaited_from_the_first() -> None:
    state = speakers(1, 2)
    hear(state, 0, 1, 2, gateway="a")
    found = []
    for at_s in range(5, 200, 5):
        hear(state, at_s, 1, gateway="a")
        hear(state, at_s, 2, gateway="b")
        found += begun(state, at_s)
    assert found == []


def test_who_was_never_heard_is_not_awaited() -> None:
    state = speakers(1, 2)
    for at_s in range(0, 300, 10):
        hear(state, at_s, 1)
        assert begun(state, at_s) == []


def test_waiting_begins_anew_when_nobody_could_be_heard() -> None:
    state = speakers(1, 2)
    for at_s in range(0, 60, 10):
        hear(state, at_s, 1, 2)
    state.begin_anew(START_US + 5_000 * S)
    assert begun(state, 5_300) == []
    hear(state, 5_300, 1)
    found = []
    for at_s in range(5_305, 5_380, 5):
        hear(state, at_s, 1)
        found += [(at_s, name) for name in begun(state, at_s)]
    assert found == [(5_365, "sensor/2")]


def test_a_batch_that_was_heard_before_ends_nothing() -> None:
    state = speakers(1, 2)
    for at_s in range(0, 70, 5):
        hear(state, at_s, 1, *([2] if at_s < 5 else []))
    assert begun(state, 65) == ["sensor/2"]
    hear(state, 0, 1, 2)
    assert begun(state, 400) == ["gateway/north/g"]
    hear(state, 60, 1)
    assert ended(state) == []


def test_two_gateways_of_one_name_in_two_regions_are_two() -> None:
    state = speakers()
    hear(state, 0, region="north")
    hear(state, 0, region="south")
    hear(state, 200, region="south")
    assert begun(state, 400) == ["gateway/north/g"]


def test_gateways_are_never_silent_where_the_setting_says_so() -> None:
    state = speakers(spans=SilenceSpans(gateway_s=0))
    hear(state, 0)
    assert begun(state, 1e6) == []


def test_the_silence_of_a_sensor_that_is_not_watched_any_more_ends() -> None:
    state = speakers(1, 2, 3)
    for at_s in range(0, 70, 5):
        hear(state, at_s, 1, *([2, 3] if at_s < 5 else []))
    assert begun(state, 65) == ["sensor/2", "sensor/3"]
    state.watch(watched(1, 3, 9), START_US + 66 * S)
    assert ended(state) == ["sensor/2"]
    hear(state, 70, 3)
    assert ended(state) == ["sensor/3"]


def test_a_gateway_is_forgotten_after_thirty_days_and_what_lasted_ends() -> None:
    state = speakers(1, 2)
    for at_s in range(0, 70, 5):
        hear(state, at_s, 1, *([2] if at_s < 5 else []))
    assert begun(state, 400) == ["gateway/north/g", "sensor/2"]
    state.kept()
    state.forget(START_US + 30 * 86_400 * S)
    assert ended(state) == []
    state.forget(START_US + 31 * 86_400 * S)
    assert ended(state) == ["sensor/2", "gateway/north/g"]
    changes = state.changes()
    assert list(changes.forgotten) == [("north", "g")]
    assert list(changes.ended) == [2]
    hear(state, 32 * 86_400, 1, gateway="other")
    assert [row.gateway_id for row in state.changes().gateways] == ["other"]


def test_the_number_of_gateways_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence_state, "MOST_GATEWAYS", 3)
    state = speakers()
    for number in range(10):
        hear(state, number, gateway=f"g{number}")
        state.forget(START_US + number * S)
    assert sorted(begun(state, 1_000)) == ["gateway/north/g7", "gateway/north/g8", "gateway/north/g9"]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_and_restored_goes_on_as_if_nothing_had_happened(seed: int) -> None:
    """Against a state that is never restored; waiting begins anew in both."""
    chance = np.random.default_rng(seed)
    spans = SilenceSpans(gateway_s=20, sensor_least_s=10)
    one, other = speakers(*range(1, 9), spans=spans, period_s=1), speakers(*range(1, 9), spans=spans, period_s=1)
    rows: dict[str, GatewayRow] = {}
    silent: dict[int, SilentSensor] = {}
    quiet_gateway, quiet_sensors = "", set[int]()
    for at_s in range(1, 300):
        if chance.random() < 0.05:
            quiet_gateway = str(chance.choice(["a", "b", ""]))
            quiet_sensors = set(chance.choice(9, 3).tolist())
        for gateway, sensors in (("a", range(1, 6)), ("b", range(5, 9))):
            if gateway != quiet_gateway:
                speaking = [sensor for sensor in sensors if sensor not in quiet_sensors]
                for state in (one, other):
                    hear(state, at_s, *speaking, gateway=gateway)
        assert begun(one, at_s) == begun(other, at_s)
        assert ended(one) == ended(other)
        changes = other.changes()
        rows |= {row.gateway_id: row for row in changes.gateways}
        silent |= {episode.sensor_id: episode for episode in changes.silent}
        for sensor in changes.ended:
            silent.pop(sensor, None)
        other.kept()
        if chance.random() < 0.1:
            now_us = START_US + at_s * S
            other = Speakers(spans, watched(*range(1, 9), period_s=1), now_us)
            other.restore(rows.values(), silent.values(), now_us)
            one.begin_anew(now_us)


def test_sensors_are_watched_when_they_are_in_service_and_expected() -> None:
    sensors = [
        Sensor(5, "weir", expected_period_s=10, state=1),
        Sensor(3, "", expected_period_s=2.5, state=1),
        Sensor(4, "weir", expected_period_s=10, state=2),
        Sensor(6, "weir", expected_period_s=10, state=3),
        Sensor(7, "weir", expected_period_s=0, state=1),
        Sensor(8, "weir", expected_period_s=float("inf"), state=1),
        Sensor(9, "lake", expected_period_s=1e300, state=1),
    ]
    found = read_watched_sensors(write_catalog([], sensors))
    assert found.sensor_id.tolist() == [3, 5, 9]
    assert found.period_us.tolist() == [2_500_000, 10_000_000, 366 * 86_400 * S]
    assert [found.site_id(place) for place in range(3)] == ["", "weir", "lake"]
    assert len(no_sensors()) == 0
    with pytest.raises(InvalidArgument):
        read_watched_sensors(b"\xff")
