"""/proc/net of a gateway pod and of a server's pod, as Linux 6 wrote it."""

from __future__ import annotations

import pytest

from kubectl_istio_udp.model.proxystate import UdpSocket, UdpStatus, read_udp_status

UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout
 6128: 0800F40A:BABB 0500F40A:0035 01 00000000:00000000 00:00000000 00000000  1337 0 5314 2 a3 0
12777: 00000000:14B4 00000000:0000 07 00000000:00000300 00:00000000 00000000  1337 0 5311 2 67 12
"""
ANY6 = "0" * 32
REST = "00000000:00000000 00:00000000 00000000 0 0 6051 2 54"
UDP6 = f"""\
  sl  local_address                         remote_address                        st tx_queue
 9969: {ANY6}:158A {ANY6}:0000 07 {REST} 1
 9970: 0000000000000000FFFF00000900F40A:158A 0000000000000000FFFF00000800F40A:C883 01 {REST} 0
 9971: B80D0120000000000000000001000000:0035 {ANY6}:0000 07 {REST} 0
"""
SNMP = """\
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn
Tcp: 1 200 120000 -1
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
Udp: 20 3 1 20 1 0
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors
UdpLite: 500 500 500 500 500 500
"""
SNMP6 = "Icmp6InMsgs\t9\nUdp6InDatagrams \t7\nUdp6NoPorts\t1\n"
ANY = UdpSocket("0.0.0.0:5300", queued=768, drops=12)
SESSION = UdpSocket("10.244.0.8:47803", "10.244.0.5:53")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", UdpStatus()),
        (UDP, UdpStatus((SESSION, ANY))),
        (
            UDP6,
            UdpStatus(
                (
                    UdpSocket(":::5514", drops=1),
                    UdpSocket("10.244.0.9:5514", "10.244.0.8:51331"),
                    UdpSocket("2001:db8::1:53"),
                )
            ),
        ),
        (SNMP, UdpStatus((), read=20, refused=3, dropped=1)),
        (SNMP6, UdpStatus((), read=7, refused=1)),
        (UDP + SNMP + SNMP6, UdpStatus((SESSION, ANY), read=27, refused=4, dropped=1)),
    ],
)
def test_reads_the_sockets_and_counters(text: str, status: UdpStatus) -> None:
    assert read_udp_status(text) == status


def test_a_socket_has_a_port() -> None:
    assert (ANY.port, SESSION.port, UdpSocket("2001:db8::1:53").port) == (5300, 47803, 53)
