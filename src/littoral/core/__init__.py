"""What decides: pure functions and small state holders on arrays. No file, socket, clock, thread or hidden seed."""
