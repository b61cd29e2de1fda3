"""run.py's `tests`: what it prints while environments run, and what it makes of their results."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run

CHECKOUT = Path(__file__).parents[2]
FAKE_TOX = """
import json, pathlib, sys, time
left = sys.argv[1:]
name, result = left[left.index("-e") + 1], left[left.index("--result-json") + 1]
folder = pathlib.Path.cwd()
kind, _, seconds = name.partition("-")
(folder / f"{name}.began").write_text(str(time.monotonic()))
print(f"output of {name} \\N{SNOWMAN}".encode(errors="replace").decode(), flush=True)
print(left[left.index("--") + 1:] if "--" in left else [], flush=True)
try:
    time.sleep(float(seconds or 0))
except KeyboardInterrupt:
    print("stopped in order", flush=True)
    sys.exit(2)
details = {"python": {"version": "3.13.0 (main)"}, "result": {"success": kind == "good"}}
if kind == "absent":
    details = {"description": "x"}
if kind != "broken":
    pathlib.Path(result).write_text(json.dumps({"testenvs": {name: details}}))
(folder / f"{name}.ended").write_text(str(time.monotonic()))
sys.exit(kind not in ("good", "bench"))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "ENVIRONMENTS", str(tmp_path))
    monkeypatch.setattr(run, "LOGS", str(tmp_path / "logs"))
    (tmp_path / "logs").mkdir()
    (tmp_path / "fake_tox.py").write_text(FAKE_TOX)
    return tmp_path


def scheduled(folder, *names, parallel=2, options=()):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    scheduler = run.Scheduler([sys.executable, str(folder / "fake_tox.py")], options, parallel)
    try:
        return scheduler.run(names)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def span(folder, name):
    return tuple(float((folder / f"{name}.{end}").read_text()) for end in ("began", "ended"))


def test_each_environment_is_shown_as_it_starts_and_as_it_ends_with_its_time(folder, capsys):
    scheduled(folder, "good-0.1", "bad", "absent")
    said = capsys.readouterr().out
    for name, word in (("good-0.1", "passed"), ("bad", "FAILED"), ("absent", "skipped")):
        assert f"s] {name}: started\n" in said
        assert re.search(rf"s\] {name}: {word} in \d+ s\n", said)


def test_what_a_failed_environment_printed_is_shown_and_what_a_good_one_printed_is_kept(
    folder, capsys
):
    scheduled(folder, "good", "bad")
    said = capsys.readouterr().out
    assert "output of bad" in said
    assert "output of good" not in said
    assert "output of good" in (folder / "logs" / "good.txt").read_text()


def test_what_one_environment_alone_prints_is_shown_as_it_comes(folder, capsys):
    scheduled(folder, "good")
    said = capsys.readouterr().out
    assert said.index("started") < said.index("output of good") < said.index("passed")


def test_environments_run_beside_each_other_as_many_as_are_allowed(folder):
    scheduled(folder, "good-0.5", "good-0.51", "good-0.52", parallel=2)
    first, second, third = (span(folder, f"good-0.5{end}") for end in ("", "1", "2"))
    assert max(first[0], second[0]) < min(first[1], second[1])
    assert third[0] > min(first[1], second[1])


def test_an_environment_that_mostly_waits_takes_no_place(folder, monkeypatch):
    monkeypatch.setattr(run, "WAITING", ("good-0.6",))
    scheduled(folder, "good-0.6", "good-0.5", parallel=1)
    assert span(folder, "good-0.5")[0] < span(folder, "good-0.6")[1]


def test_benchmarks_run_beside_nothing_and_are_shown(folder, capsys):
    scheduled(folder, "bench", "good-0.3", "good-0.31", parallel=3)
    bench = span(folder, "bench")
    assert bench[0] >= max(span(folder, name)[1] for name in ("good-0.3", "good-0.31"))
    assert "output of bench" in capsys.readouterr().out


def test_the_file_with_the_figures_is_named(folder, capsys):
    statuses = scheduled(folder, "bench")
    run.summarise(statuses, 1, [])
    assert "the figures of bench are in logs/bench.txt" in capsys.readouterr().out
    assert "output of bench" in (folder / "logs" / "bench.txt").read_text()


def test_an_environment_that_fails_makes_the_whole_fail(folder, capsys):
    assert run.summarise(scheduled(folder, "good", "bad"), 1, []) == 1
    assert capsys.readouterr().out.endswith("1 passed, 1 failed, 0 skipped\n")


def test_an_environment_of_which_tox_says_nothing_has_failed(folder, capsys):
    assert run.summarise(scheduled(folder, "good", "broken"), 1, []) == 1
    assert "1 passed, 1 failed, 0 skipped" in capsys.readouterr().out


def test_an_interpreter_that_is_absent_is_skipped_and_not_failed(folder, capsys):
    assert run.summarise(scheduled(folder, "good", "absent"), 1, []) == 0
    assert "1 passed, 0 failed, 1 skipped" in capsys.readouterr().out


def test_nothing_but_absent_interpreters_is_a_failure(folder):
    assert run.summarise(scheduled(folder, "absent"), 1, []) == 1


def test_a_whole_run_that_left_out_this_interpreter_is_a_failure(folder, capsys):
    assert run.summarise(scheduled(folder, "good"), 1, ["good"]) == 1
    assert "did not run on this interpreter" in capsys.readouterr().err


def test_the_results_are_left_for_machines(folder):
    run.summarise(scheduled(folder, "good", "bad"), 1, [])
    results = json.loads((folder / "results.json").read_text())
    assert results["endings"] == {"good": "passed", "bad": "FAILED"}
    assert results["total"] == {"passed": 1, "failed": 1, "skipped": 0}
    assert results["testenvs"]["good"]["result"] == {"success": True}


def test_what_follows_the_dashes_is_given_to_pytest(folder, capsys):
    scheduled(folder, "good", options=["--", "-k", "encoding"])
    assert "['-k', 'encoding']" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ([], os.cpu_count(), [])),
        (["-e", "lint,types", "-e=docs"], (["lint", "types", "docs"], os.cpu_count(), [])),
        (["-p", "3", "-r"], ([], 3, ["-r"])),
        (["-e", "lint", "--", "-e", "x"], (["lint"], os.cpu_count(), ["--", "-e", "x"])),
    ],
)
def test_arguments_are_ours_tox_s_or_pytest_s(arguments, expected):
    assert run.parse_tests(arguments) == expected


@pytest.mark.parametrize("arguments", [["-e"], ["-p", "0"], ["-p", "many"]])
def test_wrong_arguments_are_refused_in_words(arguments, capsys):
    assert run.tests(arguments) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX")
@pytest.mark.parametrize("by_terminal", [True, False])
def test_an_interruption_lets_what_runs_end_and_starts_nothing_more(folder, by_terminal):
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import run; run.LOGS = 'logs'\n"
        "scheduler = run.Scheduler([sys.executable, 'fake_tox.py'], [], 1)\n"
        "scheduler.run(['good-60', 'good-61']); sys.exit(scheduler.is_stopped and 130)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, start_new_session=True, stdout=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 30
        while (
            not (folder / "logs" / "good-60.txt").exists()
            or not (folder / "logs" / "good-60.txt").read_text()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if by_terminal:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        assert process.wait(30) == 130
    assert not (folder / "good-61.began").exists()
    assert not (folder / "good-60.ended").exists()
    if by_terminal:
        assert "stopped in order" in (folder / "logs" / "good-60.txt").read_text()
