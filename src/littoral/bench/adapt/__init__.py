"""The adaptation table: rows of (method, stream, teacher, seed), each finished row a file, and a summary of them."""
