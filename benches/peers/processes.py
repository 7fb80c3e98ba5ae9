"""Processes that are measured: started in a folder of their own, waited for, and ended by their id.

Owns what it starts. Says how much processor time each has used, as Linux accounts it: to 10 ms, user and system together."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_of(pid):
    """Seconds of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / TICK


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            here = (task / "children").read_text().split()
        except FileNotFoundError:
            # A thread that has ended meanwhile.
            continue
        for child in here:
            found += [int(child), *children(int(child))]
    return found


class Processes:
    def __init__(self, folder):
        self.folder, self.running = Path(folder), []

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "ab")
        command = [str(word) for word in command]
        process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process.name = name
        self.running.append(process)
        return process

    def until_open(self, port, process=None, seconds=15):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if process is not None and process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        name = process.name if process else port
        log = self.folder / f"{name}.log"
        raise RuntimeError(f"{name} does not listen on {port}: {log.read_text()[-2000:] if log.exists() else ''}")

    def end(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def used(processes):
    """Processor seconds of each, its workers included."""
    return [cpu_of(p.pid) + sum(cpu_of(child) for child in children(p.pid)) for p in processes]


def has(program):
    return shutil.which(program) is not None
