"""Ganger: a distributed worker runtime that runs every step on the worker best suited to it."""
