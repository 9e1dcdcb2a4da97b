"""A JSON log line, as a person wants to read it."""

import json

# Said already by the place of the line, or of no use on a screen; the log file keeps them.
_HIDDEN = {"event", "timestamp", "level", "logger", "exception", "stack"}
_WORTH_NAMING = {"warning", "error", "critical"}


def readable(line: str) -> str:
    """``{"event": "job queued", "job_id": "7"}`` becomes ``job queued  job_id=7``."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    level = entry.get("level")
    words = [f"{level.upper()}: " if level in _WORTH_NAMING else "", str(entry["event"])]
    fields = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _HIDDEN)
    return "".join(words) + (f"  {fields}" if fields else "") + _exception(entry.get("exception"))


def _exception(value: object) -> str:
    """The innermost sentence of a traceback, which structlog writes as text or as a list."""
    if isinstance(value, str):
        return "  " + value.strip().rsplit("\n", 1)[-1]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"  {value[0].get('exc_type')}: {value[0].get('exc_value')}"
    return ""
