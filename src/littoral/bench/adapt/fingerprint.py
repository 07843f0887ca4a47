"""The fingerprint under its first name: the stamps of rows that took hours say that they leave out this file."""

from littoral.bench.fingerprint import files_of, fingerprint

__all__ = ["files_of", "fingerprint"]
