"""Configurations for finding a cluster, and the requests that kubectl sends with them.

tests/unit/kube/test_kubeconfig.py holds the plugin to them; tests/cluster/test_kubectl.py runs
kubectl beside it, so that they stay true.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

GZIP = ("accept-encoding", "gzip")


@dataclass(frozen=True)
class Case:
    """A situation.

    `$NAME` in texts stands for what the recorders have under it (`$http`, `$tls` and the like are
    URLs, `$PORT_x` ports, `$FILE_x` paths, `$DATA_x` base64), `$DIR` for the folder of the files.

    Attributes:
        name: what is special about it.
        files: contents by name; a mapping is written as YAML. The command runs in their folder.
        env, flags: what the command is run with; KUBECONFIG is `$DIR/config` unless it is given.
        server: the recorder that is asked; "" where none is, because the command is refused.
        headers: those that say who asks.
        certificate: the client's.
        prefix: path of the API server.
        sni: the name that the TLS handshake asks for.
        proxied: what the proxy is asked for.
        says: a part of the plugin's message where it refuses.
        kubectl: what kubectl does where the plugin does otherwise: the server that it asks, or
            `elsewhere` for one that is not there.
        pod: whether it is a pod whose service account's files are in the folder `pod`.
        encoding: the encoding of the files.
        links: symbolic links by name, with their targets.
    """

    name: str
    files: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    server: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    certificate: str = ""
    prefix: str = ""
    sni: str = ""
    proxied: str = ""
    gzip: bool = True
    says: str = ""
    kubectl: str = ""
    pod: bool = False
    encoding: str = "utf-8"
    links: Mapping[str, str] = field(default_factory=dict)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def config(cluster: Any = None, user: Any = None, **more: Any) -> dict[str, Any]:
    """A kubeconfig with one of everything; its cluster is `$http` unless given."""
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": "$http", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        **more,
    }
    return {key: value for key, value in found.items() if value is not None}


TLS = {"server": "$tls", "certificate-authority": "$FILE_ca.pem"}
CERT = {"client-certificate": "$FILE_cert.pem", "client-key": "$FILE_key.pem"}
TOKEN = {"token": "t"}
V1 = "client.authentication.k8s.io/v1"
BETA = "client.authentication.k8s.io/v1beta1"


def secure(user: Any = None, **cluster: Any) -> dict[str, Any]:
    """A kubeconfig with a cluster that uses TLS."""
    return config({**TLS, **cluster}, TOKEN if user is None else user)


def plugin(version: str = V1, **more: Any) -> dict[str, Any]:
    """A user with a credential plugin, which is a script in the same folder."""
    return {
        "exec": {
            "apiVersion": version,
            "command": "./plugin",
            "interactiveMode": "IfAvailable",
            **more,
        }
    }


def printing(status: str, version: str = V1) -> str:
    """A script that prints credentials; $X in the status is its environment's."""
    return (
        "#!/bin/sh\ncat <<E\n"
        f'{{"kind": "ExecCredential", "apiVersion": "{version}", "status": {status}}}\nE\n'
    )


def expiring(time: str) -> dict[str, Any]:
    """A user with a plugin whose token `a` expires at this time."""
    status = f'{{"token": "a", "expirationTimestamp": "{time}"}}'
    return {"config": secure(plugin()), "plugin": printing(status)}


TOKEN_SCRIPT = printing('{"token": "from-plugin"}')
TOLD_SCRIPT = """#!/bin/sh
kind='"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1"'
case $KUBERNETES_EXEC_INFO in
"{$kind,"'"spec":{"cluster":{"server":"https://'*) told=told ;;
esac
cat <<E
{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
 "status": {"token": "$told"}}
E
"""
ALSO = "$DIR/config:$DIR/second"
NULL: Any = None
BRACKETS = "[" * 100_000 + "]" * 100_000
PROXIED = {**TLS, "server": "https://api.example:6443"}
NAMED = {**TLS, "tls-server-name": "api.example"}
HTTP = "http://127.0.0.1:$PORT_proxy"
POD = {"pod/token": "in-pod\n", "pod/ca.crt": "$PEM_ca.pem"}
PLAIN = """\
apiVersion: v1
kind: Config
current-context: c
clusters:
- name: k
  cluster: {server: $http}
contexts: [{name: c, context: {cluster: k}}]
"""
JSON = (
    '{"current-context": "c", "kind": "Config", "apiVersion": "v1", '
    '"clusters": [{"name": "k", "cluster": {"server": "$http"}}], "users": [], '
    '"contexts": [{"name": "c", "context": {"cluster": "k"}}]}'
)


def written(*lines: str) -> dict[str, Any]:
    """A kubeconfig whose user is written so in YAML."""
    head = (
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "clusters: [{name: k, cluster: {server: $tls, certificate-authority: $FILE_ca.pem}}]\n"
        "contexts: [{name: c, context: {cluster: k, user: u}}]\nusers:\n- name: u\n  user:\n"
    )
    return {"config": head + "".join(f"    {line}\n" for line in lines)}


ASKS_PROXY: dict[str, Any] = {"server": "tls", "headers": bearer("t"), "sni": "api.example"}


def jwt(ends: int) -> str:
    """An id-token with this expiry time (seconds since 1970) and an unchecked signature."""
    parts = {"alg": "RS256"}, {"iss": "https://idp.example", "exp": ends}
    coded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return ".".join([*coded, "c2ln"])


VALID, EXPIRED = jwt(4_102_444_800), jwt(946_684_800)


def oidc(**settings: str) -> dict[str, Any]:
    """A user of the auth provider oidc."""
    known = {"idp-issuer-url": "https://127.0.0.1:1", "client-id": "me", "client-secret": "s3cret"}
    return {"auth-provider": {"name": "oidc", "config": {**known, **settings}}}


CASES = [
    # -- files ----------------------------------------------------------------------------------
    Case("one file", {"config": config()}, server="http"),
    Case("~/.kube/config", {".kube/config": config()}, {"KUBECONFIG": ""}, server="http"),
    Case("--kubeconfig", {"other": config()}, flags=("--kubeconfig=$DIR/other",), server="http"),
    Case(
        "--kubeconfig goes before KUBECONFIG",
        {"config": secure(), "other": config()},
        flags=("--kubeconfig", "$DIR/other"),
        server="http",
    ),
    Case(
        "of two current contexts the first counts",
        {"config": config(), "second": {**secure(), "current-context": "d"}},
        {"KUBECONFIG": ALSO},
        server="http",
    ),
    Case(
        "of two entries with a name the first counts, as a whole",
        {
            "config": config({"server": "$http/first"}, clusters=None, contexts=None)
            | {"clusters": [{"name": "k", "cluster": {"server": "$http/first"}}]},
            "second": config({"server": "$http/second", "insecure-skip-tls-verify": True}),
        },
        {"KUBECONFIG": ALSO},
        server="http",
        prefix="/first",
    ),
    Case(
        "entries of several files together",
        {
            "config": config(users=None, clusters=None),
            "second": config(contexts=None, **{"current-context": None}),
        },
        {"KUBECONFIG": ALSO},
        server="http",
    ),
    Case("a missing file in the list", {"second": config()}, {"KUBECONFIG": ALSO}, server="http"),
    Case(
        "an empty file in the list",
        {"config": "", "second": config()},
        {"KUBECONFIG": ALSO},
        server="http",
    ),
    Case(
        "a file with a comment alone",
        {"config": "# nothing\n", "second": config()},
        {"KUBECONFIG": ALSO},
        server="http",
    ),
    Case(
        "empty parts in KUBECONFIG",
        {"config": config()},
        {"KUBECONFIG": ":$DIR/config::"},
        server="http",
    ),
    Case(
        "a folder in the list",
        {"second": config()},
        {"KUBECONFIG": "$DIR:$DIR/second"},
        says="Is a directory",
    ),
    Case(
        "a file that is no YAML",
        {"config": "a: [b", "second": config()},
        {"KUBECONFIG": ALSO},
        says="cannot be used",
    ),
    Case("a file with a list", {"config": "[]"}, says="not a mapping"),
    Case(
        "a file of another kind",
        {"config": {"apiVersion": "v1", "kind": "Secret"}},
        says="it is a Secret",
    ),
    Case(
        "a file without kind and version",
        {"config": config(kind=None, apiVersion=None)},
        server="http",
    ),
    Case(
        "a file as JSON",
        {"config": JSON},
        server="http",
    ),
    Case("--kubeconfig that is missing", flags=("--kubeconfig=$DIR/none",), says="no such file"),
    Case(
        "a number for a name",
        {"config": config(contexts=[{"name": 1, "context": {}}])},
        says="name of an entry of contexts",
    ),
    Case(
        "a name that comes twice",
        {"config": config(users=[{"name": "u", "user": {}}, {"name": "u", "user": TOKEN}])},
        says="two entries named 'u'",
    ),
    Case(
        "a name that looks like a date",
        {
            "config": "apiVersion: v1\nkind: Config\ncurrent-context: 2001-01-01\n"
            "clusters: [{name: k, cluster: {server: $http}}]\n"
            "contexts: [{name: 2001-01-01, context: {cluster: k}}]\n"
        },
        server="http",
    ),
    Case(
        "a file in UTF-16",
        written("token: t"),
        server="tls",
        headers=bearer("t"),
        encoding="utf-16",
    ),
    Case(
        "a file in UTF-16, big-endian",
        {"config": "\ufeff" + written("token: t")["config"]},
        server="tls",
        headers=bearer("t"),
        encoding="utf-16-be",
    ),
    Case("JSON in UTF-16", {"config": JSON}, server="http", encoding="utf-16"),
    Case("JSON with a byte order mark", {"config": JSON}, server="http", encoding="utf-8-sig"),
    # -- YAML -----------------------------------------------------------------------------------
    *(
        Case(
            f"a token written as {text}",
            written(f"token: {text}"),
            server="tls",
            headers=bearer(sent or text),
        )
        for text, sent in [
            ("12:34:56", ""),
            ("1:00", ""),
            ("190:20:30.15", ""),
            ("2001-01-01", ""),
            ("2001-01-01T10:00:00Z", ""),
            ("=", ""),
            ("<<", ""),
            ("1e", ""),
            ("0x", ""),
            ("0b", ""),
            ("_1", ""),
            ("nULL", ""),
            ("tRUE", ""),
            ("1e400", ""),
            ("!!str 12", "12"),
            ("!x t", "t"),
            ("!x 12", "12"),
            ("!x y", "y"),
            ("! t", "t"),
            ("!<x> t", "t"),
            ("!!python/str t", "t"),
            ("!!binary dA==", "t"),
            ("!!timestamp 2001-01-01", "2001-01-01"),
        ]
    ),
    *(
        Case(
            f"a token written as {text}, which is no text",
            written(f"token: {text}"),
            says="token of user 'u' is not a string",
        )
        for text in [
            "1",
            "+12",
            "017",
            "089",
            "0_7",
            "0o17",
            "0O17",
            "0x1F",
            "0X1F",
            "0b11",
            "-0b1",
            "0B1",
            "1_000",
            "1.5",
            "5.",
            ".5",
            "+.5",
            "1e3",
            "1e+3",
            "99999999999999999999",
            "y",
            "n",
            "Yes",
            "on",
            "TRUE",
            '!!int "12"',
            "!!float 12",
            "!!bool y",
            "!x [a]",
            "!!set {a, b}",
            "!!str [a]",
        ]
    ),
    *(
        Case(
            f"a token written as {text}, which is no YAML",
            written(f"token: {text}"),
            says=f"cannot be used: line {line}: {says}",
        )
        for text, line, says in [
            ("*s3cret", 9, "found undefined alias"),
            ("!!int s3cret", 9, "the value is not of the type int"),
            ("!!float s3cret", 9, "the value is not of the type float"),
            ("!!bool s3cret", 9, "the value is not of the type bool"),
            ("!!null s3cret", 9, "the value is not of the type null"),
            ("!!binary s3cret*", 9, "the value is not base64"),
            ("!s3cret!x t", 9, "found undefined tag handle"),
            ("s3cret: x", 9, "mapping values are not allowed"),
            ('"s3cret\\q"', 9, "found unknown escape character"),
            ("@s3cret", 9, "found character"),
            ("[s3cret", 10, "did not find expected"),
            (".inf", 9, "the value is not a number of JSON"),
        ]
    ),
    Case(
        "a password with a tag",
        written("username: a", "password: !s3cret"),
        server="tls",
        headers=(("authorization", "Basic YTo="),),
    ),
    Case("a user with a tag", written("!x {token: t}"), server="tls", headers=bearer("t")),
    Case(
        "fields that are merged",
        written("<<: [{token: t}, {token: v}]"),
        server="tls",
        headers=bearer("t"),
    ),
    Case("merging text", written("<<: s3cret", "token: t"), says="line 9: expected a mapping"),
    Case(
        "keys that are no text",
        written("token: t", "as: a", "as-user-extra: {12: [b], y: [c], '=': [d]}", "13: e"),
        server="tls",
        headers=(
            *bearer("t"),
            ("impersonate-extra-%3d", "d"),
            ("impersonate-extra-12", "b"),
            ("impersonate-extra-true", "c"),
            ("impersonate-user", "a"),
        ),
    ),
    # -- contexts -------------------------------------------------------------------------------
    Case(
        "no current context, and --context",
        {"config": config(**{"current-context": None})},
        flags=("--context=c",),
        server="http",
    ),
    Case(
        "odd names",
        {
            "config": config(
                **{"current-context": "arn:aws:eks:eu-1:12:cluster/a b"},
                contexts=[
                    {
                        "name": "arn:aws:eks:eu-1:12:cluster/a b",
                        "context": {"cluster": "k", "user": "u"},
                    }
                ],
            )
        },
        server="http",
    ),
    Case("--context that is missing", {"config": config()}, flags=("--context=x",), says="'x'"),
    Case(
        "a current context that is missing",
        {"config": config(**{"current-context": "x"})},
        says="no context 'x'",
    ),
    Case(
        "a context that names a missing user",
        {"config": config(users=[])},
        says="has no user 'u' (context 'c' names user 'u')",
        kubectl="http",
    ),
    Case(
        "a context that names a missing cluster",
        {"config": config(clusters=[])},
        says="has no cluster 'k'",
        kubectl="elsewhere",
    ),
    Case(
        "--cluster",
        {
            "config": config(
                clusters=[
                    {"name": "k", "cluster": {"server": "http://127.0.0.1:1"}},
                    {"name": "l", "cluster": {"server": "$http"}},
                ]
            )
        },
        flags=("--cluster=l",),
        server="http",
    ),
    Case("--cluster that is missing", {"config": config()}, flags=("--cluster=x",), says="'x'"),
    Case(
        "--user",
        {
            "config": config(
                TLS, users=[{"name": "v", "user": {"token": "v"}}, {"name": "u", "user": TOKEN}]
            )
        },
        flags=("--user=v",),
        server="tls",
        headers=bearer("v"),
    ),
    Case("--user that is missing", {"config": config()}, flags=("--user=x",), says="'x'"),
    # -- servers --------------------------------------------------------------------------------
    Case(
        "a server with a path",
        {"config": config({"server": "$http/k8s/c-1/"})},
        server="http",
        prefix="/k8s/c-1",
    ),
    Case(
        "a server without a scheme",
        {"config": config({"server": "127.0.0.1:$PORT_http"})},
        server="http",
    ),
    Case(
        "a server that is no URL",
        {"config": config({"server": "ftp://127.0.0.1"})},
        says="neither an http or https URL",
    ),
    Case("--server alone", flags=("--server=$http",), server="http"),
    Case("-s over the kubeconfig's", {"config": secure()}, flags=("-s", "$http"), server="http"),
    Case(
        "a user in the server's URL",
        {"config": config({"server": "http://a:b@127.0.0.1:$PORT_http"})},
        server="http",
        headers=(("authorization", "Basic YTpi"),),
    ),
    Case("KUBERNETES_MASTER", env={"KUBERNETES_MASTER": "$http"}, server="http"),
    Case("nothing at all", says="no kubeconfig names a server", kubectl="elsewhere"),
    Case(
        "KUBECONFIG names a file that does not exist",
        env={"KUBECONFIG": "nothing"},
        says="the default was used (not found: nothing)",
        kubectl="elsewhere",
    ),
    Case(
        "--server is no URL",
        {"config": secure()},
        flags=("--server=ftp://127.0.0.1",),
        says="the kubeconfig with --server cannot be used: server 'ftp://127.0.0.1'",
    ),
    Case(
        "a timeout of months",
        {"config": PLAIN},
        flags=("--request-timeout=10000h",),
        server="http",
    ),
    Case(
        "without compression",
        {"config": secure(**{"disable-compression": True})},
        server="tls",
        headers=bearer("t"),
        gzip=False,
    ),
    # -- users ----------------------------------------------------------------------------------
    Case("no token over plain HTTP", {"config": config(user=TOKEN)}, server="http"),
    Case("a token", {"config": secure()}, server="tls", headers=bearer("t")),
    Case(
        "--token",
        {"config": secure()},
        flags=("--token=flag",),
        server="tls",
        headers=bearer("flag"),
    ),
    Case(
        "a token's file",
        {"config": secure({"tokenFile": "token"}), "token": "from-file\n"},
        server="tls",
        headers=bearer("from-file"),
    ),
    Case(
        "a token's file goes before a token",
        {"config": secure({"tokenFile": "token", "token": "t"}), "token": "from-file"},
        server="tls",
        headers=bearer("from-file"),
    ),
    Case(
        "a token's file that is missing",
        {"config": secure({"tokenFile": "none"})},
        says="token file",
    ),
    Case(
        "a name and a password",
        {"config": secure({"username": "a", "password": "b:c"})},
        server="tls",
        headers=(("authorization", "Basic YTpiOmM="),),
    ),
    Case(
        "a token and a password",
        {"config": secure({"username": "a", "password": "b", "token": "t"})},
        says="both a token and a username",
    ),
    Case("nothing to log in with", {"config": secure({})}, says="no credentials"),
    Case("a client certificate", {"config": secure(CERT)}, server="tls", certificate="client"),
    Case(
        "a client certificate as data",
        {
            "config": secure(
                {"client-certificate-data": "$DATA_cert.pem", "client-key-data": "$DATA_key.pem"}
            )
        },
        server="tls",
        certificate="client",
    ),
    Case(
        "a client certificate and a token",
        {"config": secure({**CERT, **TOKEN})},
        server="tls",
        certificate="client",
        headers=bearer("t"),
    ),
    Case(
        "paths that belong to the file",
        {
            "below/config": secure(
                {"client-certificate": "../mine/cert", "client-key": "../mine/key"}
            ),
            "mine/cert": "$PEM_cert.pem",
            "mine/key": "$PEM_key.pem",
        },
        {"KUBECONFIG": "$DIR/below/config"},
        server="tls",
        certificate="client",
    ),
    Case(
        "--client-certificate",
        {"config": secure(CERT)},
        flags=("--client-certificate=$FILE_cert2.pem", "--client-key=$FILE_key2.pem"),
        server="tls",
        certificate="other client",
    ),
    Case(
        "a certificate without a key",
        {"config": secure({"client-certificate": "$FILE_cert.pem"})},
        says="no client-key",
    ),
    Case(
        "a certificate twice",
        {"config": secure({**CERT, "client-certificate-data": "$DATA_cert.pem"})},
        says="both client-certificate",
    ),
    Case(
        "a certificate that is missing",
        {"config": secure({**CERT, "client-certificate": "none"})},
        says="cannot be read",
    ),
    Case(
        "the key of another certificate",
        {"config": secure({**CERT, "client-key": "$FILE_key2.pem"})},
        says="belong to different keys",
    ),
    Case(
        "data that is not base64",
        {"config": secure({"client-certificate-data": "%%%"})},
        says="not base64",
    ),
    # -- impersonation --------------------------------------------------------------------------
    Case(
        "impersonation in the file",
        {
            "config": config(
                user={
                    "as": "jane",
                    "as-groups": ["dev", "ops"],
                    "as-uid": "7",
                    "as-user-extra": {"reason": ["a", "b"], "x/y%": ["c"]},
                }
            )
        },
        server="http",
        headers=(
            ("impersonate-extra-reason", "a"),
            ("impersonate-extra-reason", "b"),
            ("impersonate-extra-x%2fy%25", "c"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "7"),
            ("impersonate-user", "jane"),
        ),
    ),
    Case(
        "--as over the file's, whose groups stay",
        {"config": config(user={"as": "jane", "as-groups": ["dev"]})},
        flags=("--as=bob",),
        server="http",
        headers=(("impersonate-group", "dev"), ("impersonate-user", "bob")),
    ),
    Case(
        "--as, --as-group, --as-uid",
        {"config": config()},
        flags=("--as=bob", "--as-group=a", "--as-group=b", "--as-uid=9"),
        server="http",
        headers=(
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "9"),
            ("impersonate-user", "bob"),
        ),
    ),
    Case(
        "groups without a user",
        {"config": config(user={"as-groups": ["dev"]})},
        says="no user (--as)",
    ),
    Case("--as-group alone", {"config": config()}, flags=("--as-group=a",), says="no user (--as)"),
    # -- credential plugins ---------------------------------------------------------------------
    Case(
        "a plugin of v1",
        {"config": secure(plugin()), "plugin": TOKEN_SCRIPT},
        server="tls",
        headers=bearer("from-plugin"),
    ),
    Case(
        "a plugin of v1beta1",
        {
            "config": secure(plugin(BETA, interactiveMode=None)),
            "plugin": printing('{"token": "beta"}', BETA),
        },
        server="tls",
        headers=bearer("beta"),
    ),
    Case(
        "a plugin with arguments and environment",
        {
            "config": secure(plugin(args=["one"], env=[{"name": "TWO", "value": "2"}])),
            "plugin": printing('{"token": "$1-$TWO"}'),
        },
        server="tls",
        headers=bearer("one-2"),
    ),
    Case(
        "a plugin on PATH",
        {
            "config": secure(plugin(command="kubectl-test-plugin")),
            "bin/kubectl-test-plugin": TOKEN_SCRIPT,
        },
        {"PATH": "$DIR/bin:$PATH"},
        server="tls",
        headers=bearer("from-plugin"),
    ),
    Case(
        "a plugin that gives a certificate",
        {
            "config": secure(plugin()),
            "plugin": printing(
                '{"clientCertificateData": "$JSON_cert.pem", "clientKeyData": "$JSON_key.pem"}'
            ),
        },
        server="tls",
        certificate="client",
    ),
    Case(
        "a plugin that is told about the cluster",
        {
            "config": secure(plugin(provideClusterInfo=True)),
            "plugin": TOLD_SCRIPT,
        },
        server="tls",
        headers=bearer("told"),
    ),
    Case(
        "a token goes before a plugin",
        {"config": secure({**plugin(), **TOKEN}), "plugin": "#!/bin/sh\nexit 1\n"},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "a plugin that is missing",
        {"config": secure(plugin(command="cloud-login", installHint="get it from X"))},
        says="cloud-login was not found",
    ),
    Case(
        "a plugin that is missing, over plain HTTP",
        {"config": config(user=plugin(command="cloud-login"))},
        says="cloud-login was not found",
        kubectl="http",
    ),
    Case(
        "a plugin that fails",
        {"config": secure(plugin()), "plugin": "#!/bin/sh\necho no luck >&2\nexit 3\n"},
        says="failed with exit code 3",
    ),
    Case(
        "a plugin that prints something else",
        {"config": secure(plugin()), "plugin": "#!/bin/sh\necho hello\n"},
        says="did not print an ExecCredential",
    ),
    Case(
        "a plugin of another version",
        {"config": secure(plugin()), "plugin": printing('{"token": "t"}', BETA)},
        says="the kubeconfig has",
    ),
    Case(
        "a plugin that gives nothing",
        {"config": secure(plugin()), "plugin": printing("{}")},
        says="neither a token nor a certificate",
    ),
    Case(
        "a plugin that must ask",
        {"config": secure(plugin(interactiveMode="Always")), "plugin": TOKEN_SCRIPT},
        says="standard input is not a terminal",
    ),
    Case(
        "a plugin of v1 without interactiveMode",
        {"config": secure(plugin(interactiveMode=None)), "plugin": TOKEN_SCRIPT},
        says="interactiveMode",
    ),
    Case(
        "a plugin of v1alpha1",
        {"config": secure(plugin("client.authentication.k8s.io/v1alpha1")), "plugin": TOKEN_SCRIPT},
        says="apiVersion",
    ),
    Case("a plugin without a command", {"config": secure(plugin(command=None))}, says="no command"),
    Case(
        "an auth provider that was removed",
        {"config": secure({"auth-provider": {"name": "gcp", "config": {}}})},
        says="gke-gcloud-auth-plugin",
    ),
    # -- TLS ------------------------------------------------------------------------------------
    Case(
        "an authority as data",
        {"config": config({"server": "$tls", "certificate-authority-data": "$DATA_ca.pem"}, TOKEN)},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "an authority without key identifiers",
        {"config": secure(server="$old", **{"certificate-authority": "$FILE_old-ca.pem"})},
        server="old",
        headers=bearer("t"),
    ),
    Case(
        "an intermediate as authority",
        {"config": secure(server="$middle", **{"certificate-authority": "$FILE_middle-ca.pem"})},
        server="middle",
        headers=bearer("t"),
    ),
    Case(
        "the server's own certificate as authority",
        {"config": secure(server="$alone", **{"certificate-authority": "$FILE_alone-ca.pem"})},
        server="alone",
        headers=bearer("t"),
    ),
    Case(
        "another authority",
        {"config": secure(**{"certificate-authority": "$FILE_old-ca.pem"})},
        says="certificate is not trusted",
    ),
    Case(
        "the system's authorities",
        {"config": config({"server": "$tls"}, TOKEN)},
        {"SSL_CERT_FILE": "$FILE_ca.pem"},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "an authority that the system does not know",
        {"config": config({"server": "$tls"}, TOKEN)},
        says="certificate is not trusted",
    ),
    Case(
        "insecure-skip-tls-verify",
        {"config": config({"server": "$tls", "insecure-skip-tls-verify": True}, TOKEN)},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "--insecure-skip-tls-verify over an authority",
        {"config": secure(server="$old")},
        flags=("--insecure-skip-tls-verify",),
        server="old",
        headers=bearer("t"),
    ),
    Case(
        "insecure and an authority",
        {"config": secure(**{"insecure-skip-tls-verify": True})},
        says="insecure-skip-tls-verify",
    ),
    Case(
        "--certificate-authority",
        {"config": config({"server": "$tls"}, TOKEN)},
        flags=("--certificate-authority=$FILE_ca.pem",),
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "--certificate-authority over insecure",
        {"config": config({"server": "$tls", "insecure-skip-tls-verify": True}, TOKEN)},
        flags=("--certificate-authority=$FILE_old-ca.pem",),
        says="certificate is not trusted",
    ),
    Case(
        "an authority that is missing",
        {"config": secure(**{"certificate-authority": "none"})},
        says="cannot be read",
    ),
    Case(
        "an authority that is no certificate",
        {"config": secure(**{"certificate-authority": "text"}), "text": "hello"},
        says="contains no certificate",
    ),
    Case("the name of another server", {"config": secure(server="$elsewhere")}, says="not trusted"),
    Case(
        "tls-server-name",
        {"config": secure(server="$elsewhere", **{"tls-server-name": "elsewhere.example"})},
        server="elsewhere",
        headers=bearer("t"),
        sni="elsewhere.example",
    ),
    Case(
        "--tls-server-name",
        {"config": secure(server="$elsewhere")},
        flags=("--tls-server-name=elsewhere.example",),
        server="elsewhere",
        headers=bearer("t"),
        sni="elsewhere.example",
    ),
    Case(
        "--server without the kubeconfig's tls-server-name",
        {"config": secure(**{"tls-server-name": "elsewhere.example"})},
        flags=("--server=$tls",),
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "a host name",
        {"config": secure(server="https://localhost:$PORT_tls")},
        server="tls",
        headers=bearer("t"),
        sni="localhost",
    ),
    Case(
        "a certificate without names",
        {"config": secure(server="https://localhost:$PORT_nameless")},
        says="not trusted",
    ),
    Case(
        "a certificate for every name of a private domain",
        {
            "config": secure(
                server="https://127.0.0.1:$PORT_wild", **{"tls-server-name": "API.example"}
            )
        },
        server="wild",
        headers=bearer("t"),
        sni="API.example",
    ),
    *(
        Case(
            f"a certificate for other names than {name}",
            {"config": secure(server=f"https://localhost:$PORT_{of}", **{"tls-server-name": name})},
            says="not trusted",
        )
        for of, name in [
            ("wild", "one.api.example"),
            ("wild", "example"),
            ("partly-wild", "api.example"),
            ("partly-wild", "localhost"),
            ("tls", "127.0.0.2"),
            ("tls", "xapi.example"),
        ]
    ),
    Case(
        "a certificate for other names, through an https proxy",
        {
            "config": secure(
                server="https://elsewhere.example",
                **{"proxy-url": "https://localhost:$PORT_tlsproxy"},
            )
        },
        says="not trusted",
    ),
    Case(
        "a server with an RSA key of 1024 bits and CBC ciphers with SHA-1 alone",
        {"config": secure(server="$weak")},
        server="weak",
        headers=bearer("t"),
    ),
    Case(
        "a client certificate with an RSA key of 1024 bits",
        {
            "config": secure(
                {"client-certificate": "$FILE_weak-cert.pem", "client-key": "$FILE_weak-key.pem"}
            )
        },
        server="tls",
        certificate="weak client",
    ),
    Case("a certificate that has expired", {"config": secure(server="$expired")}, says="expired"),
    # -- proxies --------------------------------------------------------------------------------
    Case(
        "proxy-url",
        {"config": config({**PROXIED, "proxy-url": "http://127.0.0.1:$PORT_proxy"}, TOKEN)},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "proxy-url with a password",
        {
            "config": config(
                {**PROXIED, "proxy-url": "http://me:p%40ss@127.0.0.1:$PORT_proxy"}, TOKEN
            )
        },
        **ASKS_PROXY,
        proxied="CONNECT api.example as me:p@ss",
    ),
    Case(
        "proxy-url for a loopback address",
        {"config": secure(**{"proxy-url": "http://127.0.0.1:$PORT_proxy"})},
        server="tls",
        headers=bearer("t"),
        proxied="CONNECT 127.0.0.1 as ",
    ),
    Case(
        "a socks5 proxy",
        {"config": config({**PROXIED, "proxy-url": "socks5://127.0.0.1:$PORT_socks"}, TOKEN)},
        **ASKS_PROXY,
        proxied="SOCKS api.example as ",
    ),
    Case(
        "a socks5 proxy with a password",
        {"config": config({**PROXIED, "proxy-url": "socks5://me:pw@127.0.0.1:$PORT_socks"}, TOKEN)},
        **ASKS_PROXY,
        proxied="SOCKS api.example as me:pw",
    ),
    Case(
        "an https proxy",
        {"config": config({**PROXIED, "proxy-url": "https://localhost:$PORT_tlsproxy"}, TOKEN)},
        {"SSL_CERT_FILE": "$FILE_ca.pem"},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "a proxy of another kind",
        {"config": config({**PROXIED, "proxy-url": "gopher://x:1"}, TOKEN)},
        says="scheme",
    ),
    Case(
        "a proxy that is no URL",
        {"config": config({**PROXIED, "proxy-url": "127.0.0.1:3128"}, TOKEN)},
        says="scheme",
    ),
    Case(
        "HTTPS_PROXY",
        {"config": config(PROXIED, TOKEN)},
        {"HTTPS_PROXY": "http://me:pw@127.0.0.1:$PORT_proxy"},
        **ASKS_PROXY,
        proxied="CONNECT api.example as me:pw",
    ),
    Case(
        "https_proxy without a scheme",
        {"config": config(PROXIED, TOKEN)},
        {"https_proxy": "127.0.0.1:$PORT_proxy"},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "proxy-url goes before HTTPS_PROXY",
        {"config": config({**PROXIED, "proxy-url": "socks5://127.0.0.1:$PORT_socks"}, TOKEN)},
        {"HTTPS_PROXY": "http://127.0.0.1:$PORT_proxy"},
        **ASKS_PROXY,
        proxied="SOCKS api.example as ",
    ),
    Case(
        "a loopback address goes past HTTPS_PROXY",
        {"config": secure()},
        {"HTTPS_PROXY": "http://127.0.0.1:$PORT_proxy"},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "localhost goes past HTTPS_PROXY",
        {"config": secure(server="https://localhost:$PORT_tls")},
        {"HTTPS_PROXY": "http://127.0.0.1:$PORT_proxy"},
        server="tls",
        headers=bearer("t"),
        sni="localhost",
    ),
    Case(
        "localhost with a dot does not go past HTTPS_PROXY",
        {"config": secure(server="https://localhost.:$PORT_tls")},
        {"HTTPS_PROXY": HTTP},
        server="tls",
        headers=bearer("t"),
        sni="localhost",
        proxied="CONNECT localhost. as ",
    ),
    Case(
        "HTTP_PROXY does not lead to https",
        {"config": config({**PROXIED, "server": "https://api.invalid:6443"}, TOKEN)},
        {"HTTP_PROXY": "http://127.0.0.1:$PORT_proxy"},
        says="cannot be reached",
    ),
    Case(
        "NO_PROXY with the host",
        {"config": config({**PROXIED, "server": "https://api.invalid:6443"}, TOKEN)},
        {"HTTPS_PROXY": "http://127.0.0.1:$PORT_proxy", "NO_PROXY": "x, .invalid"},
        says="cannot be reached",
    ),
    Case(
        "NO_PROXY with another port",
        {"config": config(PROXIED, TOKEN)},
        {"HTTPS_PROXY": "http://127.0.0.1:$PORT_proxy", "NO_PROXY": "api.example:443,pi.example"},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "NO_PROXY with a network",
        {
            "config": config(
                {**PROXIED, "server": "https://10.1.2.3:6443", "tls-server-name": "api.example"},
                TOKEN,
            )
        },
        {"HTTPS_PROXY": "http://127.0.0.1:$PORT_proxy", "NO_PROXY": "10.2.0.0/16"},
        **ASKS_PROXY,
        proxied="CONNECT 10.1.2.3 as ",
    ),
    # -- odd files --------------------------------------------------------------------------------
    Case(
        "anchors and merge keys",
        {
            "config": PLAIN.replace("{server: $http}", "{<<: *s, insecure-skip-tls-verify: false}")
            + "x: &s {server: $http}\n"
        },
        says="undefined alias",
    ),
    Case(
        "anchors before they are used",
        {"config": "x: &s {server: $http}\n" + PLAIN.replace("{server: $http}", "{<<: *s}")},
        server="http",
    ),
    Case(
        "a key twice in YAML: the last one counts",
        {"config": PLAIN + "current-context: d\n"},
        says="no context 'd'",
    ),
    Case(
        "a key twice in JSON: the last one counts",
        {"config": JSON.replace("{", '{"current-context": "x",', 1)},
        server="http",
    ),
    Case("a byte order mark", {"config": "\ufeff" + PLAIN}, server="http"),
    Case("a byte order mark before JSON", {"config": "\ufeff" + JSON}, server="http"),
    Case("lines that end as in DOS", {"config": PLAIN.replace("\n", "\r\n")}, server="http"),
    Case(
        "a tab that indents", {"config": PLAIN.replace("\n  cl", "\n\tcl")}, says="cannot be used"
    ),
    Case("a tab after a colon", {"config": PLAIN.replace("xt: c", "xt:\tc")}, server="http"),
    Case("a second document", {"config": PLAIN + "---\ncurrent-context: z\n"}, server="http"),
    Case(
        "a first document that is empty",
        {"config": "---\n---\n" + PLAIN},
        says="no kubeconfig names a server",
        kubectl="elsewhere",
    ),
    Case("more after JSON", {"config": JSON + "\n{} x"}, server="http"),
    Case("JSON with a comma too many", {"config": JSON[:-1] + ",}"}, server="http"),
    Case("a comment before JSON", {"config": "# mine\n" + JSON}, server="http"),
    Case("keys that nobody knows", {"config": PLAIN + "foo: [1]\n"}, server="http"),
    Case("an entry that is null", {"config": PLAIN + "users: [null, {name: v}]\n"}, server="http"),
    Case("users that are null", {"config": PLAIN + "users:\n"}, server="http"),
    Case(
        "keys in capitals",
        {"config": PLAIN.replace("current-c", "Current-C")},
        kubectl="elsewhere",
        says="no kubeconfig names a server",
    ),
    Case(
        "another version",
        {"config": PLAIN.replace("v1", "v2")},
        says="it has apiVersion 'v2'; use v1",
    ),
    Case("JSON that is nested deeply", {"config": '{"a": ' + BRACKETS + "}"}, says="too deeply"),
    Case("YAML that is nested deeply", {"config": f"a: {BRACKETS}"}, says="too deeply"),
    Case("lists in YAML that are nested deeply", {"config": "- " * 50_000}, says="too deeply"),
    Case(
        "preferences that are a list", {"config": f"{PLAIN}preferences: [1]\n"}, says="preferences"
    ),
    Case(
        "extensions that are a mapping", {"config": f"{PLAIN}extensions: {{}}\n"}, says="extensions"
    ),
    Case("a token that is a number", {"config": secure({"token": 12345})}, says="not a string"),
    Case(
        "insecure as YAML 1.1 writes it",
        {
            "config": PLAIN.replace(
                "{server: $http}", "{server: $tls, insecure-skip-tls-verify: yes}"
            ).replace("cluster: k}", "cluster: k, user: u}")
            + "users: [{name: u, user: {token: t}}]\n"
        },
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "insecure as a string",
        {"config": secure(**{"insecure-skip-tls-verify": "true"})},
        says="not a boolean",
    ),
    Case(
        "base64 in lines",
        {
            "config": PLAIN.replace(
                "{server: $http}",
                "\n    server: $tls\n    certificate-authority-data: |\n      $DATA_ca.pem",
            ).replace("cluster: k}", "cluster: k, user: u}")
            + "users: [{name: u, user: {token: t}}]\n"
        },
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "data of another user that is not base64",
        {
            "config": secure()
            | {
                "users": [
                    {"name": "u", "user": TOKEN},
                    {"name": "v", "user": {"client-key-data": "%"}},
                ]
            }
        },
        says="not base64",
    ),
    Case(
        "a plugin of another user that cannot be used",
        {
            "config": secure()
            | {
                "users": [
                    {"name": "u", "user": TOKEN},
                    {"name": "v", "user": {"exec": {"command": "x"}}},
                ]
            }
        },
        server="tls",
        headers=bearer("t"),
    ),
    # -- where files are ------------------------------------------------------------------------
    Case(
        "a path in KUBECONFIG that is relative",
        {"config": PLAIN},
        {"KUBECONFIG": "config"},
        server="http",
    ),
    Case(
        "a tilde in KUBECONFIG is a name like any other",
        {".kube/config": PLAIN},
        {"KUBECONFIG": "~/.kube/config"},
        says="no kubeconfig names a server",
        kubectl="elsewhere",
    ),
    Case(
        "paths that belong to a file whose path is relative",
        {
            "below/config": secure({"client-certificate": "cert", "client-key": "key"}),
            "below/cert": "$PEM_cert.pem",
            "below/key": "$PEM_key.pem",
        },
        {"KUBECONFIG": "below/config"},
        server="tls",
        certificate="client",
    ),
    *(
        Case(
            f"a {what} above the folder of the file, which is a symbolic link",
            {"real/deep/config": secure(user, **cluster), name: content},
            {"KUBECONFIG": "$DIR/link/config"},
            links={"link": "real/deep"},
            server="tls",
            headers=bearer(token),
        )
        for what, name, content, user, cluster, token in [
            ("ca.pem", "ca.pem", "$PEM_ca.pem", TOKEN, {"certificate-authority": "../ca.pem"}, "t"),
            ("token", "token", "a", {"tokenFile": "../token"}, {}, "a"),
            ("plugin", "plugin", TOKEN_SCRIPT, plugin(command="../plugin"), {}, "from-plugin"),
        ]
    ),
    Case(
        "a path in KUBECONFIG that leads up from a symbolic link",
        {"real/config": secure({"tokenFile": "token"}), "real/token": "in", "token": "out"},
        {"KUBECONFIG": "$DIR/link/../config"},
        links={"link": "real/deep"},
        server="tls",
        headers=bearer("out"),
    ),
    Case(
        "a file twice in KUBECONFIG",
        {"config": PLAIN},
        {"KUBECONFIG": "$DIR/config:$DIR/config:$DIR/./config"},
        server="http",
    ),
    Case(
        "nothing but a colon in KUBECONFIG",
        {".kube/config": PLAIN},
        {"KUBECONFIG": ":"},
        says="no kubeconfig names a server",
        kubectl="elsewhere",
    ),
    Case("--kubeconfig that is empty", {"config": PLAIN}, flags=("--kubeconfig=",), server="http"),
    Case(
        "--kubeconfig with two files",
        {"config": PLAIN},
        flags=("--kubeconfig=$DIR/config:$DIR/config",),
        says="no such file",
    ),
    Case("--kubeconfig with a folder", flags=("--kubeconfig=$DIR",), says="Is a directory"),
    Case(
        "flags that are empty",
        {"config": PLAIN},
        flags=("--context=", "--cluster=", "--user=", "--server=", "--token=", "--as="),
        server="http",
    ),
    Case(
        "a home that is empty",
        {".kube/config": PLAIN},
        {"KUBECONFIG": "", "HOME": ""},
        server="http",
    ),
    Case(
        "a kubeconfig goes before KUBERNETES_MASTER",
        {"config": PLAIN},
        {"KUBERNETES_MASTER": "http://127.0.0.1:1"},
        server="http",
    ),
    Case(
        "KUBERNETES_MASTER where a cluster has no server",
        {"config": config({"server": ""})},
        {"KUBERNETES_MASTER": "$http"},
        server="http",
    ),
    # -- odd servers ----------------------------------------------------------------------------
    Case(
        "slashes twice in a path",
        {"config": config({"server": "$http//a//b/"})},
        server="http",
        prefix="/a/b",
    ),
    Case(
        "a path with what must be escaped",
        {"config": config({"server": "$http/a b%20c"})},
        server="http",
        prefix="/a%20b%20c",
    ),
    Case(
        "a server with a query",
        {"config": config({"server": "$http/p?x=y#z"})},
        server="http",
        prefix="/p",
    ),
    Case(
        "a scheme in capitals",
        {"config": secure(server="HTTPS://127.0.0.1:$PORT_tls")},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "localhost and a port",
        {"config": config({"server": "localhost:$PORT_http"})},
        server="http",
    ),
    Case(
        "a server with a path and no scheme",
        {"config": config({"server": "localhost:1/x"})},
        says="nor HOST:PORT",
    ),
    Case(
        "a server with half an IPv6 address",
        {"config": config({"server": "http://[bad"})},
        says="nor HOST:PORT",
    ),
    Case(
        "a server that is a scheme alone",
        {"config": config({"server": "https://"})},
        says="nor HOST:PORT",
    ),
    Case(
        "a user in the URL goes before a token",
        {"config": secure(server="https://a:b@127.0.0.1:$PORT_tls")},
        server="tls",
        headers=(("authorization", "Basic YTpi"),),
    ),
    Case(
        "a user in the URL with escapes",
        {"config": config({"server": "http://a%40x:b%3Ac@127.0.0.1:$PORT_http"})},
        server="http",
        headers=(("authorization", "Basic YUB4OmI6Yw=="),),
    ),
    Case(
        "a user in the URL without a password",
        {"config": config({"server": "http://a@127.0.0.1:$PORT_http"})},
        server="http",
        headers=(("authorization", "Basic YTo="),),
    ),
    Case(
        "an IPv6 address",
        {"config": config({**NAMED, "server": "https://[fd00::1]:6443", "proxy-url": HTTP}, TOKEN)},
        **ASKS_PROXY,
        proxied="CONNECT [fd00::1] as ",
    ),
    Case(
        "an IPv6 address without a port",
        {"config": config({**NAMED, "server": "https://[fd00::1]", "proxy-url": HTTP}, TOKEN)},
        **ASKS_PROXY,
        proxied="CONNECT [fd00::1] as ",
    ),
    Case(
        "an IPv6 address through socks5",
        {
            "config": config(
                {
                    **NAMED,
                    "server": "https://[fd00::1]:6443",
                    "proxy-url": "socks5://127.0.0.1:$PORT_socks",
                },
                TOKEN,
            )
        },
        **ASKS_PROXY,
        proxied="SOCKS fd00::1 as ",
    ),
    Case(
        "a server without a port",
        {"config": config({**NAMED, "server": "https://api.example", "proxy-url": HTTP}, TOKEN)},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    # -- odd credentials ------------------------------------------------------------------------
    Case(
        "a token with a line break",
        {"config": secure({"token": "s3cret\nX: y"})},
        says="the header Authorization cannot be sent",
    ),
    Case(
        "a token's file with two lines",
        {"config": secure({"tokenFile": "token"}), "token": "s3cret\nmore\n"},
        says="the header Authorization cannot be sent",
    ),
    Case(
        "a token with spaces after it",
        {"config": secure({"token": "t \t"})},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "a token beyond ASCII",
        {"config": secure({"token": "t\u20ac"})},
        server="tls",
        headers=bearer("t\u20ac".encode().decode("latin-1")),
    ),
    Case(
        "a token's file that is empty",
        {"config": secure({"tokenFile": "token"}), "token": "\n"},
        says="is empty",
    ),
    Case(
        "a token where its file is empty",
        {"config": secure({"tokenFile": "token", **TOKEN}), "token": ""},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "a token where its file is missing",
        {"config": secure({"tokenFile": "none", **TOKEN})},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "a token's file and a password",
        {"config": secure({"tokenFile": "token", "username": "a", "password": "b"}), "token": "f"},
        says="both a token and a username",
    ),
    Case(
        "--token, which a token's file goes before",
        {"config": secure({"tokenFile": "token"}), "token": "file"},
        flags=("--token=f",),
        server="tls",
        headers=bearer("file"),
    ),
    Case(
        "--token and a password",
        {"config": secure({"username": "a", "password": "b"})},
        flags=("--token=f",),
        says="both a token and a username",
    ),
    Case(
        "--token over a plugin",
        {"config": secure(plugin()), "plugin": "#!/bin/sh\nexit 1\n"},
        flags=("--token=f",),
        server="tls",
        headers=bearer("f"),
    ),
    Case("a password alone", {"config": secure({"password": "b"})}, says="no credentials"),
    Case(
        "a name alone",
        {"config": secure({"username": "a"})},
        server="tls",
        headers=(("authorization", "Basic YTo="),),
    ),
    Case(
        "--username, --password",
        {"config": secure({})},
        flags=("--username=a", "--password=b"),
        server="tls",
        headers=(("authorization", "Basic YTpi"),),
    ),
    Case(
        "--username over the file's",
        {"config": secure({"username": "x", "password": "b"})},
        flags=("--username=a",),
        server="tls",
        headers=(("authorization", "Basic YTpi"),),
    ),
    Case(
        "--username over a plugin",
        {"config": secure(plugin()), "plugin": "#!/bin/sh\nexit 1\n"},
        flags=("--username=a", "--password=b"),
        server="tls",
        headers=(("authorization", "Basic YTpi"),),
    ),
    Case(
        "--username and a token",
        {"config": secure()},
        flags=("--username=a",),
        says="both a token and a username",
    ),
    Case(
        "--client-certificate over data",
        {
            "config": secure(
                {"client-certificate-data": "$DATA_cert.pem", "client-key-data": "$DATA_key.pem"}
            )
        },
        flags=("--client-certificate=$FILE_cert2.pem", "--client-key=$FILE_key2.pem"),
        says="both client-certificate",
    ),
    Case(
        "--client-certificate whose path is relative",
        {"config": secure({}), "c": "$PEM_cert.pem", "k": "$PEM_key.pem"},
        flags=("--client-certificate=c", "--client-key=k"),
        server="tls",
        certificate="client",
    ),
    Case(
        "a certificate and its key in one file",
        {
            "config": secure({"client-certificate": "both", "client-key": "both"}),
            "both": "$PEM_key.pem$PEM_cert.pem",
        },
        server="tls",
        certificate="client",
    ),
    Case(
        "a certificate with text before it",
        {
            "config": secure({"client-certificate": "c", "client-key": "$FILE_key.pem"}),
            "c": "Bag Attributes\n  x: y\n$PEM_cert.pem",
        },
        server="tls",
        certificate="client",
    ),
    Case(
        "a key that is empty",
        {"config": secure({**CERT, "client-key": "k"}), "k": ""},
        says="cannot be read",
    ),
    Case(
        "a certificate goes before a plugin",
        {"config": secure({**CERT, **plugin()}), "plugin": TOKEN_SCRIPT},
        server="tls",
        certificate="client",
    ),
    Case(
        "--disable-compression",
        {"config": secure()},
        flags=("--disable-compression",),
        server="tls",
        headers=bearer("t"),
        gzip=False,
    ),
    Case(
        "whom to impersonate, beyond ASCII",
        {"config": config(user={"as": "j\u00f6rg\u20ac"})},
        server="http",
        headers=(("impersonate-user", "j\u00f6rg\u20ac".encode().decode("latin-1")),),
    ),
    Case(
        "whom to impersonate, with a line break",
        {"config": config(user={"as": "a\nb"})},
        says="the header Impersonate-User cannot be sent",
    ),
    Case(
        "--as-group over the file's",
        {"config": config(user={"as": "jane", "as-groups": ["a"]})},
        flags=("--as-group=b,c",),
        server="http",
        headers=(("impersonate-group", "b,c"), ("impersonate-user", "jane")),
    ),
    Case("a uid without a user", {"config": config(user={"as-uid": "1"})}, says="no user (--as)"),
    Case(
        "an extra field that is no list",
        {"config": config(user={"as": "a", "as-user-extra": {"a": "x"}})},
        says="not a list",
    ),
    # -- odd plugins ----------------------------------------------------------------------------
    Case(
        "a plugin that prints YAML",
        {
            "config": secure(plugin()),
            "plugin": "#!/bin/sh\n"
            f"printf 'kind: ExecCredential\\napiVersion: {V1}\\nstatus: {{token: y1}}\\n'\n",
        },
        server="tls",
        headers=bearer("y1"),
    ),
    Case(
        "a plugin that prints more",
        {"config": secure(plugin()), "plugin": TOKEN_SCRIPT + "echo s3cret\n"},
        says="did not print an ExecCredential",
    ),
    Case(
        "a plugin whose token is a number",
        {"config": secure(plugin()), "plugin": printing('{"token": 5}')},
        says="token of status",
    ),
    Case(
        "a plugin whose token has a line break",
        {"config": secure(plugin()), "plugin": printing('{"token": "s3cret\\\\nx"}')},
        says="Authorization cannot be sent",
    ),
    Case(
        "a plugin that gives a certificate without a key",
        {"config": secure(plugin()), "plugin": printing('{"clientCertificateData": "x"}')},
        says="only one of certificate",
    ),
    Case(
        "a plugin that gives what has expired",
        {
            "config": secure(plugin()),
            "plugin": printing('{"token": "old", "expirationTimestamp": "2000-01-01T00:00:00Z"}'),
        },
        server="tls",
        headers=bearer("old"),
    ),
    Case(
        "a plugin that says until when",
        expiring("2100-01-01T00:00:00.123456789+02:00"),
        server="tls",
        headers=bearer("a"),
    ),
    Case(
        "a plugin whose time has no zone",
        expiring("2100-01-01T00:00:00"),
        says="invalid expirationTimestamp",
    ),
    *(
        Case(
            f"a plugin whose time is {time!r}",
            expiring(time),
            says="invalid expirationTimestamp",
        )
        for time in ("", "2100-01-01t00:00:00z", "2100-01-01 00:00:00Z", "2100-02-30T00:00:00Z")
    ),
    Case(
        "a plugin whose hour has one digit",
        expiring("2100-01-01T0:00:00Z"),
        server="tls",
        headers=bearer("a"),
    ),
    Case(
        "a plugin that prints no kind",
        {
            "config": secure(plugin()),
            "plugin": TOKEN_SCRIPT.replace('"kind": "ExecCredential", ', ""),
        },
        server="tls",
        headers=bearer("from-plugin"),
    ),
    Case(
        "a plugin that prints brackets alone",
        {"config": secure(plugin()), "plugin": "#!/bin/sh\nprintf '[%.0s' $(seq 100000)\n"},
        says="did not print an ExecCredential",
    ),
    Case(
        "a plugin with an argument that is null",
        {"config": secure(plugin(args=[NULL])), "plugin": TOKEN_SCRIPT},
        server="tls",
        headers=bearer("from-plugin"),
    ),
    Case(
        "a plugin with an environment that empties",
        {
            "config": secure(plugin(env=[{"name": "E", "value": ""}, {"name": "F"}])),
            "plugin": printing('{"token": "a$E-$F"}'),
        },
        {"E": "no", "F": "no"},
        server="tls",
        headers=bearer("a-"),
    ),
    Case(
        "a plugin with a name of two parts in its environment",
        {
            "config": secure(plugin(env=[{"name": "A=B", "value": "c"}])),
            "plugin": printing('{"token": "x$A"}'),
        },
        server="tls",
        headers=bearer("xB=c"),
    ),
    Case(
        "a plugin that is not on PATH but on the PATH that it gets",
        {
            "config": secure(plugin(command="kt", env=[{"name": "PATH", "value": "$DIR/bin"}])),
            "bin/kt": TOKEN_SCRIPT,
        },
        says="kt was not found",
    ),
    Case(
        "a plugin in the current folder",
        {"config": secure(plugin(command="plugin")), "plugin": TOKEN_SCRIPT},
        {"PATH": ".:$PATH"},
        says="plugin was not found",
    ),
    Case(
        "a plugin whose path is relative",
        {"below/config": secure(plugin(command="../bin/p")), "bin/p": TOKEN_SCRIPT},
        {"KUBECONFIG": "below/config"},
        server="tls",
        headers=bearer("from-plugin"),
    ),
    Case(
        "a plugin that is not executable",
        {"config": secure(plugin(command="./p")), "p": "echo"},
        says="was not found",
    ),
    Case(
        "a plugin that is ended by a signal",
        {"config": secure(plugin()), "plugin": "#!/bin/sh\nkill -9 $$\n"},
        says="failed with exit code -9",
    ),
    Case(
        "a plugin and an auth provider",
        {"config": secure({**plugin(), "auth-provider": {"name": "oidc"}}), "plugin": TOKEN_SCRIPT},
        says="both exec and auth-provider",
    ),
    Case(
        "an auth provider that was removed: azure",
        {"config": secure({"auth-provider": {"name": "azure"}})},
        says="kubelogin",
    ),
    Case(
        "an auth provider that nobody knows",
        {"config": secure({"auth-provider": {"name": "openstack"}, **TOKEN})},
        says="'openstack', which does not exist",
    ),
    Case(
        "an auth provider over plain HTTP",
        {"config": config(user={"auth-provider": {"name": "gcp"}})},
        says="gke-gcloud-auth-plugin",
        kubectl="http",
    ),
    Case(
        "oidc", {"config": secure(oidc(**{"id-token": VALID}))}, server="tls", headers=bearer(VALID)
    ),
    Case(
        "oidc and a token",
        {"config": secure({**oidc(**{"id-token": VALID}), **TOKEN})},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "oidc and a certificate",
        {"config": secure({**oidc(**{"id-token": VALID}), **CERT})},
        server="tls",
        headers=bearer(VALID),
        certificate="client",
    ),
    Case(
        "oidc whose token has expired",
        {"config": secure(oidc(**{"id-token": EXPIRED}))},
        says="its id-token has expired",
    ),
    Case(
        "oidc whose token cannot be renewed",
        {"config": secure(oidc(**{"id-token": EXPIRED, "refresh-token": "s3cret"}))},
        says="its id-token has expired",
    ),
    Case("oidc without a token", {"config": secure(oidc())}, says="it has no id-token"),
    Case(
        "oidc whose token is none",
        {"config": secure(oidc(**{"id-token": "s3cret"}))},
        says="is not a JWT",
    ),
    Case(
        "oidc without settings",
        {"config": secure({"auth-provider": {"name": "oidc"}})},
        says="it has no idp-issuer-url",
    ),
    # -- odd authorities ------------------------------------------------------------------------
    Case(
        "an authority with text around it",
        {
            "config": secure(**{"certificate-authority": "ca"}),
            "ca": "Aussteller: Gr\u00fcn\n$PEM_ca.pem\nend\n",
        },
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "two authorities",
        {"config": secure(**{"certificate-authority": "ca"}), "ca": "$PEM_old-ca.pem$PEM_ca.pem"},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "an authority beside what is none",
        {
            "config": secure(**{"certificate-authority": "ca"}),
            "ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n$PEM_ca.pem",
        },
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "an authority's file that is empty, for the system's",
        {"config": secure(**{"certificate-authority": "ca"}), "ca": ""},
        {"SSL_CERT_FILE": "$FILE_ca.pem"},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "the system's authorities in a folder",
        {"config": config({"server": "$tls"}, TOKEN), "d/x.pem": "$PEM_ca.pem"},
        {"SSL_CERT_DIR": "/nowhere:$DIR/d"},
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "--certificate-authority whose path is relative",
        {"below/config": config({"server": "$tls"}, TOKEN), "ca": "$PEM_ca.pem"},
        {"KUBECONFIG": "below/config"},
        flags=("--certificate-authority=ca",),
        server="tls",
        headers=bearer("t"),
    ),
    Case(
        "--insecure-skip-tls-verify and --certificate-authority",
        {"config": secure()},
        flags=("--insecure-skip-tls-verify", "--certificate-authority=$FILE_ca.pem"),
        says="insecure-skip-tls-verify",
    ),
    Case(
        "tls-server-name with an address",
        {"config": secure(**{"tls-server-name": "127.0.0.1"})},
        server="tls",
        headers=bearer("t"),
    ),
    # -- odd proxies ----------------------------------------------------------------------------
    Case(
        "HTTPS_PROXY goes before https_proxy",
        {"config": config(PROXIED, TOKEN)},
        {"HTTPS_PROXY": HTTP, "https_proxy": "http://127.0.0.1:1"},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "HTTPS_PROXY that is empty",
        {"config": config(PROXIED, TOKEN)},
        {"HTTPS_PROXY": "", "https_proxy": HTTP},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "ALL_PROXY is for others",
        {"config": config({**PROXIED, "server": "https://api.invalid"}, TOKEN)},
        {"ALL_PROXY": HTTP, "all_proxy": HTTP},
        says="cannot be reached",
    ),
    Case(
        "HTTPS_PROXY with half an address",
        {"config": config(PROXIED, TOKEN)},
        {"HTTPS_PROXY": "http://me:s3cret@[bad"},
        says="(HTTPS_PROXY) cannot be used",
    ),
    Case(
        "HTTPS_PROXY with socks5",
        {"config": config(PROXIED, TOKEN)},
        {"HTTPS_PROXY": "socks5://me:pw@127.0.0.1:$PORT_socks"},
        **ASKS_PROXY,
        proxied="SOCKS api.example as me:pw",
    ),
    Case(
        "HTTPS_PROXY with socks5h",
        {"config": config(PROXIED, TOKEN)},
        {"HTTPS_PROXY": "socks5h://127.0.0.1:$PORT_socks"},
        **ASKS_PROXY,
        proxied="SOCKS api.example as ",
    ),
    Case(
        "proxy-url with socks5h",
        {"config": config({**PROXIED, "proxy-url": "socks5h://127.0.0.1:$PORT_socks"}, TOKEN)},
        says="scheme",
    ),
    *(
        Case(
            f"{name} with the password {url}",
            {"config": config({**PROXIED, **cluster}, TOKEN)},
            environment,
            says=f"the proxy '{shown}' ({name}) cannot be used: it is not a valid URL",
        )
        for url, shown in [
            ("http://me:s3cret/x@proxy", "proxy"),
            ("http://me:s3cret", "http://me:..."),
            ("http://me:s3cret@proxy\u2100", "proxy\u2100"),
        ]
        for name, cluster, environment in [
            ("proxy-url", {"proxy-url": url}, {}),
            ("HTTPS_PROXY", {}, {"HTTPS_PROXY": url}),
        ]
    ),
    *(
        Case(
            f"a server with the password {url}",
            {"config": config({**TLS, "server": url}, TOKEN)},
            says=f"server '{shown}' is neither an http or https URL",
        )
        for url, shown in [
            ("https://me:s3cret/x@server", "server"),
            ("https://me:s3cret", "https://me:..."),
            ("https://me:s3cret@server\u2100", "server\u2100"),
        ]
    ),
    Case(
        "proxy-url with half an address",
        {"config": config({**PROXIED, "proxy-url": "http://[b"}, TOKEN)},
        says="(proxy-url) cannot be used",
    ),
    Case(
        "proxy-url with a user alone",
        {"config": config({**PROXIED, "proxy-url": "http://me@127.0.0.1:$PORT_proxy"}, TOKEN)},
        **ASKS_PROXY,
        proxied="CONNECT api.example as me:",
    ),
    Case(
        "proxy-url with a path",
        {"config": config({**PROXIED, "proxy-url": HTTP + "/x?y"}, TOKEN)},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "proxy-url in capitals",
        {"config": config({**PROXIED, "proxy-url": "HTTP://127.0.0.1:$PORT_proxy"}, TOKEN)},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "an https proxy with a certificate that the cluster's authority signed",
        {
            "config": config(
                {**PROXIED, "proxy-url": "https://me:pw@localhost:$PORT_tlsproxy"}, TOKEN
            )
        },
        **ASKS_PROXY,
        proxied="CONNECT api.example as me:pw",
    ),
    Case(
        "an https proxy, insecure",
        {
            "config": config(
                {
                    "server": "https://api.example:6443",
                    "insecure-skip-tls-verify": True,
                    "proxy-url": "https://localhost:$PORT_tlsproxy",
                },
                TOKEN,
            )
        },
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    Case(
        "an https proxy with a certificate that no authority signed",
        {
            "config": config(
                {
                    "server": "https://api.example",
                    "certificate-authority": "$FILE_old-ca.pem",
                    "proxy-url": "https://localhost:$PORT_tlsproxy",
                },
                TOKEN,
            )
        },
        says="not trusted",
    ),
    Case(
        "proxy-url goes before NO_PROXY",
        {"config": config({**PROXIED, "proxy-url": HTTP}, TOKEN)},
        {"NO_PROXY": "*"},
        **ASKS_PROXY,
        proxied="CONNECT api.example as ",
    ),
    *(
        Case(
            f"NO_PROXY={text}",
            {"config": config({**PROXIED, "server": "https://api.invalid"}, TOKEN)},
            {"HTTPS_PROXY": HTTP, name: text},
            says="cannot be reached: ",
        )
        for name, text in [
            ("NO_PROXY", "*"),
            ("no_proxy", "api.invalid"),
            ("NO_PROXY", "API.INVALID"),
            ("NO_PROXY", "*.invalid"),
            ("NO_PROXY", "api.invalid:443"),
        ]
    ),
    *(
        Case(
            f"NO_PROXY={text}, which is another",
            {"config": config(PROXIED, TOKEN)},
            {"HTTPS_PROXY": HTTP, "NO_PROXY": text},
            **ASKS_PROXY,
            proxied="CONNECT api.example as ",
        )
        for text in [".api.example", "foo api.example", "*.api.example"]
    ),
    Case(
        "an IPv4 address in IPv6 goes past HTTPS_PROXY",
        {"config": config({**NAMED, "server": "https://[::ffff:127.0.0.1]:1"}, TOKEN)},
        {"HTTPS_PROXY": HTTP},
        says="cannot be reached: ",
    ),
    # -- in a pod -------------------------------------------------------------------------------
    Case("a pod", POD, {"KUBECONFIG": ""}, pod=True, server="tls", headers=bearer("in-pod")),
    Case(
        "a pod without a service account",
        pod=False,
        env={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "$PORT_tls"},
        says="no kubeconfig names a server",
        kubectl="elsewhere",
    ),
    Case("a kubeconfig in a pod", {**POD, "config": PLAIN}, pod=True, server="http"),
    Case(
        "an empty kubeconfig in a pod",
        {**POD, "config": ""},
        flags=("--kubeconfig=config",),
        pod=True,
        server="tls",
        headers=bearer("in-pod"),
    ),
    Case(
        "a kubeconfig without a current context in a pod",
        {**POD, "config": config(**{"current-context": None})},
        pod=True,
        server="tls",
        headers=bearer("in-pod"),
    ),
    Case(
        "--token in a pod", POD, flags=("--token=f",), pod=True, server="tls", headers=bearer("f")
    ),
    Case(
        "--certificate-authority in a pod",
        POD,
        flags=("--certificate-authority=$FILE_old-ca.pem",),
        pod=True,
        says="not trusted",
    ),
    Case("--server in a pod", POD, flags=("--server=$tls",), pod=True, says="no credentials"),
    Case("--context in a pod", POD, flags=("--context=x",), pod=True, says="no context 'x'"),
    Case("--user in a pod", POD, flags=("--user=x",), pod=True, says="no user 'x'"),
    Case("--cluster in a pod", POD, flags=("--cluster=x",), pod=True, says="no cluster 'x'"),
    Case(
        "KUBERNETES_MASTER in a pod",
        POD,
        {"KUBERNETES_MASTER": "$http"},
        pod=True,
        server="tls",
        headers=bearer("in-pod"),
    ),
    Case(
        "--as in a pod",
        POD,
        flags=("--as=jane",),
        pod=True,
        server="tls",
        headers=(*bearer("in-pod"), ("impersonate-user", "jane")),
        kubectl="elsewhere",
    ),
]

# Where commands work without -n.
SPACED = config(
    contexts=[
        {"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "here"}},
        {"name": "d", "context": {"cluster": "k", "user": "u", "namespace": "there"}},
        {"name": "e", "context": {"cluster": "k", "user": "u"}},
    ]
)
NAMESPACES = [
    (Case("the current context's", {"config": SPACED}), "here"),
    (Case("that of --context", {"config": SPACED}, flags=("--context=d",)), "there"),
    (Case("none in the context", {"config": SPACED}, flags=("--context=e",)), "default"),
    (Case("-n", {"config": SPACED}, flags=("-n", "flag")), "flag"),
    (
        Case("the context's, whatever --cluster says", {"config": SPACED}, flags=("--cluster=k",)),
        "here",
    ),
    (Case("that of the pod", {**POD, "pod/namespace": "inside\n"}, pod=True), "inside"),
    (
        Case(
            "POD_NAMESPACE",
            {**POD, "pod/namespace": "inside"},
            {"POD_NAMESPACE": "named"},
            pod=True,
        ),
        "named",
    ),
    (Case("a pod that does not say", POD, pod=True), "default"),
    (
        Case(
            "the pod's where a context has none",
            {**POD, "config": SPACED, "pod/namespace": "inside"},
            flags=("--context=e",),
            pod=True,
        ),
        "inside",
    ),
    (
        Case(
            "the context's in a pod", {**POD, "config": SPACED, "pod/namespace": "inside"}, pod=True
        ),
        "here",
    ),
    (
        Case(
            "POD_NAMESPACE outside a pod",
            {"config": SPACED},
            {"POD_NAMESPACE": "named"},
            flags=("--context=e",),
        ),
        "default",
    ),
]
