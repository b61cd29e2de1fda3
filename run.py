#!/usr/bin/env python3
"""The two commands: `python3 run.py demo` and `python3 run.py tests`.

Needs Python 3.11 or newer and a package index, nothing else. Everything is installed into
`.environments/` in this folder; delete that folder to start over.
"""

import glob
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.abspath(__file__))
ENVIRONMENTS = os.path.join(ROOT, ".environments")
LEAST = (3, 11)
INTERRUPTED = 130
USAGE = """usage: python3 run.py demo [--in-process | --production | --servers] [--no-serve] [--port PORT]
       python3 run.py tests [-e ENVIRONMENT,...] [-- PYTEST ARGUMENTS]"""


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
    if "--servers" in arguments:
        python = environment("demo-servers", ["--editable", ".", *dependency_group("servers")])
    else:
        python = environment("demo", ["--editable", "."])
    return call([python, os.path.join("example", "manage.py"), "demo", *arguments])


def tests(arguments):
    python = environment("tests", ["tox>=4.20"])
    results = os.path.join(ENVIRONMENTS, "results.json")
    for old in [results, *glob.glob(os.path.join(".tox", "*", "tests.json"))]:
        if os.path.exists(old):
            os.remove(old)
    command = [python, "-m", "tox", "run-parallel", "--parallel", "auto"]
    command += ["--parallel-no-spinner", "--result-json", results]
    command += ["--discover", *interpreters()]
    listed = [] if "-e" in arguments else listed_environments(python)
    chosen = ["-e", ",".join(listed)] if listed else []
    started = time.monotonic()
    status = call([*command, *chosen, *arguments], stdin=subprocess.DEVNULL)
    if status == INTERRUPTED:
        return status
    return summarise(results, status, time.monotonic() - started, listed)


def call(command, **options):
    """Run *command* to its end. Ctrl-C reaches it as well as us: let it end in its own way."""
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
    """Make the virtual environment *name* with *requirements*; returns its interpreter."""
    folder = os.path.join(ENVIRONMENTS, name)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = os.path.join(folder, scripts, "python.exe" if os.name == "nt" else "python")
    marker = os.path.join(folder, "complete")
    with open("pyproject.toml", "rb") as file:
        wanted = hashlib.sha256(repr((sys.version, requirements)).encode() + file.read())
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
    """What pyproject.toml lists under *name*; pip itself reads groups only since 25.1."""
    import tomllib  # noqa: PLC0415 - an older Python must get as far as our own message

    with open("pyproject.toml", "rb") as file:
        return tomllib.load(file)["dependency-groups"][name]


def create(folder, python):
    """A virtual environment, also where Python was packaged without `ensurepip`."""
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
            "This Python can make no virtual environment:\n%s\nOn Debian and Ubuntu: "
            "apt install python3-venv" % (made.stdout + made.stderr).strip()
        )
    )


def install(python, requirements):
    """Install *requirements* and say what is coming in as it comes."""
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
    """Interpreters that pyenv keeps, whether or not it shows them to this shell."""
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
    """What tox.ini lists, and the interpreter that runs this if it does not list that one."""
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


def summarise(path, status, seconds, listed):
    """Print what ran on what, what was skipped and why; returns the exit status.

    *listed* is what should have run; empty if the caller chose environments by hand.
    """
    try:
        with open(path) as file:
            environments = json.load(file)["testenvs"]
            environments = {
                name: details
                for name, details in environments.items()
                if name in listed or ("result" in details and not listed)
            }
    except (OSError, ValueError, KeyError):
        return fail("tox left no results.")
    total = {"passed": 0, "failed": 0, "skipped": 0}
    tested, reasons = set(), {}
    print("\n%-16s %-9s %-8s %-12s %s" % ("environment", "Python", "Django", "database", "result"))
    for name, details in sorted(environments.items()):
        report = read_report(name)
        words, counts = outcome(details, report)
        for key, count in counts.items():
            total[key] += count
        if report:
            tested.add(tuple(report["python"].split(".")[:2]))
            for one in report["skipped"]:
                reasons.setdefault(one["reason"], set()).add(name)
        columns = report or {"python": version_of(details), "django": "-", "databases": ["-"]}
        database = ", ".join(columns["databases"])
        line = (name, columns["python"], columns["django"], database, words)
        print("%-16s %-9s %-8s %-12s %s" % line)
    for reason, names in sorted(reasons.items()):
        print("skipped in %s: %s" % (", ".join(sorted(names)), reason))
    if listed and tuple(sys.version.split(".")[:2]) not in tested:
        status = fail("The tests did not run on this interpreter, %s." % sys.version)
    if total["failed"] or (listed and not total["passed"]):
        status = status or 1
    if status:
        total["failed"] = max(total["failed"], 1)
    print("took %d s, exit status %d" % (seconds, status))
    print("%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % total, flush=True)
    return status


def outcome(details, report):
    """One environment's result in words, and what it adds to the totals."""
    if "result" not in details or not details.get("python"):
        return "skipped: this interpreter was not found", {"skipped": 1}
    ok = bool(details["result"].get("success"))
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
