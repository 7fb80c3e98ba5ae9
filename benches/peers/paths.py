"""The paths from a client to one service that are compared: none, plain proxies, other tunnels, and adit.

A path is where a client connects, what it says there for HTTP, and the processes in between. Each is made of one server beside
the client and one client of the tunnel beside the service, so that all carry the same bytes between the same two ends."""

import subprocess
from dataclasses import dataclass, field

from processes import free_port, has


@dataclass
class Path:
    name: str
    port: int
    between: list = field(default_factory=list)
    headers: dict = field(default_factory=dict)
    hops: int = 0


def direct(_, port):
    return Path("direct", port)


def nginx(processes, name, config, within=()):
    (processes.folder / f"{name}.conf").write_text(
        "user root; worker_processes 1; daemon off; pid %s.pid; error_log %s.error;\nevents { worker_connections 4096; }\n%s"
        % (name, name, config)
    )
    return processes.start(name, *within, "nginx", "-p", processes.folder, "-c", f"{name}.conf")


def http_service(processes):
    """Answers everything with 1 KiB."""
    port = free_port()
    process = nginx(
        processes,
        "service",
        "http { access_log off; keepalive_requests 100000000; "
        'server { listen 127.0.0.1:%d backlog=4096; location / { return 200 "%s"; } } }' % (port, "x" * 1024),
    )
    processes.until_open(port, process)
    return port


def nginx_http(processes, service, pooled):
    port = free_port()
    name = "nginx, pool" if pooled else "nginx, no pool"
    upstream = "server 127.0.0.1:%d; %s" % (service, "keepalive 64;" if pooled else "")
    version = 'proxy_http_version 1.1; proxy_set_header Connection "";' if pooled else ""
    process = nginx(
        processes,
        "proxy-pool" if pooled else "proxy",
        "http { access_log off; keepalive_requests 100000000; upstream u { %s }\n"
        "server { listen 127.0.0.1:%d backlog=4096; location / { proxy_pass http://u; %s } } }" % (upstream, port, version),
    )
    processes.until_open(port, process)
    return Path(name, port, [process])


def rathole(processes, service, transport, address="127.0.0.1", near=(), far=()):
    """`near` and `far` are words in front of the commands of the server and of the client, which meet at `address`."""
    control, port = free_port(), free_port()
    folder = processes.folder / f"rathole-{transport}"
    folder.mkdir()
    kind = "tcp" if transport == "plain" else transport
    server, client = "", ""
    if transport == "tls":
        certificate(folder)
        server = '[server.transport.tls]\npkcs12 = "identity.pfx"\npkcs12_password = "1234"\n'
        client = '[client.transport.tls]\ntrusted_root = "ca.pem"\nhostname = "localhost"\n'
    if transport == "noise":
        keys = subprocess.run(["rathole", "--genkey"], capture_output=True, text=True, check=True).stdout.split()
        private, public = keys[keys.index("Private") + 2], keys[keys.index("Public") + 2]
        server = f'[server.transport.noise]\nlocal_private_key = "{private}"\n'
        client = f'[client.transport.noise]\nremote_public_key = "{public}"\n'
    (folder / "server.toml").write_text(
        f'[server]\nbind_addr = "{address}:{control}"\ndefault_token = "t"\n[server.transport]\ntype = "{kind}"\n{server}'
        f'[server.services.s]\nbind_addr = "127.0.0.1:{port}"\n'
    )
    (folder / "client.toml").write_text(
        f'[client]\nremote_addr = "{address}:{control}"\ndefault_token = "t"\n[client.transport]\ntype = "{kind}"\n{client}'
        f'[client.services.s]\nlocal_addr = "127.0.0.1:{service}"\n'
    )
    both = [
        processes.start(f"rathole-{transport}-{side}", *within, "sh", "-c", f"cd {folder} && exec rathole --{side} {side}.toml")
        for side, within in [("server", near), ("client", far)]
    ]
    if not near:
        processes.until_open(port, both[0])
    return Path(f"rathole, {transport}", port, both)


def bore(processes, service):
    control, port = 7835, free_port()
    server = processes.start("bore-server", "bore", "server", "--min-port", port, "--max-port", port)
    processes.until_open(control, server)
    client = processes.start("bore-client", "bore", "local", service, "--to", "127.0.0.1", "--port", port)
    processes.until_open(port, client)
    return Path("bore, plain", port, [server, client])


def stunnel(processes, service):
    """Two stunnels, TLS in between: what an encrypted relay of connections costs."""
    port, between = free_port(), free_port()
    folder = processes.folder / "stunnel"
    folder.mkdir()
    certificate(folder)
    common = "foreground = yes\ndebug = err\npid =\nsslVersion = TLSv1.3\n[relay]\n"
    (folder / "server.conf").write_text(
        f"{common}accept = 127.0.0.1:{between}\nconnect = 127.0.0.1:{service}\ncert = {folder}/server.pem\nkey = {folder}/server.key\n"
    )
    (folder / "client.conf").write_text(
        f"{common}client = yes\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{between}\n"
        f"CAfile = {folder}/ca.pem\nverifyChain = yes\n"
    )
    both = [processes.start(f"stunnel-{side}", "stunnel4", folder / f"{side}.conf") for side in ["server", "client"]]
    processes.until_open(between, both[0])
    processes.until_open(port, both[1])
    return Path("stunnel, TLS", port, both)


def certificate(folder):
    """A throw-away authority and a certificate for localhost, also as PKCS 12."""
    run = lambda *words: subprocess.run(words, cwd=folder, check=True, capture_output=True)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "7",
        "-subj", "/CN=bench")
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj",
        "/CN=localhost")
    (folder / "san").write_text("subjectAltName=DNS:localhost\n")
    run("openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "7",
        "-extfile", "san", "-out", "server.pem")
    run("openssl", "pkcs12", "-export", "-in", "server.pem", "-inkey", "server.key", "-certfile", "ca.pem", "-out",
        "identity.pfx", "-passout", "pass:1234")


class Adit:
    """A cluster of one or two nodes and one agent at the last."""

    def __init__(self, processes, binary, nodes, service, kind, label, flags=()):
        self.processes, self.binary, self.label = processes, binary, label
        folder = processes.folder / f"adit-{label}"
        folder.mkdir()
        certs = ["--certs", folder / "certs"]
        self.nodes, self.links, peers = [], [], []
        self.edge, self.tcp = free_port(), free_port()
        for number in range(nodes):
            edge, link, peer = (self.edge if number == 0 else free_port()), free_port(), free_port()
            words = ["--edge-bind", f"127.0.0.1:{edge}", "--link-bind", f"127.0.0.1:{link}", "--admin-bind", "127.0.0.1:0"]
            words += ["--peer-bind", f"127.0.0.1:{peer}", "--node-id", f"n{number}", "--log-level", "warn"]
            words += ["--join", peers[0]] if peers else []
            words += ["--tcp", f"127.0.0.1:{self.tcp}=bench"] if number == 0 else []
            process = processes.start(f"adit-{label}-n{number}", binary, "node", *certs, *words, *flags)
            processes.until_open(edge, process)
            self.nodes.append(process)
            self.links.append(link)
            peers.append(f"127.0.0.1:{peer}")
        self.certs = certs
        self.agent = processes.start(
            f"adit-{label}-agent", binary, "agent", kind, "bench", service, "--connect", f"127.0.0.1:{self.links[-1]}",
            "--links", "1", "--transport", "quic", "--log-level", "warn", *certs,
        )

    def all(self):
        return [*self.nodes, self.agent]

    def forwarder(self):
        """A forwarder at the first node."""
        port = free_port()
        process = self.processes.start(
            f"adit-{self.label}-forward", self.binary, "forward", "tcp", port, "bench", "--connect",
            f"127.0.0.1:{self.links[0]}", "--transport", "quic", "--log-level", "warn", *self.certs,
        )
        self.processes.until_open(port, process)
        return port, process


def adit_http(processes, binary, service, nodes, label=""):
    fabric = Adit(processes, binary, nodes, service, "http", f"{label}http{nodes}")
    name = "one node" if nodes == 1 else "forwarded across two"
    return Path(named(label, name), fabric.edge, fabric.all(), {"x-adit-endpoint": "bench"}, nodes)


def adit_tcp(processes, binary, service, hops, label=""):
    fabric = Adit(processes, binary, 2 if hops == 3 else 1, service, "tcp", f"{label}tcp{hops}")
    if hops == 1:
        return Path(named(label, "node to agent"), fabric.tcp, fabric.all(), hops=1)
    port, forwarder = fabric.forwarder()
    name = "forwarder to agent" if hops == 2 else "forwarder to agent, forwarded across two"
    return Path(named(label, name), port, [*fabric.all(), forwarder], hops=hops)


def named(label, name):
    """Of two binaries each has a label."""
    return f"adit, {label + ', ' if label else ''}{name}"


def tunnels(processes, service):
    """The other tunnels that are here."""
    made = []
    if has("rathole"):
        made += [rathole(processes, service, transport) for transport in ["plain", "noise", "tls"]]
    if has("bore"):
        made.append(bore(processes, service))
    if has("stunnel4"):
        made.append(stunnel(processes, service))
    return made
