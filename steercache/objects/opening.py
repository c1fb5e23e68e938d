"""The object store behind an address."""

from steercache.objects.addresses import StoreAddress, parse_address
from steercache.objects.cloud import CloudStore
from steercache.objects.folder import FolderStore
from steercache.objects.interface import ObjectStore


def open_store(address: str | StoreAddress) -> ObjectStore:
    """The store at an address; nothing is asked of it yet.

    Raises:
        UsageError: it is no address. MissingExtraError: obstore is not installed.
    """
    parsed = parse_address(address) if isinstance(address, str) else address
    return FolderStore(parsed) if parsed.scheme == "file" else CloudStore(parsed)
