#!/usr/bin/env python3
"""Small requests beside busy flows on one link that loses packets: adit's link over QUIC against its link over WebSocket.

    sudo benches/peers/lossy.py --rounds 5

Two network namespaces, joined by a pair of virtual interfaces (MTU 1500, every packet by itself), each of which drops a share of
what comes in (nftables). In one the node and its clients, in the other the agent and the service. 49 connections download without
end, one sends small requests, one after the other: their latencies are the result. It needs root, ip, nft, wrk and nginx; the
namespaces are removed at the end."""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path as File

from network import NODE, Network, run, within
from paths import nginx
from processes import Processes
from run import latencies, spread, table

def measure(processes, network, binary, transport, seconds):
    folder = processes.folder / f"{transport}-{time.monotonic_ns()}"
    folder.mkdir()
    certs = ["--certs", folder]
    node = processes.start(
        f"node-{transport}", *within(network.node, binary, "node", "--edge-bind", "127.0.0.1:8000", "--link-bind",
                                     f"{NODE}:8001", "--admin-bind", "127.0.0.1:0", "--peer-bind", "127.0.0.1:0",
                                     "--allow-anonymous", "--log-level", "warn", *certs))
    time.sleep(1)
    agent = processes.start(
        f"agent-{transport}", *within(network.agent, binary, "agent", "http", "bench", "127.0.0.1:8080", "--connect",
                                      f"{NODE}:8001", "--server-name", "localhost", "--transport", transport, "--links", "1",
                                      "--log-level", "warn", *certs))
    time.sleep(2)
    wrk = lambda path, connections, time: within(
        network.node, "wrk", "-t1", f"-c{connections}", f"-d{time}s", "--timeout", "30s", "--latency", "-H",
        "x-adit-endpoint: bench", f"http://127.0.0.1:8000/{path}")
    busy = processes.start(f"busy-{transport}", *wrk("large", 49, seconds + 2))
    time.sleep(1)
    out = run(*wrk("small", 1, seconds))
    busy.wait(60)
    large = (processes.folder / f"busy-{transport}.log").read_text()
    for process in (agent, node):
        process.terminate()
        process.wait(60)
    if "Non-2xx" in out or "Requests/sec" not in out:
        raise RuntimeError(out)
    carried = re.findall(r"Transfer/sec:\s*([\d.]+)(KB|MB|GB)", large)[-1]
    return {**latencies(out), "carried": float(carried[0]) * {"KB": 0.001, "MB": 1, "GB": 1000}[carried[1]]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--loss", type=float, default=2.0, help="per cent of the packets, each way")
    parser.add_argument("--binary", default="target/release/adit")
    args = parser.parse_args()
    binary = File(args.binary).resolve()
    with tempfile.TemporaryDirectory() as folder:
        processes, network = Processes(folder), Network()
        try:
            network.join(args.loss)
            body = processes.folder / "body"
            body.mkdir()
            (body / "small").write_bytes(b"x" * 1024)
            (body / "large").write_bytes(b"x" * (1 << 20))
            config = "http { access_log off; server { listen 127.0.0.1:8080; root body; } }"
            nginx(processes, "service", config, within(network.agent))
            time.sleep(0.5)
            results = {"quic": [], "websocket": []}
            for number in range(args.rounds):
                for transport, into in results.items():
                    into.append(measure(processes, network, binary, transport, args.seconds))
                    print(f"  {number + 1}/{args.rounds} {transport}", file=sys.stderr, flush=True)
        finally:
            processes.end()
            network.end()
    print(f"\n## {args.loss} % loss each way, 49 downloads beside one client of 1 KiB, {args.rounds} rounds: median (least-most)\n")
    table(
        ["link over", "p50 ms", "p90 ms", "p99 ms", "downloads MB/s"],
        [
            [name, *(spread([result[key] for result in all_of], 1) for key in ("50", "90", "99", "carried"))]
            for name, all_of in results.items()
        ],
    )


if __name__ == "__main__":
    main()
