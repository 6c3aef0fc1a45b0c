"""`controller`: run the controller, or install it in a cluster; one file per verb."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli.controller import install, run, status, uninstall
from kubectl_istio_udp.cli.flags import Group


@click.group("controller", cls=Group)
def command() -> None:
    """Expose Services by annotation, from within the cluster.

    The controller exposes Services that have the annotation kubectl-istio-udp/expose, for example
    "5300:53". It repairs their objects, and deletes them when the annotation is removed. It also
    updates lists of endpoints that `expose` wrote.
    """


for _verb in (run, install, status, uninstall):
    command.add_command(_verb.command)
