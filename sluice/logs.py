"""Structured logs on standard error: a line a record, as text or as JSON."""

import json
import logging
import logging.config
from datetime import UTC, datetime

# What every record has; anything else was given as `extra` and belongs to the line.
PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def moment(record: logging.LogRecord) -> str:
    """When a record was made, in UTC with milliseconds."""
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in PLAIN}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """Time, level, message, then name=value for what came as extra."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = f"{moment(record)} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        line += "".join(f" {name}={value!r}" for name, value in extras(record).items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def is_wanted(record: logging.LogRecord) -> bool:
    """All but the server's advice to use fewer threads: ours mostly wait for upstream."""
    return "Configuration allows spawning up to" not in record.getMessage()


def config(style: str, level: str) -> dict[str, object]:
    """The dictConfig for a process; the server's own messages only from warnings up."""
    server = level.upper() if level == "debug" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonLines if style == "json" else TextLines}},
        "filters": {"wanted": {"()": lambda: is_wanted}},
        "handlers": {
            "stderr": {
                "filters": ["wanted"],
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {
            "_granian": {"level": server, "handlers": ["stderr"], "propagate": False},
            "granian.access": {"level": server, "handlers": ["stderr"], "propagate": False},
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
    }


def set_up(style: str, level: str) -> None:
    """Log to standard error from here on.

    Args:
        style: "text" or "json".
        level: "debug", "info", "warning" or "error".
    """
    logging.config.dictConfig(config(style, level))
