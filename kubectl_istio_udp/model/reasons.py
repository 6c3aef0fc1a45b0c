"""The reasons of the controller's Events: the result of a Service's request in one word."""

from __future__ import annotations

EXPOSED, FORBIDDEN, INVALID = "Exposed", "ExposeForbidden", "ExposeInvalid"
PORT_TAKEN, NO_GATEWAY, NOT_TAKEN = "PortTaken", "NoGateway", "ExposeRefused"
NOT_WRITTEN = "ExposeFailed"
# Warnings about a Service that is exposed.
HOST_TAKEN, ENDPOINT_REFUSED = "HostTaken", "EndpointRefused"
