"""Early exits that follow their user: `littoral bench exits`."""
