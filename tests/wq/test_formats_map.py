"""Column maps: files of any other format, and maps that cannot be right."""

from pathlib import Path

import numpy as np
import pytest

from mesh.errors import InvalidArgument, NotFound
from tests.wq.files import read_file, write_file
from water.parameter import BY_COLUMN
from wq.formats.column_map import HOW_TO_WRITE, read_column_map
from wq.formats.units import UNITS, unit_of

GERMAN = """
decimal = ","
missing = ["", "---"]
ignore = ["Bemerkung"]
sensor_id = "Messstelle"
[time]
columns = ["Datum", "Uhrzeit"]
format = "%d.%m.%Y %H:%M"
zone = "Europe/Berlin"
[[column]]
name = "pH-Wert"
parameter = "ph"
[[column]]
name = "Leitf."
parameter = "conductivity_us_cm"
unit = "mS/cm"
missing = ["-1"]
[[column]]
name = "Chlor 2"
parameter = "disinfectant_mg_l"
unit = "mg/l"
sensor = 1
"""


def _map(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "MAP.toml"
    path.write_text(text)
    return path


def test_the_map_in_the_help_is_a_map(tmp_path: Path) -> None:
    column_map = read_column_map(_map(tmp_path, HOW_TO_WRITE))
    assert column_map.values[0].unit == "mS/cm"
    assert column_map.decimal_comma
    assert column_map.time.zone == "Europe/Berlin"


def test_a_mapped_file_is_read_with_its_units_commas_zones_sensors_and_missing_values(tmp_path: Path) -> None:
    path = write_file(
        tmp_path,
        [
            "Datum;Uhrzeit;Messstelle;pH-Wert;Leitf.;Chlor 2;Bemerkung;neu",
            "01.07.2024;12:00;17;7,25;0,414;0,1;gut;1",
            "1.7.2024;13:00;18;---;-1;;;",
            "01.07.2024;14:00;x;7,25;0,4;0,1;;",
            "01.07.2024;14:00;19;7.25;0,4;0,1;;",
        ],
    )
    found = read_file(path, read_column_map(_map(tmp_path, GERMAN)))
    assert found.readings.sensor_id.tolist() == [17, 18, 18, 19]
    assert found.times == ["2024-07-01 10:00:00"] * 2 + ["2024-07-01 11:00:00"] * 2
    assert found.values("ph")[0] == np.float32(7.25)
    assert found.values("conductivity_us_cm")[0] == np.float32(0.414 * 1000)
    assert found.values("disinfectant_mg_l")[1] == np.float32(0.1)
    assert np.isnan(found.readings.values[:, 2:]).all()
    assert found.unreadable == [(4, "'x' is no sensor id: a whole number"), (5, "pH-Wert: '7.25' is no number")]
    assert found.unknown_columns == ("neu",)


def test_ids_that_the_server_refuses_are_sent_and_those_beyond_64_bits_are_unreadable(tmp_path: Path) -> None:
    lines = ["t,s,pH", *(f"2024-07-01 10:00,{sensor},7" for sensor in (0, -5, 2**63 - 1, 2**63, "1.0"))]
    text = 'sensor_id = "s"\n[time]\ncolumns = ["t"]\nzone = "UTC"\n[[column]]\nname = "pH"\nparameter = "ph"\n'
    found = read_file(write_file(tmp_path, lines), read_column_map(_map(tmp_path, text)))
    assert found.readings.sensor_id.tolist() == [0, -5, 2**63 - 1]
    assert found.lines == [5, 6]


def test_every_problem_of_a_map_is_named_at_once(tmp_path: Path) -> None:
    text = """
    colour = "blue"
    decimal = ";"
    delimiter = "::"
    [time]
    columns = []
    format = "dd.mm.yyyy"
    zone = "Mars/Base"
    [[column]]
    name = "a"
    parameter = "ph_level"
    [[column]]
    name = "b"
    parameter = "temperature_c"
    unit = "furlong"
    sensor = 99
    [[column]]
    parameter = "ph"
    """
    with pytest.raises(InvalidArgument) as caught:
        read_column_map(_map(tmp_path, text))
    for words in (
        "colour is unknown",
        "decimal = ';'",
        "delimiter = '::'",
        "time.columns is missing",
        "time.format = 'dd.mm.yyyy'",
        "'Mars/Base' is no time zone",
        "'ph_level' is no parameter",
        "'furlong' is no unit of temperature_c; known are degC, degF, K",
        "sensor = 99 must be 0 to 9",
        "a [[column]] without name",
    ):
        assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "[time] is missing"),
        ("[time]\ncolumns=['t']\nzone='UTC'", "no [[column]]"),
        ("[time]\ncolumns=['t']\n[[column]]\nname='p'\nparameter='ph'", "time.zone is missing"),
        ("[time]\ncolumns='t'\nzone='UTC'\n[[column]]\nname='p'\nparameter='ph'", "must be a list of texts"),
        ("[time]\ncolumns=['t']\nzone='UTC'\n[[column]]\nname='p'\nparameter='temperature_c'", "'' is no unit"),
        (
            "[time]\ncolumns=['t']\nzone='UTC'\n[[column]]\nname='p'\nparameter='ph'\n[[column]]\nname='q'\nparameter='ph'",
            "twice",
        ),
        ("[time", "cannot be read as TOML"),
    ],
)
def test_a_map_that_cannot_be_right_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_column_map(_map(tmp_path, text))
    assert words in caught.value.message


def test_a_map_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        read_column_map(tmp_path / "MAP.toml")


def test_a_file_without_a_mapped_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"lacks .*'Chlor 2'.*it has 'a', 'b'"):
        read_file(write_file(tmp_path, ["a,b", "1,2"]), read_column_map(_map(tmp_path, GERMAN)))


def test_every_parameter_has_units_and_its_own_is_the_identity() -> None:
    assert UNITS.keys() == BY_COLUMN.keys()
    for parameter in BY_COLUMN.values():
        unit = unit_of(parameter.column, parameter.unit)
        assert (unit.factor, unit.offset) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("parameter", "unit", "value", "canonical"),
    [
        ("conductivity_us_cm", "mS/cm", 0.414, 414.0),
        ("conductivity_us_cm", "µS/cm", 414, 414.0),
        ("conductivity_us_cm", "S/m", 0.05, 500.0),
        ("temperature_c", "°F", 68, 20.0),
        ("temperature_c", "K", 273.15, 0.0),
        ("flow_m3_h", "L/s", 10, 36.0),
        ("flow_m3_h", "m³/d", 24, 1.0),
        ("dissolved_oxygen_mg_l", "umol/l", 312.55, 10.001),
        ("redox_mv", "V", 0.755, 755.0),
    ],
)
def test_units_are_converted(parameter: str, unit: str, value: float, canonical: float) -> None:
    found = unit_of(parameter, unit)
    assert value * found.factor + found.offset == pytest.approx(canonical, rel=1e-4, abs=1e-9)
