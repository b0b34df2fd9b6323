"""Ganger's dispatcher: the fleet, matching and placement, run state, the service."""
