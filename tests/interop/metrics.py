"""A node's and an agent's metrics, read by Prometheus' own parser of OpenMetrics: they are well formed, and counts are exact."""

import http.client
import http.server
import urllib.error
import urllib.request

from fabric import Fabric, Service, check

from prometheus_client.openmetrics.parser import text_string_to_metric_families


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()


def scrape(address):
    """The samples of a node, by name and labels, and the names of its metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        kind, text = answer.headers["content-type"], answer.read().decode()
    assert kind.startswith("application/openmetrics-text"), kind
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names), sorted(names)
    for family in families:
        assert family.documentation, family.name
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families for sample in family.samples
    }


def asked(fabric, endpoint, count, content=None):
    """Asks so often; the bytes of all answers."""
    connection = http.client.HTTPConnection(fabric.http, timeout=10)
    answered = 0
    for _ in range(count):
        method = "GET" if content is None else "POST"
        connection.request(method, "/hello", body=content, headers={"x-adit-endpoint": endpoint})
        answered += len(connection.getresponse().read())
    connection.close()
    return answered


class Grown:
    """What has been counted between two scrapes."""

    def __init__(self, before, after):
        self.before, self.after = before, after

    def __call__(self, name, **labels):
        key = (name, tuple(sorted(labels.items())))
        return self.after.get(key, 0) - self.before.get(key, 0)


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main():
    service = Service(Handler)
    with Fabric() as fabric:
        # One whose requests are read, and one whose flows go by.
        agents = [
            fabric.agent("http", "web", service.address, "--access-log", "--admin-bind", "0"),
            fabric.agent("http", "plain", service.address, "--admin-bind", "127.0.0.1:0"),
        ]
        ports = [agent.printed(r"admin +http://(\S+)/metrics") for agent in agents]
        for port in ports:
            check("ready", status(f"http://{port}/health") == status(f"http://{port}/ready") == 200)
        before = [scrape(port) for port in [fabric.admin, *ports]]
        answered = asked(fabric, "web", 37) + asked(fabric, "web", 4, b"x" * 100_000) + asked(fabric, "plain", 6)
        failed = asked(fabric, "nobody", 5)
        node, read, plain = [Grown(old, scrape(port)) for old, port in zip(before, [fabric.admin, *ports])]

        check("answered", node("adit_requests_total", protocol="h1", status="2xx") == 47)
        check("failed", node("adit_requests_total", protocol="h1", status="5xx") == 5)
        check("timed", node("adit_response_headers_seconds_count") == 52)
        check("links", node.after[("adit_links", (("role", "agent"), ("transport", "quic")))] == 2)
        check("endpoints", node.after[("adit_endpoints", ())] == 2)
        bytes_of = lambda grown, way: grown("adit_client_bytes_total", kind="http", direction=way)
        check("received", bytes_of(node, "received") == 400_000)
        check("sent", answered == 47 * 5 and bytes_of(node, "sent") == answered + failed)

        check("an agent's requests", read("adit_service_requests_total", status="2xx") == 41)
        check("and their times", read("adit_service_response_headers_seconds_count") == 41)
        check("its bytes", bytes_of(read, "received") > 400_000 and bytes_of(read, "sent") > 41 * 5)
        check("its link", read.after[("adit_links", (("role", "node"), ("transport", "quic")))] == 1)
        check("no requests of flows that go by", plain("adit_service_requests_total", status="2xx") == 0)
        opened = plain("adit_service_flows_opened_total", kind="http")
        check("but the flows", 0 < opened <= 6 and bytes_of(plain, "sent") > 6 * 5)


main()
