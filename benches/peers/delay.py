#!/usr/bin/env python3
"""A link that is long: how many of its round trips pass until the first byte of a new flow is back, or how much it carries.

    benches/peers/delay.py --delay 25
    benches/peers/delay.py --delay 50 --bulk 10

A node and an agent, between which a relay holds each packet for so many milliseconds each way. The client is beside the node, and
the service, which sends back what it gets, beside the agent: on a flow that is open, a byte takes one round trip of the link."""

import argparse
import socket
import socketserver
import statistics
import tempfile
import threading
import time
from pathlib import Path as File
from queue import SimpleQueue

from processes import Processes, free_port
from run import iperf3


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Relay:
    """Passes packets on from a port to another one, and back to whom they came from last, all of it later.

    In each direction one thread takes them in and one sends them when they are due. The queue has no bound of its own: what a
    sender may have under way is one."""

    def __init__(self, port, target, delay):
        self.delay, self.sender = delay, None
        self.near, self.far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for end in (self.near, self.far):
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        self.near.bind(("127.0.0.1", port))
        self.far.connect(("127.0.0.1", target))
        self.way(self.near, self.far.send)
        self.way(self.far, lambda data: self.near.sendto(data, self.sender))

    def way(self, come, go):
        queue = SimpleQueue()
        for work in (self.take, self.give):
            threading.Thread(target=work, args=(queue, come, go), daemon=True).start()

    def take(self, queue, come, _):
        while True:
            try:
                data, sender = come.recvfrom(65536)
            except ConnectionRefusedError:
                continue  # Nobody listens there yet.
            if come is self.near:
                self.sender = sender
            queue.put((time.monotonic() + self.delay, data))

    def give(self, queue, _, go):
        while True:
            due, data = queue.get()
            time.sleep(max(0, due - time.monotonic()))
            try:
                go(data)
            except ConnectionRefusedError:
                continue


def timed(connect, flow=None):
    began = time.monotonic()
    flow = flow or connect()
    flow.sendall(b"x")
    if not flow.recv(1):
        raise RuntimeError("the flow has ended")
    return (time.monotonic() - began) * 1000, flow


def echo():
    """A service that sends back what it gets."""
    service = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    service.daemon_threads = True
    threading.Thread(target=service.serve_forever, daemon=True).start()
    return service.server_address[1]


def iperf3_server(processes):
    port = free_port()
    processes.until_open(port, processes.start("iperf3", "iperf3", "-s", "-B", "127.0.0.1", "-p", port))
    return port


def first_bytes(tcp, count):
    """Milliseconds of a byte and back on an open flow, and on new ones."""

    def connect():
        flow = socket.create_connection(("127.0.0.1", tcp), 10)
        flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return flow

    _, flow = patiently(lambda: timed(connect))
    open_flow = [timed(connect, flow)[0] for _ in range(count)]
    first = [timed(connect)[0] for _ in range(count)]
    show = lambda all_of: f"{statistics.median(all_of):.1f} ({min(all_of):.1f}-{max(all_of):.1f})"
    print(f"round trip on an open flow: {show(open_flow)} ms")
    print(f"first byte of a new flow:   {show(first)} ms")
    print(f"that is {statistics.median(first) / statistics.median(open_flow) - 1:.2f} round trips more")


def bulk(tcp, seconds, streams, reverse):
    """What arrives, second by second: the first ones are those in which congestion control finds its pace."""
    result = patiently(lambda: iperf3(tcp, streams, seconds, reverse))
    # iperf3's server has what has arrived when the client sends.
    mbits = result["end"]["sum_received"]["bits_per_second"] / 1e6
    each = [round(one["sum"]["bits_per_second"] / 1e6) for one in result["intervals"]]
    print(f"{streams} flow(s) {'down' if reverse else 'up'}: {mbits:.0f} Mbit/s; by second, as the client saw it: {each}")


def patiently(attempt):
    end = time.monotonic() + 15
    while True:
        try:
            return attempt()
        except (OSError, RuntimeError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=25.0, help="milliseconds, each way")
    parser.add_argument("--flows", type=int, default=40)
    parser.add_argument("--bulk", type=int, metavar="SECONDS", help="measure bulk by iperf3 instead, for so long")
    parser.add_argument("--binary", default="target/release/adit")
    args = parser.parse_args()
    binary = File(args.binary).resolve()
    tcp, link, far = free_port(), free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    Relay(far, link, args.delay / 1000)
    any_port = "127.0.0.1:0"
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(folder)
        common = ["--certs", folder, "--log-level", "warn"]
        try:
            service = iperf3_server(processes) if args.bulk else echo()
            node = processes.start(
                "node", binary, "node", "--edge-bind", any_port, "--admin-bind", any_port, "--peer-bind", any_port,
                "--link-bind", f"127.0.0.1:{link}", "--advertise-link", f"127.0.0.1:{far}",
                "--tcp", f"127.0.0.1:{tcp}=far", *common)
            processes.until_open(tcp, node)
            processes.start(
                "agent", binary, "agent", "tcp", "far", f"127.0.0.1:{service}", "--links", "1",
                "--connect", f"127.0.0.1:{far}", "--transport", "quic", *common)
            if args.bulk:
                for streams, reverse in [(1, False), (1, True), (8, False), (8, True)]:
                    bulk(tcp, args.bulk, streams, reverse)
            else:
                first_bytes(tcp, args.flows)
        finally:
            processes.end()


main()
