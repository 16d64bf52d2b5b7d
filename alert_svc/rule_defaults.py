"""The rules that a new deployment begins with: national numbers of the USA, each with the words of its source.

All of them are for a person to change or delete; none knows a site's permit. What the sources say, and what we make of it:

- 40 CFR 143.3 (secondary standard, not enforceable): pH of drinking water 6.5 to 8.5.
- 40 CFR 141.551(b)(1), and 141.173(a)(2) for systems of 10,000 people or more: the combined filter effluent of conventional or
  direct filtration exceeds 1 NTU at no time. (0.3 NTU in 95 % of a month's measurements is a percentile over a month: not here.)
- 40 CFR 141.72(a)(3) and (b)(2): the residual disinfectant entering the distribution system is not below 0.2 mg/L for more than
  4 hours. The alert comes after a minute, so that the four hours are there for the mend.
- 40 CFR 141.65(a): maximum residual disinfectant level 4.0 mg/L, for chlorine and chloramines as Cl2. Compliance is a running
  annual average (141.133(c)), so a single value above it is a warning and no violation.
- EPA 440/5-86-001, Quality Criteria for Water 1986 ("Gold Book"), pH: 6.5 to 9 for freshwater aquatic life.
- EPA 440/5-86-003, Ambient Water Quality Criteria for Dissolved Oxygen (freshwater), 1986, table 1, "1 day minimum", whose minima
  are instantaneous, to be achieved at all times. Warmwater: 5.0 mg/L where there are early life stages, 3.0 otherwise. Coldwater:
  8.0 in the water (5.0 within the gravel), 4.0 otherwise; nobody tells us which water is cold, so the warmwater numbers are here.
- 40 CFR 133.102(c): pH of treated sewage 6.0 to 9.0; the same range stands in most effluent guidelines of industries, for example
  40 CFR 420.07(a) and 439.4. 40 CFR 401.17(a) excuses excursions of a continuously measured pH up to 60 minutes each.

Without a default, on purpose: turbidity of natural waters and outfalls (the criteria compare with the site's own background, Gold
Book, "Solids and turbidity"), oxygen of drinking water and outfalls, disinfectant elsewhere (no number that fits all).

Deadbands are several times the parameter's resolution and small beside the limit; a bad value must last a minute, and be over for
as long, except oxygen that fish do not survive.
"""

from water.rules import Rule

MUNICIPAL, INDUSTRIAL, NATURAL = 1, 2, 3
_PH, _TURBIDITY, _OXYGEN, _DISINFECTANT = 1, 2, 4, 6
_MINUTE_S = 60.0

DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(
        "industrial-ph",
        _PH,
        lower_limit=6.0,
        upper_limit=9.0,
        deadband=0.1,
        on_delay_s=_MINUTE_S,
        off_delay_s=_MINUTE_S,
        severity_level=3,
        source_type=INDUSTRIAL,
        citation="40 CFR 133.102(c): pH of effluents 6.0 to 9.0 (as in 40 CFR 420.07(a), 439.4); excursions: 40 CFR 401.17",
    ),
    Rule(
        "municipal-disinfectant-high",
        _DISINFECTANT,
        upper_limit=4.0,
        deadband=0.1,
        on_delay_s=_MINUTE_S,
        off_delay_s=_MINUTE_S,
        severity_level=2,
        source_type=MUNICIPAL,
        citation="40 CFR 141.65(a): 4.0 mg/L as Cl2, compliance as a running annual average",
    ),
    Rule(
        "municipal-disinfectant-low",
        _DISINFECTANT,
        lower_limit=0.2,
        deadband=0.05,
        on_delay_s=_MINUTE_S,
        off_delay_s=_MINUTE_S,
        severity_level=4,
        source_type=MUNICIPAL,
        citation="40 CFR 141.72(a)(3), (b)(2): 0.2 mg/L entering the distribution system, not below for more than 4 hours",
    ),
    Rule(
        "municipal-ph",
        _PH,
        lower_limit=6.5,
        upper_limit=8.5,
        deadband=0.1,
        on_delay_s=_MINUTE_S,
        off_delay_s=_MINUTE_S,
        severity_level=2,
        source_type=MUNICIPAL,
        citation="40 CFR 143.3: secondary maximum contaminant level, pH 6.5 to 8.5",
    ),
    Rule(
        "municipal-turbidity",
        _TURBIDITY,
        upper_limit=1.0,
        deadband=0.1,
        on_delay_s=_MINUTE_S,
        off_delay_s=_MINUTE_S,
        severity_level=4,
        source_type=MUNICIPAL,
        citation="40 CFR 141.551(b)(1), 141.173(a)(2): combined filter effluent at no time above 1 NTU",
    ),
    Rule(
        "natural-oxygen",
        _OXYGEN,
        lower_limit=5.0,
        deadband=0.2,
        on_delay_s=_MINUTE_S,
        off_delay_s=_MINUTE_S,
        severity_level=2,
        source_type=NATURAL,
        citation="EPA 440/5-86-003, table 1: 1 day minimum, warmwater, early life stages, 5.0 mg/L at all times",
    ),
    Rule(
        "natural-oxygen-severe",
        _OXYGEN,
        lower_limit=3.0,
        deadband=0.2,
        off_delay_s=_MINUTE_S,
        severity_level=4,
        source_type=NATURAL,
        citation="EPA 440/5-86-003, table 1: 1 day minimum, warmwater, other life stages, 3.0 mg/L at all times",
    ),
    Rule(
        "natural-ph",
        _PH,
        lower_limit=6.5,
        upper_limit=9.0,
        deadband=0.1,
        on_delay_s=_MINUTE_S,
        off_delay_s=_MINUTE_S,
        severity_level=2,
        source_type=NATURAL,
        citation="EPA 440/5-86-001 (Gold Book): pH 6.5 to 9 for freshwater aquatic life",
    ),
)
"""By id."""
