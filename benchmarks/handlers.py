"""What the benchmarks run, in a module that workers can import."""

from typing import Any


def handle(_: dict[str, Any]) -> dict[str, Any]:
    return {"ok": True}
