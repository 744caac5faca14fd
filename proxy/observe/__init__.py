"""What the gateway knows of each request, and why a prompt was evaluated again."""
