#!/usr/bin/env python3
"""The two commands: `python3 run.py demo` and `python3 run.py tests`.

Needs Python 3.11 or newer and a package index, nothing else. Everything is installed into
`.environments/` in this folder; delete that folder to start over.
"""

import collections
import glob
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.abspath(__file__))
ENVIRONMENTS = os.path.join(ROOT, ".environments")
LEAST = (3, 11)
INTERRUPTED = 130
LOGS = os.path.join(ENVIRONMENTS, "logs")
"""The latest output of each environment of `tests`, one file each."""
ALONE = ("bench",)
"""Environments that measure: they run alone, and their output is shown."""
WAITING = ("reliability",)
"""Environments that mostly wait: they do not count against the limit."""
SILENCE = 60
"""After so many seconds without output, the running environments are listed."""
USAGE = """usage: python3 run.py demo [--in-process | --production | --servers]
                          [--no-serve] [--port PORT]
       python3 run.py tests [-e ENVIRONMENT,...] [-p PARALLEL] [-- PYTEST ARGUMENTS]"""


def main(arguments):
    if sys.version_info < LEAST:
        return fail(
            "This is Python %s, and general_manager needs %s or newer. Run this file with one, "
            "for example: python3.13 run.py demo"
            % (".".join(map(str, sys.version_info[:3])), ".".join(map(str, LEAST)))
        )
    os.chdir(ROOT)
    if set(arguments[1:2]) & {"-h", "--help"}:
        arguments = ["--help"]
    if arguments[:1] == ["demo"]:
        return demo(arguments[1:])
    if arguments[:1] == ["tests"]:
        return tests(arguments[1:])
    print(USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
    return 0 if arguments[:1] in (["-h"], ["--help"]) else 2


def demo(arguments):
    package = ["--editable", ".[schedules]"]
    if "--servers" in arguments:
        python = environment("demo-servers", [*package, *dependency_group("servers")])
    else:
        python = environment("demo", package)
    return call([python, os.path.join("example", "manage.py"), "demo", *arguments])


def tests(arguments):
    try:
        chosen, parallel, options = parse_tests(arguments)
    except ValueError as error:
        print("%s\n%s" % (error, USAGE), file=sys.stderr)
        return 2
    constraints = ["--constraint", os.path.join("requirements", "ci.txt")]
    python = environment("tests", [*constraints, *dependency_group("tox")])
    for old in glob.glob(os.path.join(".tox", "*", "tests.json")):
        os.remove(old)
    shutil.rmtree(LOGS, ignore_errors=True)
    os.makedirs(LOGS)
    listed = [] if chosen else listed_environments(python)
    tox = [python, "-m", "tox", "run", "--discover", *interpreters()]
    scheduler = Scheduler(tox, ["--installpkg", wheel(python), *options], parallel)
    started = time.monotonic()
    statuses = scheduler.run(chosen or listed)
    if scheduler.is_stopped:
        return fail("Interrupted.") and INTERRUPTED
    return summarise(statuses, time.monotonic() - started, listed)


def parse_tests(arguments):
    """The chosen environments, how many may run at once, and the arguments for tox."""
    chosen, parallel, options = [], os.cpu_count() or 1, []
    left = collections.deque(arguments)
    while left and left[0] != "--":
        name, is_joined, value = left.popleft().partition("=")
        if name not in ("-e", "-p", "--parallel"):
            options.append(name + is_joined + value)
            continue
        if not is_joined and not left:
            raise ValueError("%s needs a value." % name)
        value = value if is_joined else left.popleft()
        if name == "-e":
            chosen += [one for one in value.replace(",", " ").split() if one not in chosen]
        elif value != "auto":
            if not value.isdecimal() or not int(value):
                raise ValueError("%s takes a whole number of at least 1, not %r." % (name, value))
            parallel = int(value)
    return chosen, parallel, options + list(left)


class Scheduler:
    """Runs tox for up to *parallel* environments at once, and reports progress.

    The output of an environment goes to a file in `LOGS`. It is shown live if the environment runs
    alone, and at the end if it failed.
    """

    def __init__(self, tox, options, parallel):
        self.tox, self.options, self.parallel = tox, options, parallel
        self.is_stopped = False
        self.statuses = {}
        self.running = {}
        self.ended = queue.Queue()
        self.began = time.monotonic()

    def run(self, names):
        """The exit status of each environment that ended."""
        # Ctrl-C also reaches the environments: let them end on their own.
        signal.signal(signal.SIGINT, self.stop_starting)
        signal.signal(signal.SIGTERM, self.stop)
        together = [name for name in names if name not in ALONE]
        self.run_together(together, min(self.parallel, len(together)))
        for name in names:
            if name in ALONE:
                self.run_together([name], 1)
        return self.statuses

    def run_together(self, names, parallel):
        waiting = collections.deque(names)
        is_live = len(names) == 1
        while self.running or (waiting and not self.is_stopped):
            while waiting and not self.is_stopped and self.has_place(parallel):
                self.start(waiting.popleft(), is_live)
            self.settle(is_live)

    def has_place(self, parallel):
        return len([name for name in self.running if name not in WAITING]) < parallel

    def start(self, name, is_live):
        result = ["--result-json", os.path.join(LOGS, name + ".json")]
        anew = ["--recreate"] if is_outdated(name) else []
        # tox passes arguments after `--` to pytest, so its own options come first.
        command = [*self.tox, "-e", name, *result, *anew, *self.options]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.running[name] = (process, time.monotonic())
        self.say("%s: started" % name)
        threading.Thread(target=self.copy, args=(name, process, is_live), daemon=True).start()

    def copy(self, name, process, is_live):
        """Write the environment's output to its file, and to the terminal if it *is_live*."""
        try:
            with process.stdout as lines, open(log_of(name), "wb") as file:
                for line in lines:
                    file.write(line)
                    file.flush()
                    if is_live:
                        show(line)
        finally:
            process.wait()
            self.ended.put(name)

    def settle(self, is_live):
        try:
            name = self.ended.get(timeout=SILENCE)
        except queue.Empty:
            now = time.monotonic()
            still = ["%s (%d s)" % (name, now - at) for name, (_, at) in self.running.items()]
            self.say("still running: %s" % ", ".join(still))
            return
        process, at = self.running.pop(name)
        word = ending(name, process.returncode)
        if word == "FAILED" and not is_live:
            with open(log_of(name), "rb") as file:
                for line in file:
                    show(line)
        if not self.is_stopped:
            keep_pins(name)
            self.statuses[name] = process.returncode
        self.say("%s: %s in %d s" % (name, word, time.monotonic() - at))

    def stop_starting(self, *_):
        self.is_stopped = True

    def stop(self, *_):
        self.is_stopped = True
        for process, _ in self.running.values():
            process.terminate()

    def say(self, words):
        print("[%4d s] %s" % (time.monotonic() - self.began, words), flush=True)


def pins():
    """A digest of requirements/, which tox itself does not watch."""
    found = hashlib.sha256()
    for path in sorted(glob.glob(os.path.join("requirements", "*.txt"))):
        with open(path, "rb") as file:
            found.update(file.read())
    return found.hexdigest()


def is_outdated(name):
    """Whether the environment was created from other pins than the current ones."""
    folder = os.path.join(".tox", name)
    try:
        with open(os.path.join(folder, "pins")) as file:
            return file.read() != pins()
    except OSError:
        return os.path.isdir(folder)


def keep_pins(name):
    folder = os.path.join(".tox", name)
    if os.path.isdir(folder):
        with open(os.path.join(folder, "pins"), "w") as file:
            file.write(pins())


def show(line):
    """Another process's output as text, whatever its encoding and our terminal's."""
    encoding = sys.stdout.encoding or "utf-8"
    text = line.decode("utf-8", "replace").encode(encoding, "replace").decode(encoding)
    sys.stdout.write(text.replace("\r\n", "\n"))
    sys.stdout.flush()


def ending(name, status):
    """The environment's result in one word: tox's status alone counts skipped as failed."""
    if was_skipped(name):
        return "skipped"
    return "FAILED" if status else "passed"


def was_skipped(name):
    """Whether tox found no interpreter for it."""
    details = read_details(name)
    return details is not None and "result" not in details and not details.get("python")


def log_of(name):
    return os.path.join(LOGS, name + ".txt")


def read_details(name):
    """The result that tox reports for the environment, or `None` if it did not get that far."""
    try:
        with open(os.path.join(LOGS, name + ".json")) as file:
            return json.load(file)["testenvs"].get(name)
    except (OSError, ValueError, KeyError):
        return None


def wheel(python):
    """Build the package once for all environments. Returns the file."""
    folder = os.path.join(ENVIRONMENTS, "wheel")
    shutil.rmtree(folder, ignore_errors=True)
    command = [python, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    # Newer versions of pip read the first one for build requirements, older ones the second.
    pinned = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), "requirements/ci.txt")
    status = call([*command, "--no-deps", "--wheel-dir", folder, "."], env={**os.environ, **pinned})
    if status:
        raise SystemExit(
            fail("The package could not be built.") if status != INTERRUPTED else status
        )
    return os.path.join(folder, os.listdir(folder)[0])


def call(command, **options):
    """Run *command* to its end. Ctrl-C also reaches it: let it end on its own."""
    interrupted = False
    with subprocess.Popen(command, **options) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            try:
                status = process.wait()
            except KeyboardInterrupt:
                interrupted = True
                continue
            return INTERRUPTED if interrupted and status else status


def environment(name, requirements):
    """Create the virtual environment *name* with *requirements*. Returns its interpreter."""
    folder = os.path.join(ENVIRONMENTS, name)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = os.path.join(folder, scripts, "python.exe" if os.name == "nt" else "python")
    marker = os.path.join(folder, "complete")
    wanted = hashlib.sha256(repr((sys.version, requirements)).encode())
    for path in ["pyproject.toml", *filter(os.path.isfile, requirements)]:
        with open(path, "rb") as file:
            wanted.update(file.read())
    if os.path.exists(marker):
        with open(marker) as file:
            if file.read() == wanted.hexdigest():
                return python
    print("Preparing .environments/%s with Python %s" % (name, sys.version.split()[0]), flush=True)
    create(folder, python)
    install(python, requirements)
    with open(marker, "w") as file:
        file.write(wanted.hexdigest())
    return python


def dependency_group(name):
    """The dependency group *name* of pyproject.toml; pip reads groups only since 25.1."""
    import tomllib  # noqa: PLC0415 - an older Python must reach our own message

    with open("pyproject.toml", "rb") as file:
        return tomllib.load(file)["dependency-groups"][name]


def create(folder, python):
    """Create a virtual environment, even if Python is packaged without `ensurepip`."""
    command = [sys.executable, "-m", "venv", "--clear"]
    made = subprocess.run([*command, folder], capture_output=True, text=True)
    if made.returncode == 0:
        return
    bare = subprocess.run([*command, "--without-pip", folder], capture_output=True, text=True)
    if bare.returncode == 0:
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"]
        if subprocess.run(pip, capture_output=True).returncode == 0:
            return
    raise SystemExit(
        fail(
            "This Python cannot create a virtual environment:\n%s\nOn Debian and Ubuntu: "
            "apt install python3-venv" % (made.stdout + made.stderr).strip()
        )
    )


def install(python, requirements):
    """Install *requirements* and show progress."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", *requirements]
    said = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        for line in pip.stdout:
            said.append(line)
            word = line.split(" ", 1)[0]
            if word in ("Collecting", "Obtaining", "Installing", "Building"):
                print("  " + line.strip()[:100], flush=True)
    if pip.returncode:
        raise SystemExit(fail("Installing failed:\n" + "".join(said[-20:])))


def interpreters():
    """Interpreters installed by pyenv, even if they are not on this shell's path."""
    roots = [os.environ.get("PYENV_ROOT", ""), os.path.expanduser("~/.pyenv")]
    roots += [
        os.path.dirname(entry)
        for entry in os.environ.get("PATH", "").split(os.pathsep)
        if os.path.basename(entry) == "shims"
    ]
    found = [sys.executable]
    for root in filter(None, roots):
        found += sorted(glob.glob(os.path.join(root, "versions", "3.1[1-9]*", "bin", "python3")))
    return list(dict.fromkeys(found))


def listed_environments(python):
    """The environments in tox.ini, plus the current interpreter if it is not listed."""
    listed = subprocess.run(
        [python, "-m", "tox", "list", "-d", "--no-desc", "-q"], capture_output=True, text=True
    )
    if listed.returncode:
        raise SystemExit(fail(listed.stdout + listed.stderr))
    names = listed.stdout.split()
    own = "py%d%d-" % sys.version_info[:2]
    if not any(name.startswith(own) for name in names):
        names.append(own + "django61")
    return names


def summarise(statuses, seconds, listed):
    """Print the results, and what was skipped and why. Returns the exit status.

    *statuses* are tox's, by environment. *listed* are the environments that should have run; empty
    if the caller chose them.
    """
    reports = {name: read_report(name) for name in statuses}
    ends = {name: ending(name, status) for name, status in statuses.items()}
    total = print_table(ends, reports)
    tested = {tuple(one["python"].split(".")[:2]) for one in reports.values() if one}
    status = 0
    if listed and tuple(sys.version.split(".")[:2]) not in tested:
        status = fail("The tests did not run on this interpreter, %s." % sys.version)
    if total["failed"] or set(ends.values()) <= {"skipped"} or (listed and not total["passed"]):
        status = 1
    if status:
        total["failed"] = max(total["failed"], 1)
    with open(os.path.join(ENVIRONMENTS, "results.json"), "w") as file:
        details = {name: read_details(name) or {} for name in ends}
        json.dump({"testenvs": details, "endings": ends, "total": total}, file, indent=1)
    for name in sorted(set(ends) & set(ALONE)):
        print("the figures of %s are in %s" % (name, os.path.relpath(log_of(name))))
    print("took %d s, exit status %d" % (seconds, status))
    print("%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % total, flush=True)
    return status


def print_table(ends, reports):
    """Print a line for each environment, the reasons for skips, and the totals."""
    total = {"passed": 0, "failed": 0, "skipped": 0}
    reasons = {}
    print("\n%-16s %-9s %-8s %-12s %s" % ("environment", "Python", "Django", "database", "result"))
    for name, report in sorted(reports.items()):
        words, counts = outcome(ends[name], report)
        for key, count in counts.items():
            total[key] += count
        for one in report["skipped"] if report else []:
            reasons.setdefault(one["reason"], set()).add(name)
        python = version_of(read_details(name) or {})
        columns = report or {"python": python, "django": "-", "databases": ["-"]}
        database = ", ".join(columns["databases"])
        line = (name, columns["python"], columns["django"], database, words)
        print("%-16s %-9s %-8s %-12s %s" % line)
    for reason, names in sorted(reasons.items()):
        print("skipped in %s: %s" % (", ".join(sorted(names)), reason))
    return total


def outcome(ended, report):
    """One environment's result in words, and its contribution to the totals."""
    if ended == "skipped":
        return "skipped: this interpreter was not found", {"skipped": 1}
    ok = ended == "passed"
    if not report:
        return ("passed", {"passed": 1}) if ok else ("FAILED", {"failed": 1})
    counts = report["counts"]
    failed = counts["failed"] + counts["error"]
    words = "%d passed, %d failed, %d skipped" % (counts["passed"], failed, counts["skipped"])
    if counts["xfailed"]:
        words += ", %d known to fail" % counts["xfailed"]
    if not ok:
        words, failed = words + "  FAILED", max(failed, 1)
    return words, {"passed": counts["passed"], "failed": failed, "skipped": counts["skipped"]}


def version_of(details):
    return (details.get("python") or {}).get("version", "-").split()[0]


def read_report(name):
    try:
        with open(os.path.join(".tox", name, "tests.json")) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def fail(message):
    print(message, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
