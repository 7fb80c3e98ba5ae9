"""A node's metrics, read by Prometheus' own parser of OpenMetrics: they are well formed, and counts are exact."""

import http.client
import http.server
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


def asked(fabric, endpoint, count):
    connection = http.client.HTTPConnection(fabric.http, timeout=10)
    for _ in range(count):
        connection.request("GET", "/hello", headers={"x-adit-endpoint": endpoint})
        connection.getresponse().read()
    connection.close()


def main():
    service = Service(Handler)
    with Fabric() as fabric:
        fabric.agent("http", "web", service.address)
        before = scrape(fabric.admin)
        asked(fabric, "web", 37)
        asked(fabric, "nobody", 5)
        after = scrape(fabric.admin)

        def grown(name, **labels):
            key = (name, tuple(sorted(labels.items())))
            return after.get(key, 0) - before.get(key, 0)

        check("answered", grown("adit_requests_total", protocol="h1", status="2xx") == 37)
        check("failed", grown("adit_requests_total", protocol="h1", status="5xx") == 5)
        check("timed", grown("adit_response_headers_seconds_count") == 42)
        check("links", after[("adit_links", (("role", "agent"), ("transport", "quic")))] == 1)
        check("endpoints", after[("adit_endpoints", ())] == 1)


main()
