"""Proving that datagrams arrive: what runs in the network-tool pod, and what it means."""
