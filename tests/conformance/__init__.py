"""What every broker promises. A new one passes all of this."""
