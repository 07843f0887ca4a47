"""The cloud's side: teacher, adaptation, gate, record and gateway."""
