"""Where bytes live: one sparse segment of shared memory, slots in it, leases and views on slots."""
