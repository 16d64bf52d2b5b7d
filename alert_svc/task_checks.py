"""Is a task one that can be stored at all?"""

from mesh.codec.tasks import Task
from mesh.errors import InvalidArgument

LONGEST_TEXT = 1_000
MOST_EVIDENCE = 100


def check_task(task: Task) -> Task:
    """The task. Raises InvalidArgument (UNREADABLE_RECORD) for one that no alert can be made of: it never can."""
    condition = task.condition
    texts = {
        "condition_id": condition.condition_id,
        "site_id": condition.site_id,
        "gateway_id": task.gateway_id,
        "region": task.region,
        "rule_id": condition.rule_id,
        "contaminant_type": condition.contaminant_type,
        **{f"evidence[{place}].test": evidence.test for place, evidence in enumerate(condition.evidence[:MOST_EVIDENCE])},
    }
    for field, value in texts.items():
        if "\0" in value or len(value) > LONGEST_TEXT:
            raise _wrong(f"{field} has {len(value)} characters, or a NUL among them: at most {LONGEST_TEXT:,}, without NUL")
    if not 1 <= condition.severity_level <= 5:
        raise _wrong(f"a severity_level of {condition.severity_level} does not exist: 1 to 5")
    if len(condition.evidence) > MOST_EVIDENCE:
        raise _wrong(f"{len(condition.evidence)} pieces of evidence: at most {MOST_EVIDENCE}")
    return task


def _wrong(problem: str) -> InvalidArgument:
    return InvalidArgument(f"a condition that cannot be an alert: {problem}", reason="UNREADABLE_RECORD")
