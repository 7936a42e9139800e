"""The scheduler extender: filter, prioritize and explain by the game's utility."""
