-- The journal of one broker: the facts that were decided about spawned calls, with their payloads.
-- `user_version` is the version of this schema, `application_id` says that the file is ours.

PRAGMA application_id = 0x4e42584a;
PRAGMA user_version = 4;

CREATE TABLE calls (
    id          INTEGER PRIMARY KEY,
    call        TEXT NOT NULL UNIQUE,
    finished_at REAL,                           -- Unix seconds; NULL while inputs are open
    expired     INTEGER NOT NULL DEFAULT 0,     -- 1: its records are gone, only this row is left
    name        TEXT NOT NULL DEFAULT '',       -- its function's, for people
    app         TEXT NOT NULL DEFAULT '',
    submitted_at REAL NOT NULL DEFAULT 0,       -- Unix seconds
    module      TEXT NOT NULL DEFAULT '',
    root        TEXT NOT NULL DEFAULT '',       -- the call at the root of its tree; itself, mostly
    parent      TEXT NOT NULL DEFAULT '',       -- the call in an input of which it was made …
    parent_index INTEGER NOT NULL DEFAULT 0,    -- … and that input
    tally       BLOB                            -- inputs per outcome (msgpack array); NULL: open
);
CREATE INDEX calls_by_time ON calls (submitted_at);
CREATE INDEX calls_by_root ON calls (root);
CREATE INDEX calls_by_end ON calls (expired, finished_at);

-- `body` is a `kernel_worker.records` struct (msgpack). `payload` is the msgpack array of its
-- frames where they are small together; otherwise NULL, and they are rows of `frames`. A call's
-- environment variables are no part of its record but a frame beside it, sealed (`seal.py`).
CREATE TABLE records (
    id      INTEGER PRIMARY KEY,
    call    INTEGER NOT NULL REFERENCES calls (id),
    kind    TEXT NOT NULL,
    body    BLOB NOT NULL,
    payload BLOB
);
CREATE INDEX records_by_call ON records (call, id);

-- A frame longer than a row may be is several rows of the same position.
CREATE TABLE frames (
    id       INTEGER PRIMARY KEY,
    record   INTEGER NOT NULL REFERENCES records (id),
    position INTEGER NOT NULL,
    piece    BLOB NOT NULL
);
CREATE INDEX frames_by_record ON frames (record, id);

-- What travels once, by content address, for as long as an open call or a deployment needs it.
-- Environments are sealed (`seal.py`).
CREATE TABLE objects (
    id     INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,
    piece  BLOB NOT NULL
);
CREATE INDEX objects_by_digest ON objects (digest, id);

CREATE TABLE call_objects (
    call   INTEGER NOT NULL REFERENCES calls (id),
    digest TEXT NOT NULL,
    PRIMARY KEY (call, digest)
) WITHOUT ROWID;
CREATE INDEX call_objects_by_digest ON call_objects (digest);

-- Every version of every deployed app; `body` is a `kernel_worker.records.Deployment`.
CREATE TABLE deployments (
    id       INTEGER PRIMARY KEY,
    app      TEXT NOT NULL,
    version  INTEGER NOT NULL,
    ended_at REAL,                              -- Unix seconds; NULL while it is in force
    body     BLOB NOT NULL,
    UNIQUE (app, version)
);

-- What the versions in force need.
CREATE TABLE deployment_objects (
    deployment INTEGER NOT NULL REFERENCES deployments (id),
    digest     TEXT NOT NULL,
    PRIMARY KEY (deployment, digest)
) WITHOUT ROWID;
CREATE INDEX deployment_objects_by_digest ON deployment_objects (digest);

-- What calls wrote: `body` is a msgpack array of `messages.LogEntry`.
CREATE TABLE logs (
    id   INTEGER PRIMARY KEY,
    call INTEGER NOT NULL REFERENCES calls (id),
    body BLOB NOT NULL
);
CREATE INDEX logs_by_call ON logs (call, id);
