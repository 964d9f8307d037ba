"""Choosing among things: the planners, and the one generic loop that runs them."""
