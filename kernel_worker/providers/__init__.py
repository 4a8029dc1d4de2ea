"""Providers: an engine that is there already (Ray, Dask …) places our hosts on its machines.

A *provider's agent* (`agent`, a process of its own) is a client of the broker. It tells the broker
which hosts the engine could give, hears which workers there is no place for, decides (`fleet`,
pure) which hosts to request and which to give back, and has one *provider* do it: `local`, `ray`,
`dask` or `slurm`, each a file, by the protocol in `provider`. On the engine's machine `node` starts
the host: `notebook-ext host start` as anybody would, with a connection file (in a batch job, `job`
has it do so). From then on it is a host like any other: calls, leases and failures are between it
and the broker.

The engine's library is imported by its own file alone, in the agent's process alone.
"""
