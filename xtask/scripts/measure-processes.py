#!/usr/bin/env python3
"""Run commands in turn, several rounds, and write what each cost, as the kernel counted it.

    measure-processes.py SPEC.json OUT.json

SPEC.json: {"rounds": 7, "warmup": 1, "limit": 900, "entries": [{
    "command": [ARGUMENT...],  what is measured: the process and the children that it waits for
    "prepare": [ARGUMENT...],  run before each round, not measured (or null)
    "stdout": FILE,            where its standard output goes (or null)
    "outputs": [PATH...],      removed before and after each round
    "check": [ARGUMENT...]     run once, after the rounds, on the outputs of one more run (or null)
}]}

OUT.json gets a list with, for each entry: "cpu" and "wall" (seconds of each round after the
warm-up), "max_rss_kib", "bytes" and "allocated" (of the first output), "failed" (null or one
line) and "wrong" (null, or the line with which the check refused the output). An entry that fails
is left out of the rounds that follow.

The entries alternate, so that what else the machine does hits all of them. A process starts with
the peak of the one that made it, so a peak at or below "floor_rss_kib", this program's own, says
no more than that.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time


class Failed(Exception):
    pass


def last_line(path):
    with open(path, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else "no message"


def run(command, stdout, limit):
    """The resources that `command` used, and how long it took."""
    with tempfile.NamedTemporaryFile() as errors:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, stdout or "/dev/null", flags, 0o644),
            (os.POSIX_SPAWN_OPEN, 2, errors.name, flags, 0o600),
        ]
        began = time.monotonic()
        try:
            child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setpgroup=0)
        except OSError as error:
            raise Failed(f"{command[0]}: {error.strerror}")

        def late(_signal, _frame):
            os.killpg(child, signal.SIGKILL)

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, limit)
        _, status, usage = os.wait4(child, 0)
        wall = time.monotonic() - began
        signal.setitimer(signal.ITIMER_REAL, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL and wall >= limit:
            raise Failed(f"took over {limit} s")
        if code:
            raise Failed(f"{last_line(errors.name)} (exit status {code})")
        return usage, wall


def own_peak():
    """Not from getrusage: that counts what the process was before it ran this program."""
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)


def remove(paths):
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)


class Entry:
    def __init__(self, spec, limit):
        self.spec, self.limit = spec, limit
        self.result = {
            "cpu": [], "wall": [], "max_rss_kib": 0, "bytes": None, "allocated": None,
            "failed": None, "wrong": None,
        }  # fmt: skip

    def once(self, measured):
        spec, result = self.spec, self.result
        remove(spec["outputs"])
        if spec["prepare"]:
            run(spec["prepare"], None, self.limit)
        usage, wall = run(spec["command"], spec["stdout"], self.limit)
        result["max_rss_kib"] = max(result["max_rss_kib"], usage.ru_maxrss)
        if measured:
            result["cpu"].append(usage.ru_utime + usage.ru_stime)
            result["wall"].append(wall)

    def round(self, measured):
        if self.result["failed"]:
            return
        try:
            self.once(measured)
        except Failed as failed:
            self.result["failed"] = str(failed)
        remove(self.spec["outputs"])

    def conclude(self):
        if self.result["failed"]:
            return
        try:
            self.once(False)
            for path in self.spec["outputs"][:1]:
                about = os.stat(path)
                self.result["bytes"], self.result["allocated"] = about.st_size, about.st_blocks * 512
            if self.spec["check"]:
                run(self.spec["check"], None, self.limit)
        except Failed as failed:
            self.result["wrong"] = str(failed)
        remove(self.spec["outputs"])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    entries = [Entry(entry, spec["limit"]) for entry in spec["entries"]]
    for number in range(spec["warmup"] + spec["rounds"]):
        for entry in entries:
            entry.round(number >= spec["warmup"])
    floor = own_peak()
    for entry in entries:
        entry.conclude()
        entry.result["floor_rss_kib"] = floor
    with open(sys.argv[2], "w") as file:
        json.dump([entry.result for entry in entries], file)


if __name__ == "__main__":
    main()
