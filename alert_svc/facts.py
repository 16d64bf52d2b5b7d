"""What is known of an episode or alert besides its times: what its strongest task says, whatever order the tasks came in."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from mesh.codec.tasks import Task, write_task
from water.condition import Evidence, Kind


class Strength(NamedTuple):
    """How much a task says, so that of any two the same one is told of, whichever came first: the most severe, with evidence,
    the newest. The rest only makes different tasks different."""

    severity_level: int
    has_evidence: int
    measured_us: int
    received_us: int
    change: int
    digest: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the strongest task says. `last_seen_us` is of the newest one."""

    sensor_id: int
    site_id: str
    region: str
    gateway_id: str
    kind: Kind
    rule_id: str
    contaminant_type: str
    severity_level: int
    evidence: tuple[Evidence, ...]
    last_seen_us: int
    strength: Strength

    def joined(self, other: "Facts") -> "Facts":
        """The facts of both; the same whatever the order, and however often."""
        stronger = max(self, other, key=lambda facts: facts.strength)
        return replace(stronger, last_seen_us=max(self.last_seen_us, other.last_seen_us))


def facts_of(task: Task) -> Facts:
    """What one task says, its evidence strongest first."""
    condition = task.condition
    strength = Strength(
        condition.severity_level,
        int(bool(condition.evidence)),
        condition.measured_us,
        task.received_at_us,
        int(condition.change),
        hashlib.blake2b(write_task(task), digest_size=8).hexdigest(),
    )
    return Facts(
        condition.sensor_id,
        condition.site_id,
        task.region,
        task.gateway_id,
        condition.kind,
        condition.rule_id,
        condition.contaminant_type,
        condition.severity_level,
        tuple(sorted(condition.evidence, key=_weakness)),
        condition.measured_us,
        strength,
    )


def write_facts(facts: Facts) -> dict[str, Any]:
    """As JSON."""
    return {
        "sensor_id": facts.sensor_id,
        "site_id": facts.site_id,
        "region": facts.region,
        "gateway_id": facts.gateway_id,
        "kind": int(facts.kind),
        "rule_id": facts.rule_id,
        "contaminant_type": facts.contaminant_type,
        "severity_level": facts.severity_level,
        "evidence": write_evidence(facts.evidence),
        "last_seen_us": facts.last_seen_us,
        "strength": list(facts.strength),
    }


def read_facts(content: dict[str, Any]) -> Facts:
    """The inverse."""
    return Facts(
        **content
        | {
            "kind": Kind(content["kind"]),
            "evidence": read_evidence(content["evidence"]),
            "strength": Strength(*content["strength"]),
        }
    )


def write_evidence(evidence: Sequence[Evidence]) -> list[dict[str, Any]]:
    """As JSON for people too: the shortest decimals that mean the same float32; what is no number as text."""
    return [
        {
            "parameter": each.parameter,
            "value": _decimal(each.value),
            "expected": _decimal(each.expected),
            "score": _decimal(each.score),
            "test": each.test,
        }
        for each in evidence
    ]


def read_evidence(content: Sequence[dict[str, Any]]) -> tuple[Evidence, ...]:
    """The inverse."""
    return tuple(
        Evidence(each["parameter"], float(each["value"]), float(each["expected"]), float(each["score"]), each["test"])
        for each in content
    )


def to_json(content: Any) -> str:
    """Text that jsonb takes."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _decimal(value: float) -> float | str:
    return float(str(np.float32(value))) if math.isfinite(value) else str(value)


def _weakness(evidence: Evidence) -> tuple[float, int, str, float, float]:
    """Sorts the strongest first, and equals always the same way."""
    score = -math.inf if math.isnan(evidence.score) else evidence.score
    return (-score, evidence.parameter, evidence.test, _sortable(evidence.value), _sortable(evidence.expected))


def _sortable(value: float) -> float:
    return -math.inf if math.isnan(value) else value
