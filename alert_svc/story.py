"""What a task does to the alerts of its condition (law 8), in memory: from what is stored to what is to be written.

Why order, repeats and delays do no harm: an episode is what all its tasks say together (the strongest facts, the newest sight,
the earliest end), and an alert is what all its episodes say together. Neither asks which came first. Only a new, newer episode
raises; only the end of the newest one clears; what is RESOLVED is only told of the end.

Live knows better than backfill: when both lanes show one episode, only live tasks count. The first of them takes the episode
over, whatever backfill said of it (also that it ended), and raises as for a new one: a live condition is never lost because
backfill was first. For the same reason only live episodes are newer than others: backfill of later times makes no live
episode an old one. An episode of backfill has a historical alert of its own. When it turns out to be live, that alert becomes
the condition's open one; or where one is open already, is absorbed by it, with what people have said of it.

An older episode that comes late belongs to the alert of the next newer one: that is where it would be had it come in time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from alert_svc import life
from alert_svc.facts import Facts, facts_of
from alert_svc.standing import Changes, Episode, Standing
from alert_svc.words import moment
from mesh.codec.alerts import SYSTEM, Alert, State
from mesh.codec.tasks import Task
from water.condition import Change


class NoIds(Exception):
    """More alerts are to be made than there are ids for."""


class Story:
    """Some conditions while their tasks are taken: at least the episodes that the tasks name, the next newer live one of each,
    and all alerts of these and open ones. `ids`: for alerts that are made. `changes` is what came of it."""

    def __init__(self, episodes: Iterable[Episode], standings: Iterable[Standing], ids: Iterable[int], now_us: int) -> None:
        self.changes = Changes()
        self._episodes = {(episode.condition_id, episode.began_us): episode for episode in episodes}
        self._standings = {standing.alert.alert_id: standing for standing in standings}
        self._ids: Iterator[int] = iter(ids)
        self._now_us = now_us

    def take(self, task: Task) -> None:
        """Safe to repeat. Raises NoIds."""
        condition = task.condition
        told = Episode(condition.condition_id, condition.began_us, _end(task), task.historical, 0, facts_of(task))
        known = self._episodes.get((told.condition_id, told.began_us))
        if known is not None and known.historical == told.historical:
            self._go_on(known, told)
        elif told.historical:
            if known is None:
                self._store_closed(told)
        else:
            self._begin(told, known)

    def _go_on(self, known: Episode, told: Episode) -> None:
        episode = replace(known, ended_us=_earliest(known.ended_us, told.ended_us), facts=known.facts.joined(told.facts))
        if episode == known:
            return
        self._keep(episode)
        old = self._standings[episode.alert_id]
        new = _told(old, episode.facts)
        if episode.began_us == old.newest_us:
            state = life.cleared(old.alert.state) if episode.ended_us is not None else old.alert.state
            new = replace(new, alert=replace(new.alert, cleared_us=episode.ended_us, state=state))
        over = new.alert.state != old.alert.state
        self._put(old, new, f"over since {moment(episode.ended_us)}" if over and episode.ended_us is not None else "")

    def _store_closed(self, told: Episode) -> None:
        new = self._alert_of(told, self._next_id(), State.RESOLVED)
        self._put(None, new, "from backfill: history")
        self._keep(replace(told, alert_id=new.alert.alert_id))

    def _begin(self, told: Episode, historical: Episode | None) -> None:
        """The first live task of an episode."""
        newer = self._next_newer(told)
        if newer is not None:
            alert_id = self._add_late(told, newer.alert_id)
        elif (open_one := self._open_one(told.condition_id)) is not None:
            alert_id = self._raise_again(told, open_one)
        else:
            alert_id = self._raise(told, historical)
        if historical is not None and historical.alert_id != alert_id:
            self.changes.absorb(historical.alert_id, alert_id)
            del self._standings[historical.alert_id]
        self._keep(replace(told, alert_id=alert_id))

    def _raise(self, told: Episode, historical: Episode | None) -> int:
        old = None if historical is None else self._standings[historical.alert_id]
        alert_id = self._next_id() if old is None else old.alert.alert_id
        self._put(old, self._alert_of(told, alert_id, life.raised(told.ended_us is not None)), f"began {moment(told.began_us)}")
        return alert_id

    def _raise_again(self, told: Episode, old: Standing) -> int:
        new = _with_begin(old.told(told.facts), told.began_us)
        state = life.raised(told.ended_us is not None)
        new = replace(new, alert=replace(new.alert, cleared_us=told.ended_us, state=state), newest_us=told.began_us)
        self._put(old, new, f"raised again: began {moment(told.began_us)}")
        return old.alert.alert_id

    def _add_late(self, told: Episode, alert_id: int) -> int:
        old = self._standings[alert_id]
        new = _told(old, told.facts)
        new = _with_begin(new, told.began_us) if old.alert.is_open else new
        self._put(old, new, f"told late: an earlier time that began {moment(told.began_us)}")
        return alert_id

    def _alert_of(self, told: Episode, alert_id: int, state: State) -> Standing:
        """An alert of this episode alone."""
        facts = told.facts
        alert = Alert(
            alert_id=alert_id,
            condition_id=told.condition_id,
            sensor_id=facts.sensor_id,
            site_id=facts.site_id,
            region=facts.region,
            gateway_id=facts.gateway_id,
            kind=facts.kind,
            rule_id=facts.rule_id,
            contaminant_type=facts.contaminant_type,
            severity_level=facts.severity_level,
            state=state,
            raised_us=told.began_us,
            last_seen_us=facts.last_seen_us,
            cleared_us=told.ended_us,
            committed_us=self._now_us,
            historical=told.historical,
            evidence=facts.evidence,
            change=0,
        )
        return Standing(alert, told.began_us, facts.strength)

    def _next_newer(self, told: Episode) -> Episode | None:
        """The live episode of the condition that comes after this one."""
        later = (
            episode
            for (condition_id, began_us), episode in self._episodes.items()
            if condition_id == told.condition_id and began_us > told.began_us and not episode.historical
        )
        return min(later, key=lambda episode: episode.began_us, default=None)

    def _open_one(self, condition_id: str) -> Standing | None:
        return next(
            (each for each in self._standings.values() if each.alert.is_open and each.alert.condition_id == condition_id), None
        )

    def _next_id(self) -> int:
        for alert_id in self._ids:
            return alert_id
        raise NoIds

    def _put(self, old: Standing | None, new: Standing, comment: str) -> None:
        self._standings[new.alert.alert_id] = self.changes.put(old, new, self._now_us, SYSTEM, comment)

    def _keep(self, episode: Episode) -> None:
        key = (episode.condition_id, episode.began_us)
        self._episodes[key] = self.changes.episodes[key] = episode


def _end(task: Task) -> int | None:
    condition = task.condition
    if condition.ended_us is None and condition.change == Change.CLEARED:
        return condition.measured_us
    return condition.ended_us


def _earliest(one_us: int | None, other_us: int | None) -> int | None:
    return min((us for us in (one_us, other_us) if us is not None), default=None)


def _told(standing: Standing, facts: Facts) -> Standing:
    """What is resolved is only seen once more: it stays as the people who resolved it knew it."""
    if standing.alert.is_open or standing.alert.historical:
        return standing.told(facts)
    last_seen_us = max(standing.alert.last_seen_us, facts.last_seen_us)
    return replace(standing, alert=replace(standing.alert, last_seen_us=last_seen_us))


def _with_begin(standing: Standing, began_us: int) -> Standing:
    return replace(standing, alert=replace(standing.alert, raised_us=min(standing.alert.raised_us, began_us)))
