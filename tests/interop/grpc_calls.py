"""gRPC through adit with gRPC's own server and client: two nodes, the agent on one of them and the client at the other,
then at the same; a service in the clear (--h2c) and one with TLS, which says by ALPN that it speaks HTTP/2.
It needs grpcio; the binary is named by ADIT, as for the other checks here.
"""

import concurrent.futures
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time

import grpc

from fabric import ADIT, Process

SOON = 20  # A generous bound, in seconds, on anything that must happen at all.
ANY = "127.0.0.1:0"


class Echo(grpc.GenericRpcHandler):
    """One method for each kind of call, on bytes."""

    def __init__(self):
        self.cancelled = queue.Queue()

    def service(self, details):
        method = details.method.removeprefix("/test.Echo/")
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Many": grpc.unary_stream_rpc_method_handler(self.many),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Hang": grpc.unary_stream_rpc_method_handler(self.hang),
        }.get(method)

    def unary(self, message, context):
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-initial", sent.get("x-sent", "")),))
        context.set_trailing_metadata((("x-trailing", "1"), ("x-trailing-bin", b"\0\xff")))
        return message

    def many(self, message, context):
        for number in range(int(message)):
            yield str(number).encode()

    def sum(self, messages, context):
        return str(sum(len(message) for message in messages)).encode()

    def chat(self, messages, context):
        yield from messages

    def fail(self, message, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100% größer")

    def hang(self, message, context):
        context.add_callback(lambda: self.cancelled.put(message))
        if message == b"deadline":
            assert 0 < context.time_remaining() < 2, context.time_remaining()
        yield b"first"
        # The stream ends with the call, and so does this.
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(SOON)


def check(channel, service):
    """Every kind of call, and every way to end one."""
    def unary(method, **more):
        return channel.unary_unary(f"/test.Echo/{method}", **more)

    for size in (0, 5, 100_000, 3_000_000):
        message = bytes(index * 7 % 251 for index in range(size))
        answer, call = unary("Unary").with_call(message, timeout=SOON, metadata=(("x-sent", "hello"),))
        assert answer == message
        assert dict(call.initial_metadata())["x-initial"] == "hello"
        assert dict(call.trailing_metadata()) == {"x-trailing": "1", "x-trailing-bin": b"\0\xff"}
        assert call.code() is grpc.StatusCode.OK

    many = channel.unary_stream("/test.Echo/Many")(b"1000", timeout=SOON)
    assert [int(message) for message in many] == list(range(1000))

    parts = (b"x" * 1000 for _ in range(1000))
    assert channel.stream_unary("/test.Echo/Sum")(parts, timeout=SOON) == b"1000000"

    # Each message is sent when the answer to the one before is there.
    turns = queue.Queue()
    chat = channel.stream_stream("/test.Echo/Chat")(iter(turns.get, None), timeout=SOON)
    for message in (b"a", b"", b"c" * 200_000):
        turns.put(message)
        assert next(chat) == message
    turns.put(None)
    assert list(chat) == [] and chat.code() is grpc.StatusCode.OK

    error = expect(lambda: unary("Fail")(b"", timeout=SOON))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: 100% größer")
    assert expect(lambda: unary("None")(b"", timeout=SOON)).code() is grpc.StatusCode.UNIMPLEMENTED

    began = time.monotonic()
    hang = channel.unary_stream("/test.Echo/Hang")
    late = hang(b"deadline", timeout=1)
    assert next(late) == b"first"
    assert expect(lambda: next(late)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < SOON / 2
    assert service.cancelled.get(timeout=SOON) == b"deadline"

    given_up = hang(b"cancel")
    assert next(given_up) == b"first"
    given_up.cancel()
    assert service.cancelled.get(timeout=SOON) == b"cancel"

    # Many at once, more than one connection of the service carries.
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        numbers = [str(number).encode() for number in range(500)]
        assert list(pool.map(lambda number: unary("Unary")(number, timeout=SOON), numbers)) == numbers


def expect(call):
    """The error that a call must end with."""
    try:
        result = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"it succeeded: {result}")


def channel_to(edge, endpoint):
    return grpc.insecure_channel(edge, options=[("grpc.default_authority", f"{endpoint}.localhost")])


def run(folder, running):
    for made in (["ca"], ["node", "127.0.0.1", "localhost"]):
        subprocess.run([ADIT, "certs", *made], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    certs = pathlib.Path(folder) / "certs"
    echo = Echo()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(100), handlers=[echo])
    plain = server.add_insecure_port(ANY)
    pair = ((certs / "node.key").read_bytes(), (certs / "node.pem").read_bytes())
    secure = server.add_secure_port(ANY, grpc.ssl_server_credentials([pair]))
    server.start()

    node = ["node", "--edge-bind", ANY, "--link-bind", ANY, "--admin-bind", ANY, "--peer-bind", ANY]
    running.append(Process(folder, *node, "--node-id", "n1"))
    edges = [running[0].printed(r"edge +http://(\S+)")]
    link, peer = running[0].printed(r"link +quic://(\S+)"), running[0].printed(r"peer +quic://(\S+)")
    running.append(Process(folder, *node, "--node-id", "n2", "--join", peer))
    edges.append(running[1].printed(r"edge +http://(\S+)"))
    for arguments in (
        ["plain", str(plain), "--h2c"],
        ["secure", f"https://localhost:{secure}", "--upstream-ca", "certs/ca.pem"],
    ):
        agent = Process(folder, "agent", "http", *arguments, "--connect", link, "--links", "1")
        running.append(agent)
        agent.printed(r"(serving) ")
    for hops, edge in enumerate(edges, 1):
        for endpoint in ("plain", "secure"):
            channel = channel_to(edge, endpoint)
            # The second node hears of the endpoint a moment later.
            channel.unary_unary("/test.Echo/Unary")(b"", timeout=SOON, wait_for_ready=True)
            check(channel, echo)
            channel.close()
            print(f"{endpoint} service, through {hops} node(s): all calls as they should be")
    error = expect(lambda: channel_to(edges[0], "nobody").unary_unary("/test.Echo/Unary")(b"", timeout=SOON))
    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    assert dict(error.trailing_metadata() or error.initial_metadata())["x-adit-error"] == "no_upstream", error
    print("an endpoint without an agent: UNAVAILABLE,", error.details())
    for process in reversed(running):
        assert process.stop() == 0
    server.stop(None)


def main():
    with tempfile.TemporaryDirectory() as folder:
        running = []
        try:
            run(folder, running)
        except BaseException:
            for process in running:
                print(process.all_printed()[-10_000:], file=sys.stderr)
            raise
        finally:
            for process in running:
                process.kill()


if __name__ == "__main__":
    main()
