"""The archive: not built yet; its RPCs answer UNIMPLEMENTED (mesh/unserved.py)."""
