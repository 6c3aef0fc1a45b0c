"""TLS with Go's rules, so that a server that kubectl trusts is trusted here too.

Python is stricter than Go about ciphers and keys (`_CIPHERS`), and Python 3.13 about certificates
(VERIFY_X509_STRICT: an authority must have key identifiers; the authorities of older EKS, GKE and
MicroK8s clusters have none). OpenSSL requires that a chain ends
at a self-signed certificate, but Go trusts every certificate in the list of authorities. The
server's name is checked as Go does (hostnames.py).
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kubectl_istio_udp.kube.connections import TlsObject, TlsSocket
from kubectl_istio_udp.kube.kubeconfig import Certificate, Cluster, read_file
from kubectl_istio_udp.model.errors import Unreachable

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# Files with the system's authorities (Go's crypto/x509/root_linux.go), for a Python that was built
# with other paths.
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# For TLS 1.2, the cipher suites of Go; Python leaves out those with SHA-1, which old servers need.
# At OpenSSL's level 1 RSA keys of 1,024 bits are accepted, as by Go; Python sets level 2.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:@SECLEVEL=1"
# OpenSSL's reasons why a client certificate cannot be used.
_CAUSES = {
    "KEY_VALUES_MISMATCH": "they belong to different keys",
    "EE_KEY_TOO_SMALL": "the key is too short",
    "CA_MD_TOO_WEAK": "its signature is too weak",
}


class _Context(ssl.SSLContext):
    """TLS settings for simultaneous connections from several threads.

    urllib3 sets the same protocols again before each connection. OpenSSL then frees the former
    ones, which another thread may be copying. Of 160,000 connections from eight threads, 6 and 7
    (Python 3.13 and 3.11) began with a damaged message, which the API server rejects with `tlsv1
    alert decode error`; with this class none did.
    """

    sslsocket_class, sslobject_class = TlsSocket, TlsObject
    _protocols: tuple[str, ...] = ()

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Set the protocols to offer, if they differ."""
        asked = tuple(alpn_protocols)
        if asked != self._protocols:
            self._protocols = asked
            super().set_alpn_protocols(asked)


def context_of(cluster: Cluster, certificate: Certificate | None) -> ssl.SSLContext:
    """The TLS settings for requests and websockets.

    Raises:
        Unreachable: a certificate or key cannot be read, is not PEM, or does not fit, or no
            temporary file can be written for it.
    """
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # TlsSocket and TlsObject check the name, with Go's rules.
    context.check_hostname = False
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])
    if cluster.insecure:
        context.verify_mode = ssl.CERT_NONE
    else:
        _trust(context, cluster)
    if certificate:
        _present(context, certificate)
    return context


def system_context() -> ssl.SSLContext:
    """TLS settings that trust the system's authorities."""
    return context_of(Cluster(), None)


def _trust(context: ssl.SSLContext, cluster: Cluster) -> None:
    data = cluster.certificate_authority_data
    if not data and cluster.certificate_authority:
        data = read_file(cluster.certificate_authority, "certificate-authority")
    if not data:
        _trust_system(context)
        return
    if not _trust_each(context, data):
        raise Unreachable(
            f"the certificate authority of {cluster.url} contains no certificate (PEM)",
            hints=["check it: kubectl config view --raw"],
        )


def _trust_each(context: ssl.SSLContext, data: bytes) -> bool:
    """Trust the valid certificates in PEM text; return whether there was one.

    As in Go, invalid certificates are ignored.
    """
    blocks = [block.decode("ascii", errors="replace") for block in _CERTIFICATE.findall(data)]
    try:
        context.load_verify_locations(cadata="\n".join(blocks))
    except (ssl.SSLError, ValueError):
        return any([_trust_one(context, block) for block in blocks])
    return True


def _trust_one(context: ssl.SSLContext, block: str) -> bool:
    try:
        context.load_verify_locations(cadata=block)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _trust_system(context: ssl.SSLContext) -> None:
    context.load_default_certs()
    # OpenSSL only finds files there that are named by their hash; Go reads all of them.
    for folder in filter(None, os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        for file in sorted(Path(folder).glob("*")):
            with suppress(OSError):
                _trust_each(context, file.read_bytes())
    # As in Go, an empty SSL_CERT_FILE is like none. OpenSSL would read nothing.
    if context.cert_store_stats()["x509_ca"] or os.environ.get("SSL_CERT_FILE"):
        return
    for path in _SYSTEM_FILES:
        with suppress(OSError):
            if _trust_each(context, Path(path).read_bytes()):
                return
    # Imported here because it is only needed on a system without authorities.
    import certifi

    context.load_verify_locations(certifi.where())


def _present(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Add a client certificate to the context, through a file, because OpenSSL only reads files.

    Raises:
        Unreachable: no file can be written, or the certificate or its key is invalid.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="kubectl-istio-udp-") as folder:
            _load(context, certificate, folder)
    except OSError as error:
        raise Unreachable(
            f"the client certificate needs a temporary file: {error.strerror}",
            hints=["set TMPDIR to a folder where files can be written"],
        ) from error


def _load(context: ssl.SSLContext, certificate: Certificate, folder: str) -> None:
    paths = [os.path.join(folder, name) for name in ("certificate", "key")]
    for path, content in zip(paths, (certificate.certificate, certificate.key), strict=True):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    try:
        # The password stops OpenSSL from prompting for one on the terminal.
        context.load_cert_chain(paths[0], paths[1], password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        why = _CAUSES.get(getattr(error, "reason", ""), "they are not PEM, or the key is encrypted")
        raise Unreachable(
            f"the client certificate or its key cannot be read: {why}",
            hints=["check them: kubectl config view --raw"],
        ) from error
