"""Templates and workers: the processes that load users' functions and run their inputs."""
