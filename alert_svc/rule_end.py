"""What happens to a rule's alerts when the rule is deleted or disabled: their condition is over."""

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from alert_svc import life, store
from alert_svc.standing import Changes
from mesh.codec.alerts import SYSTEM

AT_ONCE = 500


async def clear_alerts_of_rule(connection: AsyncConnection, rule_id: str, at_us: int, reason: str) -> int:
    """Clears every alert of the rule whose condition lasts, in the caller's transaction, as if its newest episode had ended at
    `at_us`; the history says why. Returns how many were open. Safe to repeat.

    The caller has changed or deleted the rule's row in this transaction: so no task of the rule is taken at the same time, and
    none that comes later (alert_svc/raise_alert.py drops them).
    """
    count, after_id = 0, 0
    while standings := await store.load_lasting(connection, rule_id, after_id, AT_ONCE):
        changes = Changes()
        for old in standings:
            ended = replace(old.alert, cleared_us=max(at_us, old.newest_us), state=life.cleared(old.alert.state))
            changes.put(old, replace(old, alert=ended), at_us, SYSTEM, reason)
            count += old.alert.is_open
        await store.end_episodes(connection, [standing.alert.alert_id for standing in standings], at_us)
        await store.write(connection, changes)
        after_id = standings[-1].alert.alert_id
    return count
