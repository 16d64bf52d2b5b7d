"""Benchmarks: each measures one path of the mesh, beside a reference measured in the same run."""
