"""Servers that record their requests: an API server over HTTP and TLS, and proxies."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NAMES = ("localhost", "127.0.0.1", "api.example")
_LIST = b'{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}'
_VERSION = b'{"major":"1","minor":"34","gitVersion":"v1.34.0","platform":"linux/amd64"}'


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    names: tuple[str, ...] = (),
    authority: bool = False,
    identifiers: bool = True,
    days: int = 30,
    rsa_bits: int = 0,
) -> Issued:
    """A certificate.

    Args:
        name: its common name.
        issuer: who signs it; None for itself.
        names: its subjectAltName.
        authority: whether it signs others.
        identifiers: whether it has key identifiers, as RFC 5280 wants it and older clusters do not.
        days: how long it is good from now; negative for one that has expired.
        rsa_bits: the length of its RSA key; 0 for a key on an elliptic curve.
    """
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
        rsa.generate_private_key(65537, rsa_bits)
        if rsa_bits
        else ec.generate_private_key(ec.SECP256R1())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if identifiers:
        signing = (issuer.key if issuer else key).public_key()
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing), critical=False)
    if names:
        alternatives = [_alternative(each) for each in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return Issued(builder.sign((issuer.key if issuer else key), hashes.SHA256()), key)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Seen:
    """A request as it came.

    Attributes:
        server: the recorder's name.
        prefix: its path, up to what every API server has.
        headers: those that say who asks and how.
        certificate: common name of the client's certificate, "" for none.
        name: the server name that the TLS handshake asked for, "" for none.
    """

    server: str
    prefix: str
    headers: tuple[tuple[str, str], ...]
    certificate: str
    name: str


@dataclass
class Recorders:
    """All servers, and the requests that they received.

    Attributes:
        urls: the recorders' URLs by name.
        seen: requests, in order.
        proxied: what proxies were asked for: `PROXY HOST:PORT as USER:PASSWORD`.
        posted: bodies of requests that create something; nothing is created.
        shown: common names of the client certificates that a front saw.
        answers: by path, what is answered there and not noted: for an identity provider.
        stack: what a test has started beside them, and ends.
        target: the port that the proxies lead to.
        files: certificates and keys by name, as paths.
    """

    urls: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    proxied: list[str] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    answers: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    target: int = 0
    folder: Path = Path()
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def forget(self) -> None:
        self.seen.clear()
        self.proxied.clear()
        self.posted.clear()
        self.shown.clear()

    def add_file(self, folder: Path, name: str, content: bytes) -> None:
        path = folder / name
        path.write_bytes(content)
        self.files[name] = path
        self.data[name] = base64.b64encode(content).decode()


@contextlib.contextmanager
def recorders(folder: Path) -> Iterator[Recorders]:
    """Start them; certificates go to a folder."""
    made = Recorders(folder=folder)
    root = issue("root", authority=True)
    plain_root = issue("old root", authority=True, identifiers=False)
    middle = issue("middle", root, authority=True)
    client = issue("client", root)
    other = issue("other client", root)
    weak = issue("weak client", root, rsa_bits=1024)
    alone = issue("alone", names=NAMES)
    certificates = {
        "tls": (issue("server", root, names=NAMES),),
        "old": (issue("server", plain_root, names=NAMES, identifiers=False),),
        "middle": (issue("server", middle, names=NAMES),),
        "alone": (alone,),
        "expired": (issue("server", root, names=NAMES, days=-1),),
        "elsewhere": (issue("server", root, names=("elsewhere.example",)),),
        "nameless": (issue("localhost", root),),
        "wild": (issue("server", root, names=("*.example",)),),
        "partly-wild": (issue("server", root, names=("a*.example", "*")),),
        "weak": (issue("server", root, names=NAMES, rsa_bits=1024),),
    }
    for name, issued in [
        ("ca", root), ("old-ca", plain_root), ("middle-ca", middle), ("alone-ca", alone),
        ("cert", client), ("cert2", other), ("weak-cert", weak),
    ]:  # fmt: skip
        made.add_file(folder, f"{name}.pem", issued.pem)
    made.add_file(folder, "key.pem", client.key_pem)
    made.add_file(folder, "key2.pem", other.key_pem)
    made.add_file(folder, "weak-key.pem", weak.key_pem)
    with contextlib.ExitStack() as stack:
        made.ports["http"] = stack.enter_context(_serving(_recorder(made, "http"), None))
        made.urls["http"] = f"http://127.0.0.1:{made.ports['http']}"
        for name, (issued, *_) in certificates.items():
            context = _server_context(folder, name, issued, root)
            made.ports[name] = stack.enter_context(_serving(_recorder(made, name), context))
            made.urls[name] = f"https://127.0.0.1:{made.ports[name]}"
        made.target = made.ports["tls"]
        made.ports["proxy"] = stack.enter_context(_serving(_http_proxy(made), None))
        made.ports["socks"] = stack.enter_context(_socks(made))
        secure = _server_context(folder, "proxy", issue("proxy", root, names=NAMES), root)
        made.ports["tlsproxy"] = stack.enter_context(_serving(_http_proxy(made), secure))
        yield made


def _server_context(folder: Path, name: str, issued: Issued, root: Issued) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = folder / f"server-{name}.pem"
    pair.write_bytes(issued.pem + issued.key_pem)
    # The server decides what it accepts; the tests are about clients.
    context.set_ciphers("ALL:@SECLEVEL=0")
    if name == "weak":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES128-SHA:@SECLEVEL=0")
    context.load_cert_chain(pair)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=root.pem.decode())

    def note(sock: Any, server_name: str | None, _: ssl.SSLContext) -> None:
        sock.asked_for = server_name or ""

    context.sni_callback = note
    return context


@contextlib.contextmanager
def front(made: Recorders, port: int) -> Iterator[int]:
    """A TLS server that forwards everything to a port. The proxies lead to it meanwhile."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.folder / "server-tls.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(made.files["ca.pem"])

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            made.shown.append(_common_name(self.request))
            with socket.create_connection(("127.0.0.1", port)) as upstream:
                _pump(self.request, upstream)

    before = made.target
    with _serving(Handler, context) as made.target:
        yield made.target
    made.target = before


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server that sends these answers to any request, and then closes the connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for answer in answers:
                self.request.recv(65_536)
                self.request.sendall(answer)

    with _serving(Handler, None) as port:
        yield port


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake is done in the connection's own thread.
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:
                return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def _serving(
    handler: type[socketserver.BaseRequestHandler], context: ssl.SSLContext | None
) -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), handler)
    server.context = context
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _recorder(made: Recorders, name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            prefix = path
            for known in ("/version", "/api/", "/apis/"):
                prefix = prefix.partition(known)[0]
            wanted = ("authorization", "accept-encoding")
            headers = sorted(
                (key.lower(), value)
                for key, value in self.headers.items()
                if key.lower() in wanted or key.lower().startswith("impersonate-")
            )
            if path in made.answers:
                self.answer(200, made.answers[path])
                return
            # A request to a proxy has a whole URL.
            prefix = prefix if prefix.startswith("/") or not prefix else "absolute"
            # Google Cloud's kubectl first asks for the server's version, by itself and with
            # whatever it has, to choose the kubectl that it runs.
            if not self.headers.get("User-Agent", "").startswith("kubectl-dispatcher/"):
                made.seen.append(
                    Seen(name, prefix, tuple(headers), _common_name(self.connection), _sni(self))
                )
            self.answer(200, _VERSION if path.endswith("/version") else _LIST)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            made.posted.append(self.rfile.read(length).decode(errors="replace"))
            found = made.answers.get(self.path)
            self.answer(403 if found is None else 200, found or b"")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _sni(handler: BaseHTTPRequestHandler) -> str:
    return str(getattr(handler.connection, "asked_for", ""))


def _common_name(connection: Any) -> str:
    if not isinstance(connection, ssl.SSLSocket):
        return ""
    found: dict[str, Any] = connection.getpeercert() or {}
    names = [value for part in found.get("subject", ()) for key, value in part]
    return str(names[0]) if names else ""


def _http_proxy(made: Recorders) -> type[BaseHTTPRequestHandler]:
    """CONNECT to whatever host leads to the recorder `tls`; a whole URL to `http`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def note(self, kind: str, target: str) -> None:
            user = self.headers.get("Proxy-Authorization", "")
            decoded = base64.b64decode(user.partition(" ")[2]).decode()
            made.proxied.append(f"{kind} {target} as {decoded}")

        def do_CONNECT(self) -> None:
            self.note("CONNECT", self.path.rpartition(":")[0])
            self.send_response(200)
            self.end_headers()
            with socket.create_connection(("127.0.0.1", made.target)) as upstream:
                _pump(self.connection, upstream)
            self.close_connection = True

        def do_GET(self) -> None:
            self.note("GET", self.path.partition("//")[2].partition(":")[0])
            self.send_response(200)
            body = _VERSION if "/version" in self.path else _LIST
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextlib.contextmanager
def _socks(made: Recorders) -> Iterator[int]:
    """A SOCKS5 proxy (RFC 1928, 1929) that always leads to the recorder `tls`."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError, IndexError):
                self.speak()

        def speak(self) -> None:
            connection = self.request
            methods = self.read(self.read(2)[1])
            user = ""
            if 2 in methods:
                connection.sendall(b"\x05\x02")
                name = self.read(self.read(2)[1])
                password = self.read(self.read(1)[0])
                user = f"{name.decode()}:{password.decode()}"
                connection.sendall(b"\x01\x00")
            else:
                connection.sendall(b"\x05\x00")
            _, _, _, kind = self.read(4)
            host = (
                self.read(self.read(1)[0]).decode()
                if kind == 3
                else str(ipaddress.ip_address(self.read(4 if kind == 1 else 16)))
            )
            self.read(2)
            made.proxied.append(f"SOCKS {host} as {user}")
            connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            with socket.create_connection(("127.0.0.1", made.target)) as upstream:
                _pump(connection, upstream)

        def read(self, count: int) -> bytes:
            data = b""
            while len(data) < count:
                more = self.request.recv(count - len(data))
                if not more:
                    raise OSError("closed")
                data += more
            return data

    with serving(Handler) as port:
        yield port


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    """Serve TCP connections on loopback, each in a thread; the port."""
    socketserver.ThreadingTCPServer.daemon_threads = True
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _pump(one: socket.socket, two: socket.socket) -> None:
    """Forward bytes both ways until one side ends."""
    pending: Callable[[], int] = getattr(one, "pending", lambda: 0)
    with contextlib.suppress(OSError):
        while True:
            ready, _, _ = select.select([] if pending() else [one, two], [], [], 30)
            for source in ready or [one]:
                data = source.recv(65_536)
                if not data:
                    return
                (two if source is one else one).sendall(data)
