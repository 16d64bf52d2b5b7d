"""What several commands are told in the same way: where the mesh is, which readings, JSON or not."""

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from waterquality.v1.query_pb2 import ReadingFilter
from waterquality.v1.reading_pb2 import Parameter as ParameterNumber
from waterquality.v1.reading_pb2 import QualityFlag

from water.parameter import PARAMETERS
from wq.when import TIME_HELP, read_time

_FLAG_NAMES = {"good": 1, "not_evaluated": 2, "suspect": 3, "fail": 4}

Target = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The mesh to talk to; default: WQ_TARGET, else the one that `wq up` started here."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, with the names of the protos.")]
Sensors = Annotated[list[int] | None, typer.Argument(metavar="[SENSOR]...", help="Sensor ids.")]
Sites = Annotated[list[str] | None, typer.Option("--site", metavar="SITE", help="Only sensors of this site; may be repeated.")]
Regions = Annotated[list[str] | None, typer.Option("--region", metavar="REGION", help="Only this region; may be repeated.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", metavar="NAME", help=f"Only this parameter ({', '.join(each.column for each in PARAMETERS)})."),
]
Without = Annotated[
    list[str] | None, typer.Option("--without", metavar="FLAG", help=f"Leave out values flagged so ({', '.join(_FLAG_NAMES)}).")
]
Start = Annotated[str | None, typer.Option(metavar="TIME", help=f"Measured at or after. {TIME_HELP}")]
End = Annotated[str | None, typer.Option(metavar="TIME", help="Measured before. As --start.")]


def reading_filter(
    sensors: list[int] | None = None,
    sites: list[str] | None = None,
    regions: list[str] | None = None,
    start: str | None = None,
    end: str | None = None,
    parameters: list[str] | None = None,
    without: list[str] | None = None,
) -> ReadingFilter:
    """The filter of these options. Raises typer.BadParameter for names and times that are none."""
    return ReadingFilter(
        sensor_ids=sensors or (),
        site_ids=sites or (),
        regions=regions or (),
        start_time=read_time(start, "--start") if start else None,
        end_time=read_time(end, "--end") if end else None,
        parameters=[parameter_number(name) for name in parameters or ()],
        without_flags=[_flag_number(name) for name in without or ()],
    )


def parameter_number(name: str, option: str = "--parameter") -> ParameterNumber.ValueType:
    """The number of a parameter called by its column (turbidity_ntu), its SQL name or its label (turbidity)."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    for each in PARAMETERS:
        if plain in (each.column, each.sql_column, each.label.lower().replace(" ", "_")):
            return ParameterNumber.ValueType(each.number)
    raise typer.BadParameter(f"{name!r} is none of {', '.join(each.column for each in PARAMETERS)}", param_hint=option)


def _flag_number(name: str) -> QualityFlag.ValueType:
    number = _FLAG_NAMES.get(name.strip().lower().replace(" ", "_").replace("-", "_"))
    if number is None:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(_FLAG_NAMES)}", param_hint="--without")
    return QualityFlag.ValueType(number)


def update_mask(changed: list[str]) -> FieldMask:
    """The fields to change. Raises typer.BadParameter when there are none."""
    if not changed:
        raise typer.BadParameter("nothing to change: give at least one option, see --help")
    return FieldMask(paths=changed)
