"""Process-level helpers: cancellation, locks, native threads, helper processes."""
