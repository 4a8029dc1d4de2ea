"""The broker's shell around the pure core: sockets, processes, the journal, in five verbs."""
