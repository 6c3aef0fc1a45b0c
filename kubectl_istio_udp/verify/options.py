"""The values of the options of `verify` and `direct query`."""

from __future__ import annotations

from dataclasses import dataclass

from kubectl_istio_udp.model.durations import Duration


@dataclass(frozen=True)
class ProbeOptions:
    """The values of the options for probes and their output.

    Attributes:
        query: `--query`; None for the Service's annotation.
        probe: `--probe`, as typed.
        one_way: whether the protocol has no answers.
        count: the number of probes per hop.
        timeout: how long to wait for each answer; whole seconds, as dig and nc take them.
        tool_pod: `--tool-pod`; None to find one.
        create_tool: whether to create a network-tool pod for this run.
        tool_image: its image.
        output: table, json or yaml.
    """

    query: str | None
    probe: str
    one_way: bool
    count: int
    timeout: Duration
    tool_pod: str | None
    create_tool: bool
    tool_image: str | None
    output: str
