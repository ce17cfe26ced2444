"""Decoding: the reference loop that defines it, the engine that is fast, and a file for each way of
decoding."""
