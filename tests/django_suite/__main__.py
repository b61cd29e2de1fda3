"""Run Django's tests with every model tracked: ``python -m tests.django_suite SOURCE [LABEL ...]``.

SOURCE is an unpacked source distribution of the Django that is installed. ``--plain`` tracks
nothing, ``--oracle`` also compares each save and deletion with what was reported, ``--settings``
names one of the modules beside this one. Results go to the folder SUITE_OUTPUT.
"""

import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType

from tests.django_suite import oracle, recording, tracking

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = '    "django.contrib.staticfiles",\n]'
SET_UP = "    # Load all the ALWAYS_INSTALLED_APPS.\n    django.setup()\n"


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--oracle", action="store_true")
    parser.add_argument("--settings", default="tests.django_suite.sqlite_settings")
    parser.add_argument("--parallel", default="1")
    options, labels = parser.parse_known_args()
    folder = options.source.resolve() / "tests"
    path = folder / "runtests.py"
    recording.FOLDER = recording.FOLDER.resolve()
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(ROOT)]
    recording.record_results()
    recording.leave_counts_to_the_eye()
    if not options.plain:
        tracking.track_everything()
    if options.oracle:
        oracle.install()
    # runtests.py makes its settings itself: our app and our handlers come in between.
    text = path.read_text()
    for place in (INSTALLED, SET_UP):
        if text.count(place) != 1:
            raise SystemExit(f"{path} has no single {place!r} any more: adapt tests/django_suite")
    text = text.replace(INSTALLED, INSTALLED[:-1] + '    "general_manager",\n]')
    text = text.replace(SET_UP, SET_UP + "    suite.listen()\n")
    module = ModuleType("__main__")
    vars(module).update(__file__=str(path), suite=tracking)
    sys.modules["__main__"] = module
    sys.argv = [str(path), f"--settings={options.settings}", f"--parallel={options.parallel}"]
    sys.argv += labels
    exec(compile(text, path, "exec"), vars(module))


if __name__ == "__main__":
    main()
