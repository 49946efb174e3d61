"""Helpers without knowledge of networks or searches: files, seeds, devices, validation, and texts of messages."""
