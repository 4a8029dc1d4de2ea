"""The core: a pure, deterministic state machine; README.md beside this file is its theory."""
