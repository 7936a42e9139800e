"""A real local Kubernetes cluster without Docker."""
