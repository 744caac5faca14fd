"""What operators see of requests: traces for OpenTelemetry."""
