"""A server that gives prepared answers and keeps the questions, for commands that only ask and show."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from waterquality.v1 import archive_pb2, catalog_pb2, ledger_pb2, query_pb2

from mesh.errors import WaterError, to_status
from mesh.server import STATUS_DETAILS

_FILES = {"Query": query_pb2, "Catalog": catalog_pb2, "Ledger": ledger_pb2, "Archive": archive_pb2}


class AnsweringMesh:
    """Serves inside `with`. `answers`: by method name the answers in turn, the last again and again; an error is one too."""

    def __init__(self, **answers: Sequence[Message | WaterError]) -> None:
        self._answers = {name: list(each) for name, each in answers.items()}
        self.asked: list[Any] = []
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self.target = ""

    def __enter__(self) -> Self:
        for service, file in _FILES.items():
            methods = file.DESCRIPTOR.services_by_name[f"{service}Service"].methods
            handlers = {method.name: self._handler(method.name, file) for method in methods}
            generic = grpc.method_handlers_generic_handler(f"waterquality.v1.{service}Service", handlers)
            self._server.add_generic_rpc_handlers((generic,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop(0).wait()

    def _handler(self, name: str, file: Any) -> Any:
        read = getattr(file, f"{name}Request").FromString
        write = getattr(file, f"{name}Response").SerializeToString

        def one(request: Any, context: Any) -> Any:
            self.asked.append(request)
            return self._next(name, context)

        def many(request: Any, context: Any) -> Iterator[Any]:
            self.asked.append(request)
            while self._answers[name]:
                answer = self._answers[name].pop(0)
                if isinstance(answer, WaterError):
                    self._end(answer, context)
                yield answer

        if name in ("WatchReadings", "StreamReadings", "VerifyArchive", "RestoreReadings"):
            return grpc.unary_stream_rpc_method_handler(many, read, write)
        return grpc.unary_unary_rpc_method_handler(one, read, write)

    def _next(self, name: str, context: Any) -> Message:
        answers = self._answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, WaterError):
            self._end(answer, context)
        assert isinstance(answer, Message)
        return answer

    def _end(self, error: WaterError, context: Any) -> None:
        context.set_trailing_metadata(((STATUS_DETAILS, to_status(error).SerializeToString()),))
        context.abort(error.code, error.message)
