"""What a chat template takes and what its model writes, learned by rendering probes."""
