#!/usr/bin/env python3
"""New flows over a link that is long: how many of its round trips pass until the first byte is back.

    benches/peers/delay.py --delay 25

A node and an agent, between which a relay holds each packet for so many milliseconds each way. The client is beside the node, and
the service, which sends back what it gets, beside the agent: on a flow that is open, a byte takes one round trip of the link."""

import argparse
import asyncio
import socket
import socketserver
import statistics
import tempfile
import threading
import time
from pathlib import Path as File

from processes import Processes, free_port


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Relay(asyncio.DatagramProtocol):
    """Passes packets on to a port, and what comes back to whom it is for, all of it later."""

    def __init__(self, delay, target, back=None):
        self.delay, self.target, self.back, self.ways = delay, target, back, {}

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        loop = asyncio.get_running_loop()
        if self.back is not None:
            loop.call_later(self.delay, self.back, data)
        else:
            loop.create_task(self.pass_on(loop, data, sender))

    async def pass_on(self, loop, data, sender):
        if sender not in self.ways:
            back = lambda data: self.transport.sendto(data, sender)
            way = loop.create_datagram_endpoint(
                lambda: Relay(self.delay, None, back), remote_addr=("127.0.0.1", self.target))
            self.ways[sender] = loop.create_task(way)
        way, _ = await self.ways[sender]
        loop.call_later(self.delay, way.sendto, data)


def relay(port, target, delay):
    async def run():
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: Relay(delay, target), local_addr=("127.0.0.1", port))
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()


def timed(connect, flow=None):
    began = time.monotonic()
    flow = flow or connect()
    flow.sendall(b"x")
    if not flow.recv(1):
        raise RuntimeError("the flow has ended")
    return (time.monotonic() - began) * 1000, flow


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=25.0, help="milliseconds, each way")
    parser.add_argument("--flows", type=int, default=40)
    parser.add_argument("--binary", default="target/release/adit")
    args = parser.parse_args()
    binary = File(args.binary).resolve()
    service = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    service.daemon_threads = True
    threading.Thread(target=service.serve_forever, daemon=True).start()
    tcp, link, far = free_port(), free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    relay(far, link, args.delay / 1000)
    any_port = "127.0.0.1:0"
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(folder)
        common = ["--certs", folder, "--log-level", "warn"]
        try:
            node = processes.start(
                "node", binary, "node", "--edge-bind", any_port, "--admin-bind", any_port, "--peer-bind", any_port,
                "--link-bind", f"127.0.0.1:{link}", "--advertise-link", f"127.0.0.1:{far}",
                "--tcp", f"127.0.0.1:{tcp}=echo", *common)
            processes.until_open(tcp, node)
            processes.start(
                "agent", binary, "agent", "tcp", "echo", f"127.0.0.1:{service.server_address[1]}",
                "--connect", f"127.0.0.1:{far}", "--transport", "quic", *common)

            def connect():
                flow = socket.create_connection(("127.0.0.1", tcp), 10)
                flow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return flow

            end = time.monotonic() + 15
            while True:
                try:
                    _, flow = timed(connect)
                    break
                except (OSError, RuntimeError):
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)
            open_flow = [timed(connect, flow)[0] for _ in range(args.flows)]
            first = [timed(connect)[0] for _ in range(args.flows)]
        finally:
            processes.end()
    show = lambda all_of: f"{statistics.median(all_of):.1f} ({min(all_of):.1f}-{max(all_of):.1f})"
    print(f"round trip on an open flow: {show(open_flow)} ms")
    print(f"first byte of a new flow:   {show(first)} ms")
    print(f"that is {statistics.median(first) / statistics.median(open_flow) - 1:.2f} round trips more")


main()
