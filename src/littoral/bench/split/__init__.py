"""`littoral bench split`: bytes against accuracy, for our splits and for everything that they are held against."""
