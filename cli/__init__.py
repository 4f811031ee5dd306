"""The command line. It parses, makes one call, prints; it holds no arithmetic."""
