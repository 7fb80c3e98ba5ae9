"""HTTP/1.0, 1.1 and 2 at the edge, with curl, nghttp and h2load: clients that share no code with adit.

What is not installed is left out, and said.
"""

import base64
import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import time

from fabric import Fabric, Service, check

CONTENT = bytes(range(256)) * 40
HOST = "web.example.com"


def accept(key):
    """What a service that switches answers to a client's key (RFC 6455 §4.2.2)."""
    key += "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        digest, size = hashlib.sha256(), 0

        def take(length):
            nonlocal size
            while length:
                piece = self.rfile.read(min(length, 1 << 16))
                if not piece:
                    raise ConnectionError("the body broke off")
                digest.update(piece)
                size += len(piece)
                length -= len(piece)

        if "content-length" in self.headers:
            take(int(self.headers["content-length"]))
        elif "chunked" in self.headers.get("transfer-encoding", ""):
            while length := int(self.rfile.readline(), 16):
                take(length)
                self.rfile.readline()
            self.rfile.readline()
        return f"{size} {digest.hexdigest()}".encode()

    def answer(self):
        """The content, or a part of it; of a request with a body, its size and its hash."""
        if self.headers.get("upgrade") == "websocket":
            return self.switch()
        body = self.body()
        status, content = 200, CONTENT
        if self.command in ("POST", "PUT"):
            content = body
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")):
            first, last = map(int, wanted.groups())
            status, content = 206, CONTENT[first:last + 1]
        if self.path == "/empty":
            status, content = 204, b""
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(content)))
        if status == 206:
            self.send_header("content-range", f"bytes {first}-{last}/{len(CONTENT)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def switch(self):
        """The handshake of a WebSocket; then whatever comes is sent back."""
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "upgrade")
        self.send_header("sec-websocket-accept", accept(self.headers["sec-websocket-key"]))
        self.end_headers()
        self.close_connection = True
        while piece := self.rfile.read1(1 << 16):
            self.wfile.write(piece)
            self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer


def run(*words, **options):
    """What a client printed; it must succeed."""
    ran = subprocess.run(words, capture_output=True, timeout=120, **options)
    if ran.returncode != 0:
        print(ran.stdout[-2000:].decode(errors="replace"), ran.stderr[-2000:].decode(errors="replace"))
        check(f"{' '.join(words)} ends with 0", False)
    return ran.stdout


def curl(fabric, big):
    url = {"http": f"http://{fabric.http}", "https": f"https://{HOST}:{fabric.https.split(':')[1]}"}
    resolve = f"{HOST}:{fabric.https.split(':')[1]}:127.0.0.1"
    expected = f"{os.path.getsize(big)} {hashlib.sha256(open(big, 'rb').read()).hexdigest()}".encode()
    versions = [
        ("HTTP/1.0", "http", ["--http1.0"], "1"),
        ("HTTP/1.1", "http", ["--http1.1"], "1.1"),
        ("HTTP/2, prior knowledge", "http", ["--http2-prior-knowledge"], "2"),
        ("HTTP/1.1 over TLS", "https", ["--http1.1"], "1.1"),
        ("HTTP/2 over TLS", "https", ["--http2"], "2"),
    ]
    for name, scheme, flags, version in versions:
        # The development certificate is for the host's own names, not for this one.
        base = ["curl", "--silent", "--show-error", "--insecure", "--resolve", resolve, *flags, "-H", f"host: {HOST}"]

        def ask(path, *more, of=url[scheme]):
            told = run(*base, "-w", "\n%{http_version} %{http_code} %{num_connects}", *more, of + path)
            body, _, line = told.rpartition(b"\n")
            return (body, *line.decode().split())

        check(f"curl, {name}: GET", ask("/")[:3] == (CONTENT, version, "200"))
        check(f"curl, {name}: HEAD", b"content-length: 10240" in ask("/", "--head")[0].lower())
        check(f"curl, {name}: no content", ask("/empty")[:3] == (b"", version, "204"))
        check(f"curl, {name}: a range", ask("/", "-r", "10-19")[:3] == (CONTENT[10:20], version, "206"))
        check(f"curl, {name}: DELETE", ask("/", "-X", "DELETE")[2] == "200")
        small = ask("/", "--data-binary", "hello")
        check(f"curl, {name}: POST", small[0] == b"5 " + hashlib.sha256(b"hello").hexdigest().encode())
        check(f"curl, {name}: PUT of 64 MiB", ask("/", "-T", big)[0] == expected)
        waiting = ask("/", "-H", "expect: 100-continue", "--expect100-timeout", "60", "-T", big)
        check(f"curl, {name}: PUT after 100 Continue", waiting[0] == expected)
        if version != "1":
            with open(big, "rb") as stream:
                told = run(*base, "-T", "-", url[scheme] + "/", stdin=stream)
            check(f"curl, {name}: PUT without a length", told == expected)
        # curl 7.88 fails at this by itself with prior knowledge (curl#10634); nghttp shows it.
        if version != "1" and "prior" not in name:
            again = run(*base, "-w", "%{num_connects} ", "-o", os.devnull, url[scheme], "-o", os.devnull, url[scheme])
            check(f"curl, {name}: a connection is used again", again == b"1 0 ")
        lost = ask("/", "-H", "x-adit-endpoint: nobody")
        check(f"curl, {name}: nobody serves the endpoint", lost[2] == "502" and b'"no_upstream"' in lost[0])
    key = base64.b64encode(bytes(16)).decode()
    handshake = ["--http1.1", "-H", "connection: Upgrade", "-H", "upgrade: websocket", "-H", f"sec-websocket-key: {key}",
                 "-H", "sec-websocket-version: 13", "-H", f"host: {HOST}", "--include", "--no-buffer", "--max-time", "2"]
    # curl waits for what the socket brings, which is nothing.
    told = subprocess.run(["curl", "--silent", *handshake, url["http"]], capture_output=True, timeout=60).stdout.decode()
    check("curl: the handshake of a WebSocket", told.startswith("HTTP/1.1 101 ") and accept(key) in told)


def pipelined(fabric):
    """Requests that do not wait for responses, which come in order."""
    address, port = fabric.http.split(":")
    requests = b"".join(
        b"GET / HTTP/1.1\r\nhost: %s\r\nrange: bytes=%d-%d\r\n%s\r\n" % (
            HOST.encode(), number, number, b"connection: close\r\n" if number == 99 else b"")
        for number in range(100))
    with socket.create_connection((address, int(port))) as stream:
        stream.sendall(requests)
        told = b"".join(iter(lambda: stream.recv(1 << 16), b""))
    bodies = re.findall(rb"\r\n\r\n(.)(?=HTTP/1.1 |$)", told, re.DOTALL)
    check("100 requests at once in HTTP/1.1 are answered in order", b"".join(bodies) == CONTENT[:100])


def nghttp(fabric, big):
    http, https = f"http://{fabric.http}/", f"https://{fabric.https}/"
    for name, url in [("prior knowledge", http), ("TLS", https)]:
        told = run("nghttp", "-v", "-n", "-H", f":authority: {HOST}", url).decode()
        check(f"nghttp, {name}: GET", ":status: 200" in told and "error_code=NO_ERROR" in told)
        many = run("nghttp", "-n", "-s", "-m", "100", "-H", f":authority: {HOST}", url).decode()
        check(f"nghttp, {name}: 100 requests in one connection", len(re.findall(r" 200 +10K /", many)) == 100)
        upload = run("nghttp", "-d", big, "-H", ":method: PUT", "-H", f":authority: {HOST}", url)
        check(f"nghttp, {name}: PUT of 64 MiB", upload.split()[0] == str(os.path.getsize(big)).encode())
        padded = run("nghttp", "-v", "-n", "-b", "255", "-p", "1", "--continuation", "-H", f":authority: {HOST}", url).decode()
        check(f"nghttp, {name}: padding and CONTINUATION", ":status: 200" in padded)


def h2load(fabric):
    http, https = f"http://{fabric.http}/", f"https://{fabric.https}/"
    for name, url, more in [
        ("HTTP/1.1", http, ["--h1", "-c", "8"]),
        ("HTTP/2", http, ["-c", "8", "-m", "32"]),
        ("HTTP/2 over TLS", https, ["-c", "8", "-m", "32"]),
    ]:
        began = time.monotonic()
        told = run("h2load", "-n", "4000", *more, "-H", "x-adit-endpoint: web", url).decode()
        took = time.monotonic() - began
        check(f"h2load, {name}: 4000 requests in {took:.1f} s", "4000 succeeded, 0 failed, 0 errored, 0 timeout" in told
              and "status codes: 4000 2xx" in told)


with Fabric() as fabric:
    service = Service(Handler)
    fabric.agent("http", "web", service.address)
    big = os.path.join(fabric.folder, "big")
    with open(big, "wb") as file:
        file.write(os.urandom(1 << 16) * 1024)
    pipelined(fabric)
    for tool, checks in [("curl", lambda: curl(fabric, big)), ("nghttp", lambda: nghttp(fabric, big)),
                         ("h2load", lambda: h2load(fabric))]:
        if shutil.which(tool):
            checks()
        else:
            print(f"{tool} is not installed: NOTHING was checked with it")
