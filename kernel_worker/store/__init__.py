"""The blob store: large buffers of payloads, in files that processes of one machine share."""
