"""The types of the domain: Services, gateways, exposures, ports, durations. No I/O.

Every type is a frozen dataclass that rejects invalid values in its constructor, so that later
code need not validate them again.
"""
