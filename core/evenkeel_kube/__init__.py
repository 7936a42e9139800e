"""Kubernetes objects to and from the core's types, and the watch that feeds them."""
