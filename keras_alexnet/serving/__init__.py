"""The functions that an exported model serves."""
