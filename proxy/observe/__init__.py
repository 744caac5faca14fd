"""What operators see of requests: the last ones, why a prompt was evaluated again, and traces."""
