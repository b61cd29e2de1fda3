"""Durations in words, in the same form on pages, in commands and in messages."""

from datetime import timedelta


def in_words(duration: timedelta) -> str:
    """``250 ms``, ``1.5 s``, ``45 s``, ``3 min``, ``5 h``, ``2 d``.

    Rounded, in the largest unit that gives exactly one or at least two: ``1 h``, but ``90 min``.
    Negative durations are ``0 ms``.
    """
    seconds = max(0.0, duration.total_seconds())
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for unit, size, smaller in (("d", 86400, 3600), ("h", 3600, 60), ("min", 60, 1)):
        rounded = round(seconds / smaller) * smaller
        if rounded == size or rounded >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
