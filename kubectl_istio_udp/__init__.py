"""kubectl istio-udp: expose UDP Services through an Istio gateway, and prove that they answer."""

__version__ = "0.1.0"
