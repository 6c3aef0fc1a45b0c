"""Situations in which a cluster is looked for, and what kubectl asks which server then.

tests/unit/test_kubeconfig_cases.py holds the plugin to them; tests/cluster/test_kubectl.py runs
kubectl beside it, so that they stay true.
"""

from __future__ import annotations

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
        files: contents by name; a mapping is written as YAML.
        env, flags: what the command is run with; KUBECONFIG is `$DIR/config` unless it is given.
        server: the recorder that is asked; "" where none is, because the command is refused.
        headers: those that say who asks.
        certificate: the client's.
        prefix: path of the API server.
        sni: the name that the TLS handshake asks for.
        proxied: what the proxy is asked for.
        says: a part of the plugin's message where it refuses.
        kubectl: what kubectl does where the plugin refuses and kubectl does not: the server that it
            asks, or `elsewhere` for one that is not there.
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


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def config(
    cluster: Mapping[str, Any] | None = None, user: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A kubeconfig with one of everything; its cluster is `$http` unless it is said."""
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


def secure(user: Mapping[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    """A kubeconfig whose cluster is reached over TLS."""
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


TOKEN_SCRIPT = printing('{"token": "from-plugin"}')
TOLD_SCRIPT = """#!/bin/sh
case $(echo "$KUBERNETES_EXEC_INFO" | tr -d ' ') in
*'"cluster":{'*'"server":"https://'*) told=told ;;
esac
cat <<E
{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
 "status": {"token": "$told"}}
E
"""
ALSO = "$DIR/config:$DIR/second"
PROXIED = {**TLS, "server": "https://api.example:6443"}
ASKS_PROXY = {"server": "tls", "headers": bearer("t"), "sni": "api.example"}

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
        {
            "config": '{"current-context": "c", "kind": "Config", "apiVersion": "v1", '
            '"clusters": [{"name": "k", "cluster": {"server": "$http"}}], "users": [], '
            '"contexts": [{"name": "c", "context": {"cluster": "k"}}]}'
        },
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
        says="not an http or https URL",
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
        says="the kubeconfig asks for",
    ),
    Case(
        "a plugin that gives nothing",
        {"config": secure(plugin()), "plugin": printing("{}")},
        says="neither a token nor a certificate",
    ),
    Case(
        "a plugin that must ask",
        {"config": secure(plugin(interactiveMode="Always")), "plugin": TOKEN_SCRIPT},
        says="standard input is no terminal",
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
        says="holds no certificate",
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
]
