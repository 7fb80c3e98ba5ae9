"""HTTP/3 at the edge, with aioquic: a client that shares no code with adit."""

import asyncio
import http.server
import os
import ssl
import time
import urllib.request

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

from fabric import Fabric, Service, check

given_up = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        received = b""
        while "chunked" in self.headers.get("transfer-encoding", ""):
            size = int(self.rfile.readline(), 16)
            received += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                break
        return received

    def answer(self):
        body = self.body()
        head = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        text = f"{self.command} {self.path}\n{head}\n".encode() + body
        if self.path.startswith("/mirror"):
            text = body
        self.send_response(200 if self.path != "/gone" else 404)
        # aioquic takes the length of a response to HEAD for that of its body.
        if self.command != "HEAD":
            self.send_header("content-length", str(len(text)))
        self.send_header("x-twice", "1")
        self.send_header("x-twice", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def events(self):
        """Events, each when it happens, until the client has gone."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for number in range(1000):
                self.wfile.write(f"data: {number}\n\n".encode())
                time.sleep(0.05)
        except OSError:
            given_up.append(self.path)
        self.close_connection = True

    def broken(self):
        """Half of what was announced."""
        self.send_response(200)
        self.send_header("content-length", "10")
        self.end_headers()
        self.wfile.write(b"half.")
        self.close_connection = True

    def do_GET(self):
        {"/events": self.events, "/broken": self.broken}.get(self.path, self.answer)()

    do_POST = do_PUT = do_DELETE = do_HEAD = answer


class Response:
    def __init__(self):
        self.head, self.trailers, self.body, self.reset = None, None, b"", None
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()

    def status(self):
        return int(dict(self.head)[b":status"])

    def all(self, name):
        return [value for found, value in self.head if found == name]


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.responses = {}
        self.terminated = None
        self.closed = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            self.closed.set()
        if isinstance(event, StreamReset) and event.stream_id in self.responses:
            self.responses[event.stream_id].reset = event.error_code
            self.responses[event.stream_id].ended.set()
        for received in self.http.handle_event(event):
            response = self.responses.get(getattr(received, "stream_id", None))
            if response is None:
                continue
            if isinstance(received, HeadersReceived):
                if response.head is None:
                    response.head = received.headers
                else:
                    response.trailers = received.headers
            elif isinstance(received, DataReceived):
                response.body += received.data
            response.changed.set()
            if received.stream_ended:
                response.ended.set()

    def begin(self, method, path, fields=(), end=True):
        stream = self._quic.get_next_available_stream_id()
        self.responses[stream] = Response()
        head = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", b"web.localhost"),
                (b":path", path.encode()), *fields]
        self.http.send_headers(stream, head, end_stream=end)
        self.transmit()
        return stream, self.responses[stream]

    async def ask(self, method, path, fields=(), body=None):
        stream, response = self.begin(method, path, fields, end=body is None)
        if body is not None:
            self.http.send_data(stream, body, end_stream=True)
            self.transmit()
        await asyncio.wait_for(response.ended.wait(), 20)
        return response


def configuration(fabric):
    configured = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="localhost")
    configured.load_verify_locations(fabric.ca)
    return configured


def open_connection(fabric):
    host, port = fabric.https.rsplit(":", 1)
    return connect(host, int(port), configuration=configuration(fabric), create_protocol=Client)


async def eventually(what, holds):
    end = time.monotonic() + 15
    while not holds() and time.monotonic() < end:
        await asyncio.sleep(0.02)
    check(what, holds())


async def main():
    service = Service(Handler)
    with Fabric() as fabric:
        fabric.agent("http", "web", service.address)
        told = ssl.create_default_context(cafile=fabric.ca)
        asked = urllib.request.Request(f"https://{fabric.https}/", headers={"x-adit-endpoint": "web"})
        with urllib.request.urlopen(asked, context=told) as response:
            port = fabric.https.rsplit(":", 1)[1]
            check("Alt-Svc names the port", response.headers["alt-svc"] == f'h3=":{port}"; ma=86400')

        async with open_connection(fabric) as client:
            got = await client.ask("GET", "/x?y=1", [(b"cookie", b"a=1"), (b"cookie", b"b=2")])
            text = got.body.decode()
            check("GET", got.status() == 200 and text.startswith("GET /x?y=1\n"))
            check("no body is announced where there is none", "transfer-encoding" not in text.lower())
            check("Host is :authority", "host: web.localhost\n" in text.lower())
            check("cookies are joined", "cookie: a=1; b=2\n" in text.lower())
            check("X-Forwarded-Proto", "x-forwarded-proto: https\n" in text.lower())
            check("repeated fields", got.all(b"x-twice") == [b"1", b"2"])
            check("no Alt-Svc over HTTP/3", got.all(b"alt-svc") == [])
            check("the service's status", (await client.ask("GET", "/gone")).status() == 404)
            head = await client.ask("HEAD", "/")
            check("HEAD", head.status() == 200 and head.body == b"")

            large = os.urandom(3_000_000)
            mirrored = await client.ask("POST", "/mirror", body=large)
            check("3 MB up and down, of no announced length", mirrored.body == large)
            sized = [(b"content-length", str(len(large)).encode())]
            mirrored = await client.ask("PUT", "/mirror", sized, body=large)
            check("3 MB up and down, of announced length", mirrored.body == large)
            short = await client.ask("POST", "/mirror", [(b"content-length", b"5")], body=b"four")
            check("a body shorter than announced", short.reset == ErrorCode.H3_MESSAGE_ERROR or short.status() == 400)
            long = await client.ask("POST", "/mirror", [(b"content-length", b"3")], body=b"four")
            check("a body longer than announced", long.reset == ErrorCode.H3_MESSAGE_ERROR or long.status() == 400)

            many = await asyncio.gather(*(client.ask("GET", f"/{number}") for number in range(50)))
            check("50 at once", all(f"GET /{number}\n".encode() in got.body for number, got in enumerate(many)))
            broken = await client.ask("GET", "/broken")
            check("a service that dies mid-body ends in a reset",
                  b"half.".startswith(broken.body) and broken.reset == ErrorCode.H3_INTERNAL_ERROR)
            large_head = await client.ask("GET", "/", [(b"x-large-%d" % number, b"x" * 3000) for number in range(25)])
            check("headers over the limit", large_head.status() == 431)
            connected = await client.ask("CONNECT", "/")
            check("CONNECT is refused", connected.reset is not None or connected.status() == 405)
            check("the connection lives", (await client.ask("GET", "/")).status() == 200)

            stream, events = client.begin("GET", "/events")
            await eventually("events come one by one", lambda: events.body.count(b"data:") >= 3)
            client._quic.stop_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
            client.transmit()
            await eventually("a client that stops a response stops the service", lambda: given_up == ["/events"])

        async with open_connection(fabric) as client:
            # A head of half a gigabyte is announced: the stream ends, and its bytes are not collected.
            stream = client._quic.get_next_available_stream_id()
            client.responses[stream] = response = Response()
            client._quic.send_stream_data(stream, b"\x01" + (0xA0000000).to_bytes(4, "big") + b"x" * 4000)
            client.transmit()
            await asyncio.wait_for(response.ended.wait(), 20)
            check("a head of any length is not collected", response.reset is not None)
            check("the connection lives", (await client.ask("GET", "/")).status() == 200)

        async with open_connection(fabric) as client:
            _, events = client.begin("GET", "/events")
            await eventually("a response is under way", lambda: events.body.count(b"data:") >= 1)
            client._quic.close(error_code=ErrorCode.H3_NO_ERROR)
            client.transmit()
            await eventually("a client that is gone stops the service", lambda: len(given_up) == 2)

        async with open_connection(fabric) as client:
            _, slow = client.begin("POST", "/mirror", end=False)
            await client.ask("GET", "/")
            loop = asyncio.get_running_loop()
            leaving = loop.run_in_executor(None, fabric.node.stop)
            stream = min(client.responses)
            await asyncio.sleep(0.5)
            client.http.send_data(stream, b"late", end_stream=True)
            client.transmit()
            await asyncio.wait_for(slow.ended.wait(), 20)
            check("a request under way is answered while the node leaves", slow.body == b"late")
            await asyncio.wait_for(client.closed.wait(), 20)
            check("the connection then closes without an error",
                  client.terminated.error_code == ErrorCode.H3_NO_ERROR)
            check("the node leaves", await leaving == 0)


asyncio.run(main())
