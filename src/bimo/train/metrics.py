"""`metrics.jsonl`: what happened in a run, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bimo.files import read_metrics, replacing

__all__ = ["Metrics"]


class Metrics:
    """Appends events to a file; each line is flushed, so that little is lost when the process dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: dict[str, Any]) -> None:
        """Add one event, such as {"event": "step", "step": 10, "loss": 3.2}."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")

    def forget_after(self, step: int) -> None:
        """Take out what a run wrote beyond the checkpoint from which it is resumed."""
        if self.path.is_file():
            kept = [event for event in read_metrics(self.path) if event["step"] <= step]
            with replacing(self.path) as part:
                part.write_text("".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept), "utf-8")
