"""Models that the gateway starts itself: their processes, and who may run."""
