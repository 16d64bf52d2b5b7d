"""Which formats of file are known by their header, and what their columns mean (conventions: ../shared/data/README.md)."""

from collections.abc import Collection

from wq.formats.column_map import ColumnMap, TimeColumns, ValueColumn

_MISSING = ("", "-9999", "NA", "NaN", "NULL")

EPA_BUOY = ColumnMap(
    title="EPA lake buoy",
    time=TimeColumns(("date", "time"), zone_column="time_zone"),
    values=(
        ValueColumn("ph", "ph", ""),
        ValueColumn("turb", "turbidity_ntu", "NTU"),
        ValueColumn("temp_c", "temperature_c", "degC"),
        ValueColumn("do_mgl", "dissolved_oxygen_mg_l", "mg/L"),
        ValueColumn("spcond_ms_cm", "conductivity_us_cm", "mS/cm"),
    ),
    missing=_MISSING,
    ignored=frozenset({"waterbody", "depth", "chl_rfu", "do_pct", "no3n_mgl", "pc_rfu", "notes"}),
    required=frozenset({"waterbody"}),
)

NERRS = ColumnMap(
    title="NERRS water quality station",
    time=TimeColumns(("datetimestamp",)),
    values=(
        ValueColumn("ph", "ph", ""),
        ValueColumn("turb", "turbidity_ntu", "NTU"),
        ValueColumn("temp", "temperature_c", "degC"),
        ValueColumn("do_mgl", "dissolved_oxygen_mg_l", "mg/L"),
        ValueColumn("spcond", "conductivity_us_cm", "mS/cm"),
    ),
    missing=_MISSING,
    ignored=frozenset({"sal", "do_pct", "depth", "cdepth", "level", "clevel", "chlfluor"})
    | {f"f_{name}" for name in ("temp", "spcond", "sal", "do_pct", "do_mgl", "depth", "cdepth", "level", "clevel", "ph", "turb")}
    | {"f_chlfluor"},
    required=frozenset({"spcond"}),
)

LOGAN_RIVER = ColumnMap(
    title="Logan River Observatory site",
    time=TimeColumns(("datetime",)),
    values=(
        ValueColumn("ph", "ph", ""),
        ValueColumn("turb", "turbidity_ntu", "NTU"),
        ValueColumn("temp", "temperature_c", "degC"),
        ValueColumn("do", "dissolved_oxygen_mg_l", "mg/L"),
        ValueColumn("cond", "conductivity_us_cm", "uS/cm"),
    ),
    missing=_MISSING,
    ignored=frozenset({"stage"})
    | {f"{name}_{kind}" for name in ("temp", "cond", "ph", "do", "turb", "stage") for kind in ("cor", "qual")},
    required=frozenset({"cond", "temp_cor"}),
)

GECCO = ColumnMap(
    title="GECCO drinking water (chlorine dioxide; Cl_2 and Fm_2 are sensor + 1)",
    time=TimeColumns(("Time",)),
    values=(
        ValueColumn("pH", "ph", ""),
        ValueColumn("Trueb", "turbidity_ntu", "NTU"),
        ValueColumn("Tp", "temperature_c", "degC"),
        ValueColumn("Leit", "conductivity_us_cm", "uS/cm"),
        ValueColumn("Cl", "disinfectant_mg_l", "mg/L"),
        ValueColumn("Redox", "redox_mv", "mV"),
        ValueColumn("Fm", "flow_m3_h", "m3/h"),
        ValueColumn("Cl_2", "disinfectant_mg_l", "mg/L", sensor=1),
        ValueColumn("Fm_2", "flow_m3_h", "m3/h", sensor=1),
    ),
    missing=_MISSING,
    ignored=frozenset({"EVENT"}),
    required=frozenset({"Tp", "Leit", "Trueb"}),
)

KNOWN = (EPA_BUOY, NERRS, LOGAN_RIVER, GECCO)


def recognise(header: Collection[str]) -> ColumnMap | None:
    """The known format that a header belongs to; names must match exactly, other columns may be there too."""
    for column_map in KNOWN:
        if column_map.needed <= set(header):
            return column_map
    return None
