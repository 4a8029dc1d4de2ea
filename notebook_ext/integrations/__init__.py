"""Doors that other libraries know, to kernel workers; each is imported where it is asked for."""
