"""Many recipes on many tasks, cut into shards, on one machine or a Slurm cluster: see `docs/cluster.md`."""
