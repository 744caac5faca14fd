"""The referee: finds an answer that repeats itself, and bounds thoughts. Pure."""
