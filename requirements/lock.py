"""Writes the constraints beside this file: what CI installs, and the lowest versions we allow.

    python requirements/lock.py             # all, from the newest releases there are
    python requirements/lock.py --floors    # floors.txt only: pyproject.toml has a new floor

Needs Python 3.11, 3.12 and 3.13 on the machine (pyenv's are found), and pip's package index.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PYTHONS = ("3.11", "3.12", "3.13")
DJANGOS = {"django52": "Django~=5.2.0", "django60": "Django<6.1", "django61": "Django"}
"""What asks for Django in each file; for Python 3.11 all of them mean 5.2."""
WITHOUT_BEAT = ("django61",)  # django-celery-beat 2.9 installs only below Django 6.1
TESTED = ("tests", "docs")
"""The dependency groups whose floors are tested."""
EXTRAS = ("health", "metrics", "postgres", "redis", "schedules")

HELD = {"3.11": "soupsieve<4"}
"""By Python: what its first releases cannot install. Debian 12 has 3.11.2."""

Pins = dict[str, str]
"""Version by name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--floors", action="store_true", help="write floors.txt only")
    if not parser.parse_args().floors:
        write_locks()
    write_floors()


def read_project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(*, extras: Iterable[str], groups: Iterable[str] = ()) -> Iterator[str]:
    """What the package, its *extras* and the dependency *groups*, or all, ask for."""
    content = read_project()
    yield from content["project"]["dependencies"]
    for extra in extras:
        yield from content["project"]["optional-dependencies"][extra]
    for group in groups or content["dependency-groups"]:
        yield from in_group(content["dependency-groups"], group)
    yield from content["build-system"]["requires"]


def in_group(groups: dict[str, list[Any]], name: str) -> Iterator[str]:
    for one in groups[name]:
        if isinstance(one, str):
            yield one
        else:
            yield from in_group(groups, one["include-group"])


def floors() -> Pins:
    """The lowest version of everything that the environment `floors` installs by name."""
    found = {}
    for one in requirements(extras=(*EXTRAS, "beat"), groups=TESTED):
        match = re.match(r"([\w.-]+)(?:\[.*?\])?[>=]=([\w.]+)", one)
        if match is None:
            sys.exit(f"{one!r} in pyproject.toml has no floor.")
        found[canonical(match[1])] = match[2]
    return found


def write_floors() -> None:
    """Those, and whatever they bring along, as it is now."""
    lowest = [f"{name}=={version}" for name, version in floors().items()]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "floors.txt"
        constraints.write_text("\n".join(lowest))
        wanted = requirements(extras=(*EXTRAS, "beat"), groups=TESTED)
        pins = resolve(PYTHONS[0], [*wanted, "--constraint", str(constraints)])
    write("floors", dict.fromkeys(PYTHONS, pins), without=set())


def write_locks() -> None:
    resolved: dict[str, dict[str, Pins]] = defaultdict(dict)
    for python in PYTHONS:
        for django, asks in DJANGOS.items():
            print(f"Python {python}, {asks}", flush=True)
            extras = EXTRAS if django in WITHOUT_BEAT else (*EXTRAS, "beat")
            resolved[django][python] = resolve(python, [asks, *requirements(extras=extras)])
    of_django = set(differing(resolved))
    everywhere: dict[str, Pins] = {
        python: {
            name: version
            for pins in resolved.values()
            for name, version in pins[python].items()
            if name not in of_django
        }
        for python in PYTHONS
    }
    write("ci", everywhere, without=set())
    for django, by_python in resolved.items():
        write(django, by_python, without=set(everywhere[PYTHONS[0]]) - of_django, only=of_django)


def differing(resolved: dict[str, dict[str, Pins]]) -> Iterator[str]:
    """Names whose version depends on which Django is installed."""
    for python in PYTHONS:
        versions: dict[str, set[str]] = defaultdict(set)
        for pins in (by_python[python] for by_python in resolved.values()):
            for name, version in pins.items():
                versions[name].add(version)
        yield from (name for name, found in versions.items() if len(found) > 1)
    yield "django"


def write(
    name: str, by_python: dict[str, Pins], *, without: set[str], only: set[str] | None = None
) -> None:
    lines = []
    for package in sorted({one for pins in by_python.values() for one in pins} - without):
        if only is not None and package not in only:
            continue
        found = {python: pins[package] for python, pins in by_python.items() if package in pins}
        if len(set(found.values())) == 1 and len(found) == len(PYTHONS):
            lines.append(f"{package}=={found[PYTHONS[0]]}")
        else:
            lines += [
                f'{package}=={version} ; python_version == "{python}"'
                for python, version in found.items()
            ]
    text = "# Made by requirements/lock.py; see CONTRIBUTING.md.\n" + "\n".join(lines) + "\n"
    (HERE / f"{name}.txt").write_text(text)


def resolve(python: str, wanted: list[str]) -> Pins:
    """What pip would install for *wanted* on that Python, in an environment of nothing."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter(python), "-m", "venv", folder], check=True)
        pip = [str(Path(folder) / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        report, held = Path(folder) / "report.json", Path(folder) / "held.txt"
        held.write_text(HELD.get(python, ""))
        wanted = [*wanted, "--constraint", str(held)]
        command = [*pip, "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *wanted], check=True)
        metadata = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    return {canonical(one["name"]): one["version"] for one in metadata}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def interpreter(version: str) -> str:
    sys.path.insert(0, str(ROOT))
    from run import interpreters  # noqa: PLC0415 - run.py is a script that stands alone

    for path in interpreters():
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if said.stdout.strip() == version:
            return str(path)
    sys.exit(f"There is no Python {version} on this machine.")


if __name__ == "__main__":
    main()
