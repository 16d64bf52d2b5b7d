"""Moving slots from shard to shard while everything runs: see docs/resharding.md."""
