"""Alerts and rules: not built yet; their RPCs answer UNIMPLEMENTED (mesh/unserved.py)."""
