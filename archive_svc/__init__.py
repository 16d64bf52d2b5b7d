"""The archive: history as Parquet objects, with a manifest that proves them complete."""
