"""A node, an agent and a service for checks with clients that are not adit's: real processes of the real binary."""

import http.server
import os
import re
import subprocess
import tempfile
import threading
import time

ADIT = os.path.abspath(os.environ.get("ADIT", "target/debug/adit"))


class Process:
    """A command of adit in a folder of its own; what it prints is kept."""

    def __init__(self, folder, *arguments):
        self.log = open(os.path.join(folder, f"{arguments[0]}-{time.monotonic_ns()}.log"), "w+")
        self.process = subprocess.Popen(
            [ADIT, *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)

    def printed(self, pattern, patience=15):
        """The first group of a pattern, once it has been printed."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            found = re.search(pattern, self.all_printed())
            if found:
                return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} was not printed:\n{self.all_printed()}")

    def all_printed(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        """Asks it to leave and waits; its status."""
        self.process.terminate()
        return self.process.wait(30)

    def kill(self):
        """Ends it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Fabric:
    """One node with TLS at its edge; agents as they are asked for."""

    def __init__(self, *arguments):
        self.folder = tempfile.mkdtemp(prefix="adit-interop-")
        self.processes = []
        any_port = "127.0.0.1:0"
        self.node = self.start(
            "node", "--edge-bind", any_port, "--edge-tls-bind", any_port, "--link-bind", any_port,
            "--peer-bind", any_port, "--admin-bind", any_port, *arguments)
        self.http = self.node.printed(r"edge +http://(\S+)")
        self.https = self.node.printed(r"edge +https://(\S+)")
        self.link = self.node.printed(r"link +quic://(\S+)")
        self.admin = self.node.printed(r"admin +http://(\S+)")
        self.ca = os.path.join(self.folder, "certs", "ca.pem")

    def start(self, *arguments):
        process = Process(self.folder, *arguments)
        self.processes.append(process)
        return process

    def agent(self, kind, endpoint, address, *arguments):
        agent = self.start("agent", kind, endpoint, address, "--connect", self.link, *arguments)
        agent.printed(r"(serving) ")
        return agent

    def close(self):
        for process in reversed(self.processes):
            process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Service(http.server.ThreadingHTTPServer):
    """An HTTP/1.1 service with handlers by path, in threads of this process."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """A connection that is reset is no error here."""


def check(what, holds):
    """Prints a line for each thing that was looked at, and ends with the first that does not hold."""
    print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
    if not holds:
        raise SystemExit(1)
