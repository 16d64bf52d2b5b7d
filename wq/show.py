"""How values, flags and readings look in a terminal: units, colours, tables."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from water.flags import FAIL, GOOD, MISSING, NOT_EVALUATED, SUSPECT, unpack
from water.parameter import PARAMETERS, Parameter
from water.readings import Readings
from wq.when import ago, iso

_STYLES = {GOOD: "green", NOT_EVALUATED: "dim", SUSPECT: "yellow", FAIL: "bold red", MISSING: "dim"}
_MARKS = {SUSPECT: " ?", FAIL: " !"}
_WIDEST = 10_000
LEGEND = "[green]good[/]  [dim]not evaluated[/]  [yellow]suspect ?[/]  [bold red]fail ![/]"


def show(*things: RenderableType) -> None:
    """On standard output, for people. A table is never squeezed: in a narrow terminal its lines go on in the next one."""
    console = Console()
    for thing in things:
        if isinstance(thing, Table):
            wanted = console.measure(thing, options=console.options.update(max_width=_WIDEST)).maximum
            Console(width=max(console.width, wanted)).print(thing)
        else:
            console.print(thing, highlight=False, soft_wrap=True)


def heading(parameter: Parameter) -> str:
    """Label and unit, on two lines."""
    return f"{parameter.label}\n{parameter.unit}"


def number(value: float, parameter: Parameter) -> str:
    """A value to its parameter's resolution, never with false digits; "-" for NaN."""
    if not math.isfinite(value):
        return "-"
    decimals = max(0, round(-math.log10(parameter.resolution)))
    return f"{value:.{decimals}f}" if abs(value) < 1e9 else f"{value:.6g}"


def count(number: int) -> str:
    """A count, in groups of three digits."""
    return f"{number:,}".replace(",", " ")


def flagged(value: float, flag: int, parameter: Parameter) -> Text:
    """A value in the colour of its flag; suspect and failed ones are marked too, for terminals without colours."""
    return Text(number(value, parameter) + _MARKS.get(flag, ""), style=_STYLES.get(flag, ""), justify="right")


def readings_table(readings: Readings, now_us: int | None = None, region: Sequence[str] | None = None) -> Table:
    """One line per reading; only parameters that some reading has. Relative times where `now_us` is given."""
    shown = [parameter for parameter in PARAMETERS if not np.isnan(readings.values[parameter.number - 1]).all()]
    numbers = [heading(parameter) for parameter in shown]
    names = ["sensor", "measured", *([""] if now_us else []), *(["region"] if region else [])]
    table = make_table(names, numbers)
    flags = np.zeros((len(PARAMETERS), len(readings)), np.uint8) if readings.flags is None else unpack(readings.flags)
    for index in range(len(readings)):
        at_us = int(readings.measured_at_us[index])
        about = [str(readings.sensor_id[index]), iso(at_us)]
        about += [ago(at_us, now_us)] if now_us else []
        about += [region[index]] if region else []
        rows = [each.number - 1 for each in shown]
        cells = [flagged(float(readings.values[row, index]), int(flags[row, index]), PARAMETERS[row]) for row in rows]
        table.add_row(*about, *cells)
    return table


def make_table(names: Iterable[str], numbers: Iterable[str] = ()) -> Table:
    """A table with text columns, then columns of numbers on the right."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
