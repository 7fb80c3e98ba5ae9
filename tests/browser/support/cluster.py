"""Nodes, agents and services for the checks of pages: real processes of the real binary, and requests by hand."""

import contextlib
import http.client
import http.server
import json
import os
import re
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "interop"))
from fabric import ADIT, Process, Service, check  # noqa: E402

__all__ = ["ADIT", "ANY", "Cluster", "Node", "Traffic", "adit_ports", "check", "echo", "held", "post"]

ANY = "127.0.0.1:0"


class Node:
    """A node, at ports that it chose itself or had before."""

    def __init__(self, cluster, name, arguments, ports=None):
        edge, link, peer, admin = ports or [ANY] * 4
        self.cluster, self.name, self.arguments = cluster, name, arguments
        self.process = cluster.start(
            "node", "--node-id", name, "--edge-bind", edge, "--link-bind", link, "--peer-bind", peer,
            "--admin-bind", admin, "--log-level", "info", *arguments)
        self.edge = self.process.printed(r"edge +http://(\S+)")
        self.link = self.process.printed(r"link +quic://(\S+)")
        self.peer = self.process.printed(r"peer +quic://(\S+)")
        self.admin = self.process.printed(r"admin +http://(\S+)")

    def again(self):
        """The same node, in another process at the same ports."""
        return Node(self.cluster, self.name, self.arguments, [self.edge, self.link, self.peer, self.admin])


class Cluster:
    """Processes in one folder, with certificates that they share; all end with it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="adit-browser-")
        self.processes = []

    def start(self, *arguments):
        process = Process(self.folder, *arguments)
        self.processes.append(process)
        return process

    def node(self, name, *arguments, join=None):
        join = ["--join", join.peer] if join else []
        return Node(self, name, [*arguments, *join])

    def agent(self, kind, endpoint, address, node, *arguments):
        agent = self.start("agent", kind, endpoint, address, "--connect", node.link, *arguments)
        agent.printed(r"(serving) ")
        return agent

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill()


def echo():
    """A web service that answers everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = b"hello\n" * 200
            self.send_response(500 if self.path == "/fail" else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing is logged."""

    return Service(Handler)


def post(admin, path, token=None):
    """Has a node do something; its answer."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{admin}{path}", data=b"", headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


class Traffic:
    """Requests to an endpoint, one after the other, until it is left."""

    def __init__(self, edge, endpoint, pause=0.005, path="/"):
        self.url, self.endpoint, self.pause = f"http://{edge}{path}", endpoint, pause
        self.answered = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.stopped.is_set():
            request = urllib.request.Request(self.url, headers={"x-adit-endpoint": self.endpoint})
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    answer.read()
            except OSError:
                # That it fails is what some requests are for; the page shows whether they did.
                pass
            self.answered += 1
            self.stopped.wait(self.pause)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


@contextlib.contextmanager
def held(edge, endpoint, path):
    """A response that has begun and goes on, as long as it is held."""
    with contextlib.closing(http.client.HTTPConnection(edge, timeout=10)) as connection:
        connection.request("GET", path, headers={"x-adit-endpoint": endpoint})
        yield connection.getresponse()


def adit_ports(parent, patience=30):
    """The TCP ports on which processes that this one has started listen."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        ports = [port for pid in children(parent) for port in listening(pid)]
        if ports:
            return ports
        time.sleep(0.1)
    raise AssertionError("no process that was started listens")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        direct = [int(child) for child in file.read().split()]
    # Threads may have started some as well.
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            direct += [int(child) for child in file.read().split()]
    return sorted(set(direct))


def listening(pid):
    """The ports of a process, which the kernel tells by the numbers of its sockets."""
    sockets = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except OSError:
            continue
        if found:
            sockets.add(found.group(1))
    ports = []
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in file.readlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                ports.append(int(fields[1].split(":")[1], 16))
    return ports
