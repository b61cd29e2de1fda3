"""How the benchmarks count, compare and print."""

from collections.abc import Callable, Sequence
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from django.db import connection

Pairs = Sequence[tuple[float, float]]
"""Rates of ours and of what stands beside it, round by round."""


def seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def rate(count: int, work: Callable[[], object]) -> float:
    """How many of *count* things a second *work* does."""
    return count / seconds(work)


def statements(work: Callable[[], object]) -> int:
    """How many statements *work* has the database run, without what opens a transaction."""
    count = 0

    def tally(execute: Any, sql: str, *arguments: Any) -> Any:
        nonlocal count
        count += not sql.startswith(("SAVEPOINT", "RELEASE", "BEGIN"))
        return execute(sql, *arguments)

    with connection.execute_wrapper(tally):
        work()
    return count


def show_pairs(what: str, pairs: Pairs, beside: str) -> None:
    ratio = median(one / other for one, other in pairs)
    one, other = (median(values) for values in zip(*pairs, strict=True))
    print(f"{what:<42} {one:8.0f} /s   {beside} {other:8.0f} /s   ratio {ratio:.2f}", flush=True)


def show_times(what: str, times: Sequence[float], wanted: str) -> None:
    """Median and 95th percentile of *times*, given in seconds."""
    high = quantiles(times, n=20)[-1]
    print(
        f"{what:<42} p50 {median(times) * 1e3:7.2f} ms   p95 {high * 1e3:7.2f} ms   ({wanted})",
        flush=True,
    )


def show(what: str, value: object, wanted: str = "") -> None:
    print(f"{what:<42} {value}{f'   ({wanted})' if wanted else ''}", flush=True)
