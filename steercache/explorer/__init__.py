"""Looking at a cache in a browser: a read-only web server on this machine's own address (loopback)."""

from steercache.explorer.server import serve as serve

__all__ = ["serve"]
