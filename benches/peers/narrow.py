#!/usr/bin/env python3
"""Bulk over a path that takes packets of 1,500 bytes: adit beside rathole with Noise and with TLS.

    sudo benches/peers/narrow.py --rounds 5

Two network namespaces (network.py). In one a node or rathole's server, and iperf3's client; in the other the agent or rathole's
client, and iperf3's server: all have one encrypted hop, and that is where packets are small. All are started once and measured in
turn, round by round. It needs root, ip, iperf3 and rathole; the namespaces are removed at the end."""

import argparse
import tempfile
import time
from pathlib import Path as File

import paths
from network import AGENT, NODE, Network, within
from processes import Processes
from run import column, each, iperf, rounds, table

SERVICE = 5201


def adit(processes, near, far, binary):
    certs = ["--certs", processes.folder / "certs"]
    any_port = "127.0.0.1:0"
    node = processes.start(
        "adit-node", *near, binary, "node", "--edge-bind", any_port, "--link-bind", f"{NODE}:8001", "--admin-bind", any_port,
        "--peer-bind", any_port, "--tcp", "127.0.0.1:8000=bench", "--allow-anonymous", "--log-level", "warn", *certs)
    time.sleep(1)
    agent = processes.start(
        "adit-agent", *far, binary, "agent", "tcp", "bench", f"127.0.0.1:{SERVICE}", "--connect", f"{NODE}:8001",
        "--server-name", "localhost", "--transport", "quic", "--links", "1", "--log-level", "warn", *certs)
    return paths.Path("adit", 8000, [node, agent])


def measure(near, path, *test):
    address = "127.0.0.1" if path.between else AGENT
    return iperf(path, *test, address=address, within=near)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--binary", default="target/release/adit")
    parser.add_argument("--offload", action="store_true", help="let the kernel pass packets on in large pieces")
    args = parser.parse_args()
    binary = File(args.binary).resolve()
    with tempfile.TemporaryDirectory() as folder:
        processes, network = Processes(folder), Network()
        near, far = within(network.node), within(network.agent)
        try:
            network.join(alone=not args.offload)
            processes.start("iperf3", *far, "iperf3", "-s", "-p", SERVICE)
            made = [paths.Path("direct", SERVICE), adit(processes, near, far, binary)]
            made += [paths.rathole(processes, SERVICE, kind, NODE, near, far) for kind in ("noise", "tls")]
            for what, streams, reverse in [("one flow up", 1, False), ("one flow down", 1, True), ("eight flows up", 8, False)]:
                results = rounds(made, args.rounds, lambda path: measure(near, path, streams, args.seconds, reverse))
                print(f"\n## packets of 1,500 bytes, {what}, {args.seconds} s, {args.rounds} rounds: median (least-most)\n")
                table(
                    ["path", "Gbit/s", "CPU s per GB", "of which"],
                    [[path.name, column(results, path.name, "gbits", 2), column(results, path.name, "cpu", 2),
                      each(results, path.name, 2)] for path in made])
        finally:
            processes.end()
            network.end()


if __name__ == "__main__":
    main()
