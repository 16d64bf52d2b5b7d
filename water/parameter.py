"""The one table of parameters: unit, names, plausible range, resolution and QARTOD defaults. Everything else loops over it.

Sources of the defaults. FAIL range: what common multiparameter sondes can measure (YSI EXO2, In-Situ Aqua TROLL 600
specifications), a little below zero where their accuracy lets a true zero read so. SUSPECT range: what in-situ fresh, estuarine and
drinking water plausibly shows (USGS Techniques and Methods 1-D3, Wagner et al. 2006; NERRS CDMO automated checks; sea water
freezes at -1.9 degC; disinfectant: 40 CFR 141.65 allows 4.0 mg/L of chlorine; turbidity below 0 is below any detection limit).
Spike, rate and flat-line tests follow the QARTOD manuals (Dissolved Oxygen, IOOS 2018; Temperature and Salinity, 2020; pH, 2019),
which leave the numbers to the operator: those here are wide on purpose, for all waters at once, so that a flag is worth a
look. A salt wedge moves several mS/cm in a quarter of an hour; a coarse grid (0.1 pH, 1 uS/cm) stands still for days in a calm
lake or under ice, oxygen only until the next day or night.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameter:
    """A quantity in its canonical unit. All limits are in that unit, rates in that unit per hour, durations in seconds.

    `number` is the Parameter enum value of the contract; flags use bits 4*(number-1) to 4*(number-1)+3. `column` is the
    name in ReadingColumns, `sql_column` the public name in sensor_readings.
    """

    number: int
    label: str
    unit: str
    column: str
    sql_column: str
    resolution: float
    fail_range: tuple[float, float]
    suspect_range: tuple[float, float]
    spike_suspect: float
    spike_fail: float
    rate_suspect_per_hour: float
    flat_suspect_s: int
    flat_fail_s: int


_H = 3600
PARAMETERS: tuple[Parameter, ...] = (
    Parameter(1, "pH", "", "ph", "ph_level", 0.01, (0, 14), (4, 11), 0.5, 2, 2, 72 * _H, 168 * _H),
    Parameter(2, "turbidity", "NTU", "turbidity_ntu", "turbidity", 0.01, (-5, 4000), (0, 1000), 200, 2000, 1000, 72 * _H, 168 * _H),
    Parameter(3, "temperature", "degC", "temperature_c", "temperature", 0.01, (-5, 50), (-2, 40), 2, 8, 6, 72 * _H, 168 * _H),
    Parameter(4, "dissolved oxygen", "mg/L", "dissolved_oxygen_mg_l", "dissolved_oxygen", 0.01, (-0.2, 50), (0, 20), 3, 8, 10, 24 * _H, 72 * _H),
    Parameter(5, "conductivity", "uS/cm", "conductivity_us_cm", "conductivity", 0.1, (-1, 200_000), (2, 70_000), 5_000, 25_000, 20_000, 72 * _H, 168 * _H),
    Parameter(6, "disinfectant", "mg/L", "disinfectant_mg_l", "disinfectant", 0.01, (-0.1, 20), (0, 5), 0.3, 2, 1, 72 * _H, 168 * _H),
    Parameter(7, "redox", "mV", "redox_mv", "redox", 1, (-1400, 1400), (-600, 1000), 50, 300, 200, 72 * _H, 168 * _H),
    Parameter(8, "flow", "m3/h", "flow_m3_h", "flow", 1, (-1e9, 1e9), (-1e8, 1e8), 1e7, 1e8, 1e7, 168 * _H, 720 * _H),
)  # fmt: skip

# What archives and loggers write where there is no measurement; flow alone has room for them in its range.
SENTINELS = (-9999.0, -99999.0, -999999.0)

BY_COLUMN = {parameter.column: parameter for parameter in PARAMETERS}
BY_NUMBER = {parameter.number: parameter for parameter in PARAMETERS}
