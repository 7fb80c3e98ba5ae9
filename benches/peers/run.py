#!/usr/bin/env python3
"""Measures adit beside what else is here, in one run: docs/performance.md is made with it.

    benches/peers/run.py http --rounds 5
    benches/peers/run.py tcp --rounds 5
    benches/peers/run.py http --only adit --binary target/release/adit --against old/adit

All paths are started once and measured in turn, round by round, so that what else the machine does falls on all alike. It
needs wrk, iperf3 and nginx; rathole, bore and stunnel4 are measured when they are here. It prints medians with the least and
the most, and changes nothing on the machine: everything is in a folder that is removed."""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path as File

import paths
from processes import Processes, free_port, has, used

MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def latencies(out):
    """What wrk says of 50, 90 and 99 of a hundred requests, in ms."""
    found = re.findall(r"^\s*(50|90|99)%\s*([\d.]+)(us|ms|s)\s*$", out, re.M)
    return {share: float(value) * MS[unit] for share, value, unit in found}


def wrk(path, connections, seconds):
    """Requests a second, p50 and p99 in ms, processor seconds for 1,000 requests of what is in between."""
    headers = [word for name, value in path.headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *headers, f"http://127.0.0.1:{path.port}/"]
    before = used(path.between)
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = used(path.between)
    failed = re.search(r"(Non-2xx.*|Socket errors.*)", out)
    if failed:
        raise RuntimeError(f"{path.name}: {failed[0]}")
    requests = int(re.search(r"(\d+) requests in", out)[1])
    rate = float(re.search(r"Requests/sec:\s*([\d.]+)", out)[1])
    p = latencies(out)
    cpu = [(b - a) * 1000 / requests for a, b in zip(before, after)]
    return {"rate": rate, "p50": p["50"], "p99": p["99"], "cpu": sum(cpu), "each": cpu}


def iperf3(port, streams, seconds, reverse, address="127.0.0.1", within=()):
    """What iperf3 has measured."""
    command = [*within, "iperf3", "-c", address, "-p", str(port), "-t", str(seconds), "-P", str(streams), "-J"]
    result = json.loads(subprocess.run(command + (["-R"] if reverse else []), capture_output=True, text=True).stdout)
    if "error" in result:
        raise RuntimeError(f"{address}:{port}: {result['error']}")
    return result


def iperf(path, streams, seconds, reverse=False, **where):
    """Gbit/s as received, and processor seconds for each GB of what is in between."""
    for left in reversed(range(50)):
        before = used(path.between)
        try:
            result = iperf3(path.port, streams, seconds, reverse, **where)
            break
        except RuntimeError:
            # All paths share the server, which serves one test at a time; or there is no agent yet.
            if not left:
                raise
            time.sleep(0.3)
    after = used(path.between)
    received = result["end"]["sum_received"]
    cpu = [(b - a) * 1e9 / received["bytes"] for a, b in zip(before, after)]
    return {"gbits": received["bits_per_second"] / 1e9, "cpu": sum(cpu), "each": cpu}


def quinn(binary, seconds):
    """Gbit/s and processor seconds for each GB of a bulk transfer of quinn alone, both ends."""
    out = subprocess.run([binary, "--seconds", str(seconds)], capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def spread(values, digits):
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def rounds(all_paths, count, measure):
    """Each path by each measurement, in turn."""
    results = {path.name: [] for path in all_paths}
    for number in range(count):
        for path in all_paths:
            results[path.name].append(measure(path))
            print(f"  {number + 1}/{count} {path.name}", file=sys.stderr, flush=True)
    return results


def column(results, name, key, digits):
    return spread([result[key] for result in results[name]], digits)


def each(results, name, digits):
    parts = zip(*(result["each"] for result in results[name]))
    return " + ".join(f"{statistics.median(part):.{digits}f}" for part in parts) or "-"


def http(processes, args):
    service = paths.http_service(processes)
    made = [paths.direct(processes, service)]
    if "adit" != args.only:
        made += [paths.nginx_http(processes, service, pooled) for pooled in (True, False)]
        made += paths.tunnels(processes, service)
    made += [paths.adit_http(processes, binary, service, nodes, label) for label, binary in args.binaries for nodes in (1, 2)]
    for path in made:
        answers(path)
    for connections in (50, 1):
        results = rounds(made, args.rounds, lambda path: wrk(path, connections, args.seconds))
        print(f"\n## wrk, {connections} connections, {args.seconds} s, {args.rounds} rounds: median (least-most)\n")
        table(
            ["path", "requests/s", "p50 ms", "p99 ms", "CPU s per 1,000 requests", "of which"],
            [
                [path.name, column(results, path.name, "rate", 0), column(results, path.name, "p50", 2),
                 column(results, path.name, "p99", 2), column(results, path.name, "cpu", 4), each(results, path.name, 4)]
                for path in made
            ],
        )


def answers(path):
    """Waits until a path answers with the whole body."""
    headers = [word for name, value in path.headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["curl", "-s", "-m", "5", *headers, f"http://127.0.0.1:{path.port}/"]
    for _ in range(50):
        if len(subprocess.run(command, capture_output=True).stdout) == 1024:
            return
        time.sleep(0.1)
    raise RuntimeError(f"{path.name} does not answer")


def tcp(processes, args):
    service = free_port()
    server = processes.start("iperf3", "iperf3", "-s", "-B", "127.0.0.1", "-p", service)
    processes.until_open(service, server)
    time.sleep(0.5)
    made = [paths.direct(processes, service)]
    if "adit" != args.only:
        made += paths.tunnels(processes, service)
    made += [paths.adit_tcp(processes, binary, service, hops, label) for label, binary in args.binaries for hops in (1, 2, 3)]
    time.sleep(1)
    if args.quinn:
        made.append(paths.Path("quinn alone, its default MTU", 0))

    def measure(path, streams, reverse=False):
        if path.port == 0:
            return quinn(args.quinn, args.seconds)
        return iperf(path, streams, args.seconds, reverse)

    runs = [("one flow up", 1, False), ("one flow down", 1, True), ("eight flows up", 8, False)]
    for what, streams, reverse in runs:
        results = rounds(made, args.rounds, lambda path: measure(path, streams, reverse))
        print(f"\n## iperf3, {what}, {args.seconds} s, {args.rounds} rounds: median (least-most)\n")
        table(
            ["path", "Gbit/s", "CPU s per GB", "of which"],
            [
                [path.name, column(results, path.name, "gbits", 2), column(results, path.name, "cpu", 2),
                 each(results, path.name, 2)]
                for path in made
            ],
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["http", "tcp"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--binary", default="target/release/adit", help="the adit to measure")
    parser.add_argument("--against", help="another adit, measured in the same rounds")
    parser.add_argument("--only", choices=["adit"], help="leave the other tunnels and proxies out")
    parser.add_argument("--quinn", help="the program of `cargo bench --bench quinn --no-run`")
    args = parser.parse_args()
    missing = [name for name in ("wrk", "iperf3", "nginx", "curl") if not has(name)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}")
    if args.quinn:
        args.quinn = str(File(args.quinn).resolve())
    args.binaries = [("", File(args.binary).resolve())]
    if args.against:
        args.binaries = [("old", File(args.against).resolve()), ("new", File(args.binary).resolve())]
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(folder)
        try:
            {"http": http, "tcp": tcp}[args.what](processes, args)
        finally:
            processes.end()


if __name__ == "__main__":
    main()
