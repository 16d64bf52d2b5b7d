"""The fold on measurements that nobody here made: equal to the reference, and plausible."""

from pathlib import Path

import numpy as np
import pytest

from tests.water.reference import Reference
from tests.water.stations import station, station_files
from water.flags import FAIL, GOOD, MISSING, SUSPECT, unpack
from water.parameter import PARAMETERS
from water.screen import Settings, screen
from water.state import State

_FILES = pytest.mark.parametrize("path", station_files(), ids=lambda path: path.name.split(".")[0])


def test_every_kind_of_station_is_there() -> None:
    assert len({path.parent.name for path in station_files()}) == 4


@_FILES
def test_the_fold_equals_the_row_by_row_reference_on_a_real_station(path: Path) -> None:
    readings = station(path)
    state, reference, settings = State(), Reference(), Settings()
    for start in range(0, len(readings), 1000):
        batch = readings.take(np.arange(start, min(start + 1000, len(readings))))
        assert (screen(state, batch, settings).flags == reference.screen(batch)).all()


@_FILES
def test_flags_of_a_real_station_are_plausible(path: Path) -> None:
    readings = station(path)
    flags = unpack(screen(State(), readings, Settings()).flags)
    absent = np.isnan(readings.values)
    assert (flags[absent] == MISSING).all()
    assert np.isin(flags[~absent], (GOOD, SUSPECT, FAIL)).all()
    assert (flags[readings.values == -9999] == FAIL).all()
    for parameter, present, row in zip(PARAMETERS, ~absent, flags, strict=True):
        if present.any():
            # 9 % of one file's turbidity is below 0, which its own range check marks too; nothing else comes near 5 %.
            assert (row[present] == GOOD).mean() > 0.9, parameter.label
            assert (row[present] == FAIL).mean() < 0.02, parameter.label
