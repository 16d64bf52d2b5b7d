"""The whole mesh in one process on the embedded default: what it is made of, in the order in which it starts."""

CATALOG = "catalog"
SHARDS = ("shard_0", "shard_1")
