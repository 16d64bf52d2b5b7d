"""The bytes of a CatalogContext -> which sites there are."""

from waterquality.v1 import log_pb2

from mesh.codec.wire import decode


def read_site_ids(content: bytes) -> frozenset[str]:
    """Raises InvalidArgument (UNREADABLE_RECORD) for other bytes."""
    return frozenset(site.site_id for site in decode(log_pb2.CatalogContext, content).sites)
