"""Clients, their thin Ray actors, the driver's rounds, the state that crosses the network, checkpoints."""
