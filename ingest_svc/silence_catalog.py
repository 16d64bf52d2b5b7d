"""Which sensors are watched, by a version of the catalog context?"""

import asyncio
import hashlib

from mesh.codec.log_records import ContextChange
from mesh.codec.watched_sensors import WatchedSensors, no_sensors, read_watched_sensors
from mesh.errors import Fault, InvalidArgument, NotFound
from mesh.ports import Objects


async def watched_by(change: ContextChange | None, objects: Objects) -> WatchedSensors:
    """Those of this version; none before any is known. Raises Unavailable, and Fault where the object is missing or not what it
    was."""
    if change is None:
        return no_sensors()
    where = f"CATALOG context version {change.version}, object {change.object_path}"
    try:
        content = await objects.get(change.object_path)
    except NotFound as error:
        raise Fault(f"{where}: it is missing, so nobody knows whose silence to watch; put it back") from error
    if hashlib.sha256(content).hexdigest() != change.sha256:
        raise Fault(f"{where}: its content does not match the checksum {change.sha256}; put the right one back")
    try:
        return await asyncio.to_thread(read_watched_sensors, content)
    except InvalidArgument as error:
        raise Fault(f"{where}: {error.message}") from error
