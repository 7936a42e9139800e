"""The evenkeel command."""
