"""How values, flags and readings look in a terminal: units, colours, tables."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from water.flags import FAIL, GOOD, MISSING, NOT_EVALUATED, SUSPECT, unpack
from water.parameter import PARAMETERS, Parameter
from water.readings import Readings
from wq.when import ago, iso

_STYLES = {GOOD: "green", NOT_EVALUATED: "dim", SUSPECT: "yellow", FAIL: "bold red", MISSING: "dim"}
_MARKS = {SUSPECT: " ?", FAIL: " !"}
LEGEND = "[green]good[/]  [dim]not evaluated[/]  [yellow]suspect ?[/]  [bold red]fail ![/]"


def console() -> Console:
    """Standard output, for people."""
    return Console()


def heading(parameter: Parameter) -> str:
    """Label and unit."""
    return f"{parameter.label} ({parameter.unit})" if parameter.unit else parameter.label


def number(value: float, parameter: Parameter) -> str:
    """A value to its parameter's resolution, never with false digits; "-" for NaN."""
    if not math.isfinite(value):
        return "-"
    decimals = max(0, round(-math.log10(parameter.resolution)))
    return f"{value:,.{decimals}f}".replace(",", " ") if abs(value) < 1e9 else f"{value:.6g}"


def flagged(value: float, flag: int, parameter: Parameter) -> Text:
    """A value in the colour of its flag; suspect and failed ones are marked too, for terminals without colours."""
    return Text(number(value, parameter) + _MARKS.get(flag, ""), style=_STYLES.get(flag, ""), justify="right")


def readings_table(readings: Readings, now_us: int, title: str = "", region: Sequence[str] | None = None) -> Table:
    """One line per reading; only parameters that some reading has."""
    shown = [parameter for parameter in PARAMETERS if not np.isnan(readings.values[parameter.number - 1]).all()]
    numbers = [heading(parameter) for parameter in shown]
    table = make_table(title, ["sensor", "measured", ""], ["region"] if region else [], numbers)
    flags = np.zeros((len(PARAMETERS), len(readings)), np.uint8) if readings.flags is None else unpack(readings.flags)
    for index in range(len(readings)):
        at_us = int(readings.measured_at_us[index])
        cells = [
            flagged(float(readings.values[each.number - 1, index]), int(flags[each.number - 1, index]), each) for each in shown
        ]
        table.add_row(
            str(readings.sensor_id[index]), iso(at_us), ago(at_us, now_us), *([region[index]] if region else []), *cells
        )
    return table


def make_table(title: str, names: Iterable[str], more: Iterable[str] = (), numbers: Iterable[str] = ()) -> Table:
    """A table with text columns, then columns of numbers on the right."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name in (*names, *more):
        table.add_column(name, no_wrap=name != "problem", overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table
