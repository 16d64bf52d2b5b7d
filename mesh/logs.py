"""How this process logs: one JSON object a line, or colours for a person at a terminal; secrets never."""

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

HIDDEN = "***"
_SECRET_NAME = re.compile(r"password|passwd|secret|token|credential|private_?key|authorization", re.IGNORECASE)
_ADDRESS_SECRET = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*(?=@)")
_NAMED_SECRET = re.compile(r"((?:password|passwd|secret|api_?token|api_?key)['\"]?\s*[=:]\s*['\"]?)[^\s'\",;}]+", re.IGNORECASE)


def setup_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends our events, and those of libraries, to `stream` (stderr unless given). May be called again; the last call counts."""
    stream = stream or sys.stderr
    lowest = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = structlog.processors.JSONRenderer(default=str)
    if stream.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            hide_secrets,
            renderer,
        ],
    )
    handler.setFormatter(formatter)
    logging.getLogger("alembic").setLevel(max(lowest, logging.WARNING))  # each revision is told by `wq migrate` itself
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(lowest)


def hide_secrets(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replaces values whose name says secret, and passwords inside texts such as database addresses."""
    return {name: HIDDEN if _SECRET_NAME.search(name) else _without_secrets(value) for name, value in event.items()}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return _NAMED_SECRET.sub(rf"\1{HIDDEN}", _ADDRESS_SECRET.sub(HIDDEN, value))
    if isinstance(value, dict):
        return {key: HIDDEN if _SECRET_NAME.search(str(key)) else _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value]
    return value
