"""Real engines on this machine: `wq engines`, and wq.engines.engine_set for tests."""

from wq.engines.commands import engines as engines
