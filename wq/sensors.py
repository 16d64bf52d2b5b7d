"""The commands `wq sensors ...`: what is at a site, and what it measures."""

from enum import StrEnum
from typing import Annotated, Any

import typer
from waterquality.v1 import catalog_pb2 as pb
from waterquality.v1.catalog_pb2_grpc import CatalogServiceStub

from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, Target, parameter_number, update_mask
from wq.plain import plain, print_json
from wq.show import show
from wq.show_catalog import sensors_table
from wq.when import TIME_HELP, read_time

sensors = typer.Typer(no_args_is_help=True, help="Sensors: what is at a site, and what it measures.")

SensorId = Annotated[int, typer.Argument(metavar="SENSOR", help="Sensor id.")]
Name = Annotated[str | None, typer.Option(help="Name for people.")]
Etag = Annotated[str, typer.Option(help="Refuse the change when somebody changed it since this etag was read.")]


class State(StrEnum):
    """Whether a sensor counts."""

    IN_SERVICE = "in_service"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


AtSite = Annotated[str | None, typer.Option("--site", help="The site it is at.")]
Measures = Annotated[list[str] | None, typer.Option("--parameter", help="A parameter that it measures; may be repeated.")]
Period = Annotated[float | None, typer.Option("--period", min=0, help="Seconds between two readings; 0: not watched.")]
StateOption = Annotated[State | None, typer.Option("--state", help="In use, or not.")]
Disinfectant = Annotated[str | None, typer.Option(help='What the disinfectant is, for example "chlorine dioxide".')]
Calibrated = Annotated[str | None, typer.Option(metavar="TIME", help=f"When it was last calibrated. {TIME_HELP}")]


@sensors.command("ls")
@says_errors
def list_sensors(
    site: Annotated[list[str] | None, typer.Option("--site")] = None,
    state: StateOption = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """All sensors. Example: wq sensors ls --site franklin-basin"""
    found: list[pb.Sensor] = []
    with open_channel(find_target(target)) as channel:
        request = pb.ListSensorsRequest(page_size=1000, site_ids=site or (), state=_state(state))
        while True:
            page = CatalogServiceStub(channel).ListSensors(request, timeout=CALL_S)
            found.extend(page.sensors)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    if as_json:
        print_json({"sensors": [plain(sensor) for sensor in found], "next_page_token": ""})
    else:
        show(sensors_table(found) if found else "no sensors")


@sensors.command("show")
@says_errors
def show_sensor(sensor_id: SensorId, target: Target = None, as_json: AsJson = False) -> None:
    """One sensor. Example: wq sensors show 7"""
    with open_channel(find_target(target)) as channel:
        answer = CatalogServiceStub(channel).GetSensor(pb.GetSensorRequest(sensor_id=sensor_id), timeout=CALL_S)
    _show(answer.sensor, as_json)


@sensors.command("create")
@says_errors
def create_sensor(
    sensor_id: SensorId,
    site: AtSite = None,
    name: Name = None,
    parameter: Measures = None,
    period: Period = None,
    state: StateOption = None,
    disinfectant: Disinfectant = None,
    calibrated: Calibrated = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """A new sensor, or a description of one that was seen first. Example: wq sensors create 7 --site franklin --parameter ph"""
    sensor, _ = _sensor(sensor_id, site, name, parameter, period, state, disinfectant, calibrated)
    with open_channel(find_target(target)) as channel:
        answer = CatalogServiceStub(channel).CreateSensor(pb.CreateSensorRequest(sensor=sensor), timeout=CALL_S)
    _show(answer.sensor, as_json)


@sensors.command("update")
@says_errors
def update_sensor(
    sensor_id: SensorId,
    site: AtSite = None,
    name: Name = None,
    parameter: Measures = None,
    period: Period = None,
    state: StateOption = None,
    disinfectant: Disinfectant = None,
    calibrated: Calibrated = None,
    etag: Etag = "",
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Changes what is given, and nothing else. Example: wq sensors update 7 --calibrated now"""
    sensor, changed = _sensor(sensor_id, site, name, parameter, period, state, disinfectant, calibrated)
    sensor.etag = etag
    request = pb.UpdateSensorRequest(sensor=sensor, update_mask=update_mask(changed))
    with open_channel(find_target(target)) as channel:
        answer = CatalogServiceStub(channel).UpdateSensor(request, timeout=CALL_S)
    _show(answer.sensor, as_json)


def _sensor(
    sensor_id: int,
    site: str | None,
    name: str | None,
    parameters: list[str] | None,
    period: float | None,
    state: State | None,
    disinfectant: str | None,
    calibrated: str | None,
) -> tuple[pb.Sensor, list[str]]:
    """The sensor, and which fields were given."""
    given: dict[str, Any] = {
        "site_id": site,
        "name": name,
        "parameters": None if parameters is None else [parameter_number(each) for each in parameters],
        "expected_period_s": period,
        "state": None if state is None else _state(state),
        "disinfectant": disinfectant,
        "calibrated_time": read_time(calibrated, "--calibrated") if calibrated else None,
    }
    given = {field: value for field, value in given.items() if value is not None}
    return pb.Sensor(sensor_id=sensor_id, **given), list(given)


def _state(state: State | None) -> pb.SensorState.ValueType:
    return pb.SENSOR_STATE_UNSPECIFIED if state is None else pb.SensorState.Value(f"SENSOR_STATE_{state.name}")


def _show(sensor: pb.Sensor, as_json: bool) -> None:
    if as_json:
        print_json({"sensor": plain(sensor)})
    else:
        show(sensors_table([sensor]))
