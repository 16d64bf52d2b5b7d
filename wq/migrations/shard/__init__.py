"""The revisions of a shard, in the order of their numbers. A released one never changes."""
