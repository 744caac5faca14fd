"""Batches of requests: the lines of an uploaded file, answered in idle slots.

    validating ──> in_progress ──> finalizing ──> completed | expired
        │               └────> cancelling ──> cancelled
        └──> failed

The lines are read in pieces (`input_file`), and each is answered as if its client had sent it. A
thread runs one batch after the other (`batch_run`). Results are in the
database until the output files are written (`store.request_batches`).
"""
