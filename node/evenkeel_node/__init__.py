"""What runs on the servers: engines, the feeder and the agent."""
