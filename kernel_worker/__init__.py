"""What runs behind `notebook_ext`: the broker, the host agents and the workers."""
