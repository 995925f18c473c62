"""Who moves the bytes: the scheduler, worker processes, the inline pool."""
