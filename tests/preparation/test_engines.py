# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import functools
import operator
import os
import signal
import subprocess
import sys
import time

import pytest

from hia_diffusers.preparation.engines import run_local, run_ray


WAITING = """
import functools, os, sys, time
from hia_diffusers.preparation.engines import run_local

def wait(folder, name):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(600)

def make():
    return functools.partial(wait, sys.argv[1])

if __name__ == "__main__":
    list(run_local(make, ["a", "b"], workers=2))
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_one_worker_is_this_process():
    made = []
    assert list(run_local(lambda: made.append(1) or str.upper, ["a", "b"])) == ["A", "B"]
    assert made == [1]


def test_an_exception_in_a_worker_is_raised_here():
    make = functools.partial(operator.methodcaller, "index", "b")  # calls name.index("b")
    with pytest.raises(ValueError, match="substring not found"):
        list(run_local(make, ["ab", "aa"], workers=2))


def test_a_worker_that_cannot_start_says_why():
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        list(run_local(functools.partial(open, "none.onnx"), ["a", "b"], workers=2))


RAISE_SIGNAL = functools.partial(functools.partial, signal.raise_signal)  # calls raise_signal(name)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_kills_its_process_does_not_end_the_work_on_the_others(workers):
    """Among the others first, or known from an earlier run, and then alone."""
    names = [0, signal.SIGKILL, 0, 0, 0]
    suspects = [signal.SIGKILL] if workers == 1 else []
    done = list(run_local(RAISE_SIGNAL, names, workers, suspects, on_killed=lambda name: f"killed at {name:d}"))
    assert len(done) == 5 and done.count(None) == 4 and "killed at 9" in done


def test_nobody_who_would_be_told_of_a_killed_process_is_an_error():
    with pytest.raises(RuntimeError, match="The process that worked on .*9.* was killed; was there too little memory"):
        list(run_local(RAISE_SIGNAL, [signal.SIGKILL, 0], workers=2))


def test_what_kills_a_process_as_it_starts_is_not_the_name():
    killed = []
    with pytest.raises(RuntimeError, match="A worker process was killed as it started"):
        make = functools.partial(signal.raise_signal, signal.SIGKILL)
        list(run_local(make, ["a", "b"], 2, on_killed=killed.append))
    assert killed == []


@pytest.fixture
def ray_cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_actors_that_die_are_replaced_and_what_kills_them_is_tried_twice(ray_cluster):
    names = [0, signal.SIGKILL, 0, 0, 0]
    done = list(run_ray(RAISE_SIGNAL, names, 2, on_killed=lambda name: f"killed at {name:d}"))
    assert len(done) == 5 and done.count(None) == 4 and "killed at 9" in done
    with pytest.raises(RuntimeError, match="The Ray actor that worked on .*9.* died; was there too little memory"):
        list(run_ray(RAISE_SIGNAL, [signal.SIGKILL]))
    with pytest.raises(RuntimeError, match="A Ray actor died as it started"):
        list(run_ray(functools.partial(signal.raise_signal, signal.SIGKILL), ["a"], on_killed=str))
    with pytest.raises(RuntimeError, match="A Ray actor failed: ValueError: substring not found"):
        list(run_ray(functools.partial(operator.methodcaller, "index", "b"), ["aa"]))
    assert list(run_ray(lambda: str.upper, ["a", "b"], workers=9)) in (["A", "B"], ["B", "A"])


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads the states of processes from /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "pids").mkdir()
    (tmp_path / "wait.py").write_text(WAITING)
    parent = subprocess.Popen([sys.executable, tmp_path / "wait.py", tmp_path / "pids"])
    try:
        assert wait_for(lambda: len(os.listdir(tmp_path / "pids")) == 2, 120)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert wait_for(lambda: not any(is_alive(pid) for pid in os.listdir(tmp_path / "pids")), 10)
