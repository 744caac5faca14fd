"""What the gateway knows of each request: those that run, those that ended, and why a prompt was
evaluated again."""
