"""What the product speaks about: Services, gateways, exposures, ports, durations. No I/O.

Every type is a frozen dataclass that refuses bad values when it is made, so that no later
layer has to ask again whether a port is a port.
"""
