"""The settings of a response: named settings change, the others stay."""

from __future__ import annotations

from dataclasses import dataclass

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.model.request import ResponseRequest
from kubectl_istio_udp.model.response import (
    Answer,
    Body,
    ResponseApi,
    ResponseSpec,
    default_name,
    parse_header,
)

_STATUS, _GATEWAY_PORT = 200, 80


@dataclass(frozen=True)
class NamedResponse:
    """The settings that a command line names; None, () and False stand for unnamed ones.

    Attributes:
        path: the path to answer.
        status, prefix: as in Answer.
        content: the body's bytes; b"" for no body.
        binary: whether a body may be other than UTF-8 text.
        headers: headers as `NAME=VALUE`; they replace all headers of the response.
        hosts: the hosts of the requests to answer.
        mesh: whether sidecars answer instead of a gateway.
        gateway_port: the port of the gateway's HTTP server.
        names_gateway: whether a gateway is named.
        create_gateway: whether to create an Istio Gateway if no server is on that port.
        api: a value of ResponseApi, or `auto` to choose again.
        name: the response's name; None to derive it from the path.
    """

    path: str
    status: int | None = None
    content: bytes | None = None
    binary: bool = False
    prefix: bool | None = None
    headers: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    mesh: bool = False
    gateway_port: int | None = None
    names_gateway: bool = False
    create_gateway: bool = False
    api: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Reject settings that are invalid for every response.

        Raises:
            UsageError: a value is out of range, a header is named twice, or the response would be
                both at sidecars and at a gateway.
        """
        if self.mesh and self.at_gateway:
            raise UsageError(
                "--mesh answers at sidecars and cannot be combined with --gateway, "
                "--gateway-selector and --create-gateway",
                hints=["to answer at a gateway, omit --mesh"],
            )
        if self.name:
            check_dns_label(self.name, "response")
        self._answer(None)

    @property
    def at_gateway(self) -> bool:
        """Whether an option says that a gateway answers."""
        return self.names_gateway or self.create_gateway

    @property
    def response_name(self) -> str:
        """The name of the response."""
        return self.name or default_name(self.path)

    def request(
        self, namespace: str, before: ResponseSpec | None, kept: bytes, *, mesh: bool
    ) -> ResponseRequest:
        """The complete request: named settings, then the response's current ones, then defaults.

        Args:
            namespace: the response's namespace.
            before: the current response; None for a new one.
            kept: its body's bytes.
            mesh: whether sidecars answer.

        Raises:
            UsageError: the settings conflict.
        """
        port = before.gateway_port if before else _GATEWAY_PORT
        return ResponseRequest(
            namespace=namespace,
            answer=self._answer(before.answer if before else None),
            content=kept if self.content is None else self.content,
            name=self.name,
            mesh=mesh,
            gateway_port=self.gateway_port or port,
            api=self._api(before),
            create_gateway=self.create_gateway,
        )

    def _api(self, before: ResponseSpec | None) -> ResponseApi | None:
        if self.api is None:
            return before.api if before else None
        return None if self.api == "auto" else ResponseApi(self.api)

    def _answer(self, before: Answer | None) -> Answer:
        headers = tuple(map(parse_header, self.headers))
        names = [name for name, _ in headers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UsageError(f"--header {twice} is given twice")
        kept = before or Answer(self.path, _STATUS)
        named = Body.of(self.content, self.binary) if self.content else None
        return Answer(
            path=self.path,
            status=kept.status if self.status is None else self.status,
            body=kept.body if self.content is None else named,
            prefix=kept.prefix if self.prefix is None else self.prefix,
            headers=headers or kept.headers,
            hosts=tuple(dict.fromkeys(self.hosts)) or kept.hosts,
        )
