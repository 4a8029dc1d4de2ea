"""`ssh://HOST`: a broker on another machine, reached by the system's own ssh.

    here                                                             there
    notebook, or outpost ── socket ──► ssh -L ────────────► socket ──► far end ── door ── broker
          └ pipe ── keeper ── pipe ──────┘ └──── pipe ──────────────────┘

Theory. ssh proves who we are and where we are, by the user's configuration, agent and known hosts;
the broker there gets one key listed, that of this end (`keys`), and lets it in by its door as any
other client or host: so what is cut goes on, and payloads are sealed. Nothing listens at a port.
The *keeper* is a process of its own here: it makes the key, runs ssh, runs it again where the
network has cut it, and tidies up. The *far end* is what ssh starts there: it finds or starts the
broker, lists the key for as long as it lives, and passes connections on.

Guarantees: whatever ends the process that connected, also SIGKILL, closes the pipe, and with that
end keeper, ssh, far end and the key, and the files here; the secret key leaves this machine never.
"""
