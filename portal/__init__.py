"""Facing people and clients: the REST API with watch, who may do what, and the command line."""
