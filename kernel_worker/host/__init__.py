"""The host agent: it starts, watches, stops, kills and reaps the workers of one machine."""
