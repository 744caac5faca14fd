"""Batches of requests: the lines of an uploaded file, answered in idle slots.

    validating ──> in_progress ──> finalizing ──> completed | expired
        │               └────> cancelling ──> cancelled
        └──> failed

A thread answers each line as if its client had sent it (`batch_run`). Results are in the database
until the output files are written (`store.request_batches`).
"""
