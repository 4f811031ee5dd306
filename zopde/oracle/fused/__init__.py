"""Several layers passed in one go, where what a probe moves is small."""
