"""Assigns requests to slots: a pure placement policy, a fair queue and one lock around both."""
