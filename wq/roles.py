"""Which part of a mesh does a process have? Every process is the same program; roles are configuration."""

from collections.abc import Iterable, Mapping

from mesh.errors import SetupError

ROLES: Mapping[str, tuple[str, ...]] = {
    "ingest": ("accept", "screen", "publish", "silence"),
    "query": ("answer", "record", "count", "sight", "export", "retain", "contexts", "days"),
    "alert": ("answer", "raise_alert", "notify", "contexts"),
    "archive": ("answer", "archive", "compact"),
}
"""The roles of each service: `accept` and `answer` serve callers, the others are workers, each by the name of its stage."""

_ROLE_OF_STAGE = {
    "record_restored": "record",
    "losers_export": "export",
    "board": "answer",
    "alert_watch": "answer",
    "rule_sites": "answer",
    "rules": "contexts",
}

Roles = Mapping[str, frozenset[str]]
"""The roles that a process has, by service."""

EVERYTHING: Roles = {service: frozenset(roles) for service, roles in ROLES.items()}


def some_roles(service: str, wanted: Iterable[str]) -> Roles:
    """These roles of one service; all of them when none is named. Raises SetupError for a role that it does not have."""
    named = tuple(wanted)
    if unknown := [role for role in named if role not in ROLES[service]]:
        raise SetupError(f"{service} has no role {unknown[0]!r}: it has {', '.join(ROLES[service])}")
    return {service: frozenset(named or ROLES[service])}


def has_stage(roles: Roles, service: str, stage: str) -> bool:
    """Whether a worker of this service belongs to the process."""
    return _ROLE_OF_STAGE.get(stage, stage) in roles.get(service, ())
