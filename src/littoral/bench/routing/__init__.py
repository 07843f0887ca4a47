"""Routing in virtual time: traces of links, a link without a clock, policies, and what each of them gives for what."""
