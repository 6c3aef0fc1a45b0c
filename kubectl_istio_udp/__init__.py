"""kubectl istio-udp: expose UDP Services through an Istio gateway, and verify that they answer."""

# The only place of the version: setup.cfg, `controller install` and packaging/dist.py read it.
__version__ = "0.1.0"
