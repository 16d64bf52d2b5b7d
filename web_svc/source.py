"""How is one thing followed at the services, and how does the page learn that it cannot be?"""

import json
from collections.abc import Awaitable, Callable

import grpc

from mesh.errors import Unavailable, Unsupported, WaterError, from_rpc
from mesh.ports import Clock
from mesh.run import Worker
from mesh.stages import Progress
from web_svc.board import Board, Part

CALL_S = 10.0
CLOSING_S = 5.0
_CLOSING = "CLOSING"
_FROM_GRPC_ITSELF = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
Say = Callable[[str], None]


class Source:
    """Its entry on the board has the problem in words, empty while all is well. `follow` follows for ever; it is given a function
    by which it says that it follows, or what keeps it from that."""

    def __init__(self, name: str, follow: Callable[[Say], Awaitable[None]], board: Board, clock: Clock) -> None:
        self._name = name
        self._follow = follow
        self._board = board
        self._clock = clock
        self.say("connecting")

    def worker(self) -> Worker:
        """Runs `follow`, which is started again after a growing pause whenever it ends."""
        return Worker(Progress(f"page: {self._name}"), self._run)

    def say(self, problem: str) -> None:
        """The problem, for people; empty: all is well."""
        self._board.put(Part.SOURCES, {self._name: json.dumps({"name": self._name, "problem": problem})})

    async def _run(self) -> None:
        try:
            await self._follow(self.say)
        except grpc.RpcError as error:
            failure = from_rpc(error)
            self.say(in_words(failure))
            if failure.reason == _CLOSING:  # on purpose, no failure: often this process stops, too
                await self._clock.sleep(CLOSING_S)
            raise failure from None
        except WaterError as error:
            self.say(in_words(error))
            raise
        except Exception:
            self.say("internal error of the page's server; its log has the details")
            raise
        self.say("the stream ended")
        raise Unavailable(f"the stream of {self._name} ended")


def in_words(error: WaterError) -> str:
    """One line for the page."""
    match error:
        case Unsupported():
            return "not served"
        case Unavailable() if error.reason == _CLOSING:
            return "the services stop; trying again"
        case Unavailable() if error.reason in _FROM_GRPC_ITSELF:
            return "the services do not answer; trying again"
        case _:
            return " ".join(error.message.split())[:300]
