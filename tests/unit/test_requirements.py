"""The pins that CI installs, against what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "requirements"
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PYTHONS = ("3.11", "3.12", "3.13")
TESTED = ("tests", "servers", "docs")
"""The dependency groups whose floors the environment `floors` installs."""


def pins(name, python="3.11"):
    found = {}
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        if not line.startswith("#"):
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"python_version": python}):
                (exact,) = one.specifier
                assert exact.operator == "=="
                found[canonicalize_name(one.name)] = exact.version
    return found


def asked_for(groups=None):
    project = PROJECT["project"]
    yield from project["dependencies"]
    for extra in project["optional-dependencies"].values():
        yield from extra
    for name, group in PROJECT["dependency-groups"].items():
        if groups is None or name in groups:
            yield from (one for one in group if isinstance(one, str))
    yield from PROJECT["build-system"]["requires"]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("django", ["django52", "django60", "django61"])
def test_everything_that_is_asked_for_is_pinned_to_a_version_that_is_allowed(python, django):
    found = {**pins("ci", python), **pins(django, python)}
    for one in map(Requirement, asked_for()):
        if one.marker is None or one.marker.evaluate({"python_version": python}):
            version = found[canonicalize_name(one.name)]
            assert one.specifier.contains(version), f"{one} is pinned to {version}"


@pytest.mark.parametrize(("django", "series"), [("52", "5.2."), ("60", "6.0."), ("61", "6.1.")])
def test_each_django_is_pinned_in_its_series(django, series):
    for python in ("3.12", "3.13"):
        assert pins(f"django{django}", python)["django"].startswith(series)
    assert pins(f"django{django}", "3.11")["django"].startswith("5.2.")  # Django 6 needs 3.12


def test_the_floors_that_are_tested_are_those_of_the_project():
    found = pins("floors")
    for one in map(Requirement, asked_for(TESTED)):
        (lowest,) = (spec.version for spec in one.specifier if spec.operator == ">=")
        pinned = found[canonicalize_name(one.name)]
        shorter = pinned.removesuffix(".0").removesuffix(".0")
        assert shorter == lowest.removesuffix(".0").removesuffix(".0"), f"{one}: {pinned}"


def test_pytest_s_own_floor_is_the_one_that_is_tested():
    lowest = PROJECT["tool"]["pytest"]["ini_options"]["minversion"]
    assert pins("floors")["pytest"].startswith(lowest)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.name)
def test_pins_name_no_host_and_no_file(path):
    for line in path.read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(
            r'[a-z0-9-]+==[\w.]+( ; python_version == "3\.\d+")?', line
        ), line


def test_pre_commit_runs_the_linter_that_ci_runs():
    hooks = (CHECKOUT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pins("ci")["ruff"]}
