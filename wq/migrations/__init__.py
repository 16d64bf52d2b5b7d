"""How the databases of a deployment become what this version needs: two histories, catalog and shard, one file per revision."""
